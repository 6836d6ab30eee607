//! Packets that must be sealed and wait for a session.
//!
//! Of each peer they wait in one queue, in the order in which they were read, and leave in it. How
//! long and how many is bounded, for each peer and for the worker: packets that are held are the
//! only ones that the data path allocates for.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use culvert_seal::session::PeerLink;
use foldhash::fast::RandomState;

/// How long a packet waits: a handshake takes one round trip, and a lost INIT is sent again three
/// times within this. Longer, and the sender would have sent it again itself.
const PATIENCE: Duration = Duration::from_secs(1);

/// Bytes that wait for one peer, and for all of a worker's.
const PER_PEER: usize = 256 << 10;
const PER_WORKER: usize = 4 << 20;

/// What a packet takes besides its bytes, and a queue besides its packets.
const OVERHEAD: usize = 64;

/// What waits in one worker.
#[derive(Debug, Default)]
pub(crate) struct Hold {
    /// By the address of the peer's link in memory, which its queue keeps there.
    queues: HashMap<usize, HeldPackets, RandomState>,
    octets: usize,
    /// When the time of each queue's first packet is over. A thousand queues end at a thousand
    /// moments, at each of which only those are looked at that end then.
    ends: BTreeSet<(Instant, usize)>,
}

/// What waits for one peer.
#[derive(Debug)]
pub(crate) struct HeldPackets {
    link: Arc<PeerLink>,
    packets: VecDeque<Held>,
    octets: usize,
}

#[derive(Debug)]
struct Held {
    until: Instant,
    bytes: Box<[u8]>,
}

/// What became of a packet that was to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    /// It waits, the first for its peer.
    First,
    /// It waits.
    Behind,
    /// There is no room.
    No,
}

impl Hold {
    /// Whether nothing waits.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.queues.is_empty()
    }

    /// Whether something waits for the peer, which nothing must overtake.
    #[inline]
    pub(crate) fn has(&self, link: &Arc<PeerLink>) -> bool {
        !self.queues.is_empty() && self.queues.contains_key(&place(link))
    }

    /// Keeps a packet, if there is room.
    pub(crate) fn push(&mut self, link: &Arc<PeerLink>, bytes: &[u8], now: Instant) -> Kept {
        let size = bytes.len() + OVERHEAD;
        let waiting = self.queues.get(&place(link)).map_or(0, |queue| queue.octets);
        if waiting + size > PER_PEER || self.octets + size > PER_WORKER {
            return Kept::No;
        }
        let until = now + PATIENCE;
        let queue = self.queues.entry(place(link)).or_insert_with(|| HeldPackets::new(link));
        let kept = if queue.packets.is_empty() { Kept::First } else { Kept::Behind };
        queue.packets.push_back(Held { until, bytes: bytes.into() });
        queue.octets += size;
        self.octets += size;
        if kept == Kept::First {
            self.ends.insert((until, place(link)));
        }
        kept
    }

    /// Takes the queues of those peers that have a session.
    pub(crate) fn take_ready(&mut self) -> Vec<HeldPackets> {
        let ready = |_: &usize, queue: &mut HeldPackets| queue.link.outgoing().is_some();
        let ready: Vec<HeldPackets> =
            self.queues.extract_if(ready).map(|(_, queue)| queue).collect();
        for queue in &ready {
            self.octets -= queue.octets;
            if let Some(end) = queue.end() {
                self.ends.remove(&end);
            }
        }
        ready
    }

    /// Puts back what could not leave after all.
    pub(crate) fn put_back(&mut self, queue: HeldPackets) {
        if let Some(end) = queue.end() {
            self.ends.insert(end);
            self.octets += queue.octets;
            self.queues.insert(place(&queue.link), queue);
        }
    }

    /// Takes the packets that have waited for too long.
    pub(crate) fn take_late(&mut self, now: Instant) -> Vec<Box<[u8]>> {
        let mut late = Vec::new();
        while let Some(&(end, place)) = self.ends.first()
            && now >= end
        {
            self.ends.pop_first();
            let Some(queue) = self.queues.get_mut(&place) else { continue };
            let before = queue.octets;
            late.extend(std::iter::from_fn(|| queue.pop_late(now)));
            self.octets -= before - queue.octets;
            if let Some(end) = queue.end() {
                self.ends.insert(end);
            } else {
                self.queues.remove(&place);
            }
        }
        late
    }

    /// When somebody should look whether a packet has waited for too long.
    pub(crate) fn next_end(&self) -> Option<Instant> {
        self.ends.first().map(|(end, _)| *end)
    }
}

impl HeldPackets {
    fn new(link: &Arc<PeerLink>) -> Self {
        Self { link: Arc::clone(link), packets: VecDeque::new(), octets: 0 }
    }

    /// Whether it is this peer that they are for.
    pub(crate) fn are_for(&self, link: &Arc<PeerLink>) -> bool {
        Arc::ptr_eq(&self.link, link)
    }

    /// When the time of the first packet is over, and whose it is.
    fn end(&self) -> Option<(Instant, usize)> {
        self.packets.front().map(|held| (held.until, place(&self.link)))
    }

    /// Takes the first packet, with the end of its time.
    pub(crate) fn pop(&mut self) -> Option<(Instant, Box<[u8]>)> {
        let held = self.packets.pop_front()?;
        self.octets -= held.bytes.len() + OVERHEAD;
        Some((held.until, held.bytes))
    }

    /// Makes the packet the first again.
    pub(crate) fn unpop(&mut self, until: Instant, bytes: Box<[u8]>) {
        self.octets += bytes.len() + OVERHEAD;
        self.packets.push_front(Held { until, bytes });
    }

    fn pop_late(&mut self, now: Instant) -> Option<Box<[u8]>> {
        self.packets.front().filter(|held| now >= held.until)?;
        self.pop().map(|(_, bytes)| bytes)
    }
}

fn place(link: &Arc<PeerLink>) -> usize {
    Arc::as_ptr(link).addr()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::clock;

    fn link() -> Arc<PeerLink> {
        Arc::new(PeerLink::new("peer"))
    }

    #[test]
    fn a_peer_has_its_share_and_the_worker_its_limit() {
        let (mut hold, now) = (Hold::default(), clock::now());
        let packet = [0; 1000];
        let mut keep = |link: &Arc<PeerLink>| {
            let kept = std::iter::from_fn(|| Some(hold.push(link, &packet, now)));
            kept.take_while(|kept| *kept != Kept::No).count()
        };
        let each = PER_PEER / (packet.len() + OVERHEAD);
        let links: Vec<_> = std::iter::repeat_with(link).take(20).collect();
        let kept: Vec<usize> = links.iter().map(&mut keep).collect();
        assert!(kept[..16].iter().all(|kept| *kept == each), "{kept:?}");
        assert_eq!(kept.iter().sum::<usize>(), PER_WORKER / (packet.len() + OVERHEAD));
    }

    #[test]
    fn what_has_waited_for_too_long_makes_room() {
        let (mut hold, now) = (Hold::default(), clock::now());
        let (one, other) = (link(), link());
        assert_eq!(hold.push(&one, &[1], now), Kept::First);
        assert_eq!(hold.push(&one, &[2], now + PATIENCE / 2), Kept::Behind);
        assert_eq!(hold.push(&other, &[3], now + PATIENCE / 2), Kept::First);
        assert_eq!(hold.next_end(), Some(now + PATIENCE));
        assert!(hold.take_late(now + PATIENCE - Duration::from_nanos(1)).is_empty());
        assert_eq!(hold.take_late(now + PATIENCE), [[1].into()]);
        assert_eq!(hold.next_end(), Some(now + PATIENCE * 3 / 2));
        assert_eq!(hold.take_late(now + PATIENCE * 2).len(), 2);
        assert!(hold.is_empty() && !hold.has(&one));
        assert_eq!((hold.octets, hold.next_end()), (0, None));
    }

    #[test]
    fn each_packet_has_its_own_time_whosever_it_is_and_also_when_it_is_put_back() {
        let (mut hold, start) = (Hold::default(), clock::now());
        let moment = |step: u32| start + Duration::from_micros(1) * step;
        let links: Vec<_> = std::iter::repeat_with(link).take(50).collect();
        // Two of each peer, one after the other.
        for (step, link) in (0..).zip(links.iter().chain(&links)) {
            hold.push(link, &[0; 100], moment(step));
        }
        let queue = hold.queues.remove(&place(&links[7])).unwrap();
        hold.ends.remove(&queue.end().unwrap());
        hold.octets -= queue.octets;
        hold.put_back(queue);
        for step in 0..100 {
            assert_eq!(hold.next_end(), Some(moment(step) + PATIENCE));
            assert_eq!(hold.take_late(moment(step) + PATIENCE).len(), 1, "at {step}");
            assert_eq!(hold.octets, (99 - step as usize) * (100 + OVERHEAD));
        }
        assert!(hold.is_empty() && hold.ends.is_empty());
    }
}
