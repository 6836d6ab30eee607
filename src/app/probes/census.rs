//! Which tables and clocks the peers have: each is asked once, some at a time, and then a second is
//! waited.
//!
//! One such round is under way at a time; who asks meanwhile gets what comes of it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use overlay_proto::oam::{Answer, Timestamp};
use tokio::sync::oneshot;

use crate::observe::PeerTable;

/// How long answers are waited for after the last question.
const PATIENCE: Duration = Duration::from_secs(1);

/// Questions that are sent at once, and the pause after them: what waits for the task to take it is
/// bounded, and so are the answers.
const AT_ONCE: usize = 256;
const PAUSE: Duration = Duration::from_millis(20);

/// Who asks at once; the admin socket has as many connections.
const MOST: usize = 16;

type Reply = oneshot::Sender<anyhow::Result<Vec<PeerTable>>>;

/// The round that is under way, if there is one.
#[derive(Default)]
pub(super) struct Census {
    replies: Vec<Reply>,
    found: Vec<PeerTable>,
    /// Peers that are still to be asked, with their places among those that were found.
    left: Vec<(IpAddr, usize)>,
    /// What was asked: number and nonce, and the place.
    asked: HashMap<IpAddr, (u32, u64, usize)>,
    next: Option<Instant>,
}

impl Census {
    /// Whether a round must begin for `reply`, which is told what comes of the one that runs.
    pub(super) fn join(&mut self, reply: Reply) -> bool {
        let is_first = self.replies.is_empty();
        if self.replies.len() >= MOST {
            // Whoever asked may have gone.
            let _ = reply.send(Err(anyhow::anyhow!("{MOST} others ask at this moment")));
            return false;
        }
        self.replies.push(reply);
        is_first
    }

    /// Begins a round of these peers; one without an address is not asked.
    pub(super) fn begin(&mut self, peers: Vec<(PeerTable, Option<IpAddr>)>, now: Instant) {
        self.asked.clear();
        self.left.clear();
        self.found.clear();
        for (place, (peer, address)) in peers.into_iter().enumerate() {
            self.found.push(peer);
            self.left.extend(address.map(|address| (address, place)));
        }
        self.next = Some(now);
    }

    /// Those who are to be asked now.
    pub(super) fn due_peers(&mut self, now: Instant) -> Vec<(IpAddr, usize)> {
        if self.left.is_empty() || self.next.is_none_or(|next| next > now) {
            return Vec::new();
        }
        let some = self.left.split_off(self.left.len().saturating_sub(AT_ONCE));
        self.next = Some(now + if self.left.is_empty() { PATIENCE } else { PAUSE });
        some
    }

    /// Takes note that a peer was asked.
    pub(super) fn sent(&mut self, peer: IpAddr, sequence: u32, nonce: u64, place: usize) {
        self.asked.insert(peer, (sequence, nonce, place));
    }

    /// Takes note that a peer could not be asked.
    pub(super) fn unsent(&mut self, place: usize, why: String) {
        if let Some(found) = self.found.get_mut(place) {
            found.unasked = Some(why);
        }
    }

    /// Takes an answer, if it is one to this; returns whether it is.
    pub(super) fn answer(&mut self, peer: IpAddr, answer: &Answer, now: Timestamp) -> bool {
        let Answer { sequence, route, digest, sent, .. } = answer;
        let number = (*sequence, route.nonce);
        let is_one = |(sequence, nonce, _): &(u32, u64, usize)| (*sequence, *nonce) == number;
        if !self.asked.get(&peer).is_some_and(is_one) {
            return false;
        }
        if let Some((.., place)) = self.asked.remove(&peer)
            && let Some(found) = self.found.get_mut(place)
        {
            found.table = Some(format!("{:08x}", digest.table));
            found.is_ready = Some(digest.is_ready);
            found.clock_ahead = Some(sent.seconds_ahead_of(now));
        }
        true
    }

    /// Ends the round if it is complete or has waited for long enough.
    pub(super) fn finish(&mut self, now: Instant) {
        let is_over = self.next.is_some_and(|next| next <= now);
        if self.replies.is_empty() || !self.left.is_empty() || !(self.asked.is_empty() || is_over) {
            return;
        }
        for reply in self.replies.drain(..) {
            // Whoever asked may have gone.
            let _ = reply.send(Ok(self.found.clone()));
        }
        *self = Self::default();
    }

    /// When there is something to do.
    pub(super) fn due(&self) -> Option<Instant> {
        self.next
    }
}

#[cfg(test)]
mod tests {
    use culvert_dataplane::platform::clock;
    use overlay_proto::oam::{Digest, Route};

    use super::*;

    fn peer(number: u16) -> (PeerTable, Option<IpAddr>) {
        let node = format!("node{number}");
        let [high, low] = number.to_be_bytes();
        let unknown = PeerTable {
            node,
            table: None,
            is_ready: None,
            clock_ahead: None,
            failing: None,
            unasked: None,
        };
        (unknown, Some([10, 0, high, low].into()))
    }

    #[test]
    fn all_are_asked_some_at_a_time_and_only_their_own_answers_count() {
        let (reply, mut answer) = oneshot::channel();
        let (other, mut too) = oneshot::channel();
        let mut census = Census::default();
        let mut now = clock::now();
        assert!(census.join(reply));
        census.begin((0..600).map(peer).collect(), now);
        assert!(!census.join(other), "one round is enough");
        let mut asked = 0;
        while let Some(next) = census.due()
            && asked < 600
        {
            now = next;
            let some = census.due_peers(now);
            assert!(some.len() <= AT_ONCE);
            for (address, place) in some {
                asked += 1;
                census.sent(address, 7, place as u64, place);
            }
            census.finish(now);
        }
        let here = Timestamp::from_unix_nanos(1_000_000_000_000);
        let said = |nonce| Answer {
            sequence: 7,
            sent: Timestamp::from_unix_nanos(940_000_000_000),
            route: Route { nonce, ..Route::default() },
            digest: Digest { table: 0xabc, is_ready: true, ..Digest::default() },
            ..Answer::default()
        };
        let first = peer(0).1.unwrap();
        assert!(!census.answer(first, &said(1), here), "another's nonce");
        assert!(!census.answer([10, 9, 9, 9].into(), &said(0), here));
        assert!(census.answer(first, &said(0), here));
        assert!(!census.answer(first, &said(0), here), "it has answered");
        census.finish(now);
        assert!(answer.try_recv().is_err(), "the others have their time");
        census.finish(now + PATIENCE);
        let found = answer.try_recv().unwrap().unwrap();
        assert_eq!(found.len(), 600);
        assert_eq!(found[0].table.as_deref(), Some("00000abc"));
        assert_eq!((found[0].is_ready, found[0].clock_ahead), (Some(true), Some(-60.0)));
        assert_eq!((&found[1].table, found[1].clock_ahead), (&None, None));
        assert_eq!(too.try_recv().unwrap().unwrap(), found);
        assert_eq!(census.due(), None);
    }
}
