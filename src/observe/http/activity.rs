//! Which peers have series of their own: those that this node talks to.
//!
//! Thousands of nodes would be tens of thousands of series on each of them, most of them of peers
//! that it never talks to. Remembers what was counted of each peer at the last scrape, and when
//! that last grew.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::observe::Tally;

/// For how long a peer counts as active after its last packet.
const ACTIVE: Duration = Duration::from_secs(600);

/// Active peers that have series of their own at most.
const PEERS: usize = 500;

/// Bytes that the series of active peers take at most, so that a scrape stays below 150 KB however
/// long the nodes' names are.
const BYTES: usize = 140_000;

/// Bytes of one peer's series besides its name, and how often the name is among them.
const BYTES_OF_ONE: usize = 370;
const NAMES_OF_ONE: usize = 6;

/// Which peers have series of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PeerSeries {
    /// Those with traffic in the last ten minutes, up to a limit.
    Active,
    /// None.
    None,
    /// All, whatever that costs.
    All,
}

/// What is remembered from scrape to scrape.
#[derive(Debug)]
pub(super) struct Activity {
    series: PeerSeries,
    /// Of each peer that had traffic at the last scrape.
    seen: HashMap<String, Seen>,
    scrapes: u64,
}

/// What was seen of a peer.
#[derive(Clone, Copy, Debug)]
struct Seen {
    packets: u64,
    /// Since when there are so many.
    since: Instant,
    /// The number of the scrape in which it was there.
    scrape: u64,
}

/// The places of peers that have series, in their order, and how many active ones have none.
#[derive(Debug, Default)]
pub(super) struct Chosen {
    pub(super) places: Vec<usize>,
    pub(super) omitted: usize,
}

impl Activity {
    pub(super) fn new(series: PeerSeries) -> Self {
        Self { series, seen: HashMap::new(), scrapes: 0 }
    }

    /// Chooses among `peers` as they are at `now`.
    pub(super) fn choose(&mut self, peers: &[Tally<'_>], now: Instant) -> Chosen {
        match self.series {
            PeerSeries::All => Chosen { places: (0..peers.len()).collect(), omitted: 0 },
            PeerSeries::None => Chosen::default(),
            PeerSeries::Active => self.active(peers, now),
        }
    }

    fn active(&mut self, peers: &[Tally<'_>], now: Instant) -> Chosen {
        self.scrapes += 1;
        let mut active: Vec<(usize, &Tally<'_>)> = Vec::new();
        for (place, peer) in peers.iter().enumerate() {
            if self.is_active(peer, now) {
                active.push((place, peer));
            }
        }
        // Of who is gone or has begun anew nothing is remembered.
        self.seen.retain(|_, seen| seen.scrape == self.scrapes);
        // Counters only grow, so that it is mostly the same peers from scrape to scrape.
        active
            .sort_by_key(|(_, peer)| Reverse(peer.egress.bytes.saturating_add(peer.ingress.bytes)));
        let mut bytes = 0;
        let fits = |(_, peer): &&(usize, &Tally<'_>)| {
            bytes += BYTES_OF_ONE + NAMES_OF_ONE * peer.name.len();
            bytes <= BYTES
        };
        let shown = active.iter().take(PEERS).take_while(fits).count();
        let omitted = active.len() - shown;
        let mut places: Vec<usize> = active.into_iter().take(shown).map(|(it, _)| it).collect();
        places.sort_unstable();
        Chosen { places, omitted }
    }

    /// Whether a peer had traffic lately. One with traffic that is seen for the first time may have
    /// had it at any time, and counts as active.
    fn is_active(&mut self, peer: &Tally<'_>, now: Instant) -> bool {
        let packets = peer.egress.packets.saturating_add(peer.ingress.packets);
        if packets == 0 {
            return false;
        }
        let scrape = self.scrapes;
        match self.seen.get_mut(peer.name) {
            Some(seen) if seen.packets == packets => {
                seen.scrape = scrape;
                now.duration_since(seen.since) <= ACTIVE
            }
            Some(seen) => {
                *seen = Seen { packets, since: now, scrape };
                true
            }
            None => {
                self.seen.insert(peer.name.to_owned(), Seen { packets, since: now, scrape });
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use culvert_dataplane::engine::Traffic;
    use culvert_dataplane::platform::clock;

    use super::*;

    /// A peer to which so many packets were sent, one byte each.
    fn peer(name: &str, packets: u64) -> Tally<'_> {
        Tally { name, egress: Traffic { packets, bytes: packets }, ingress: Traffic::default() }
    }

    #[test]
    fn peer_is_active_for_ten_minutes_after_its_last_packet() {
        let start = clock::now();
        let mut activity = Activity::new(PeerSeries::Active);
        let mut peers = [peer("node1", 1), peer("node2", 0), peer("node3", 1)];
        assert_eq!(activity.choose(&peers, start).places, [0, 2]);
        peers[0].ingress = Traffic { packets: 1, bytes: 100 };
        let later = start + Duration::from_secs(300);
        assert_eq!(activity.choose(&peers, later).places, [0, 2]);
        let late = start + Duration::from_secs(601);
        assert_eq!(activity.choose(&peers, late).places, [0]);
        peers[2].egress.packets += 1;
        assert_eq!(activity.choose(&peers, late).places, [0, 2]);
    }

    #[test]
    fn the_busiest_are_shown_and_the_rest_is_counted() {
        let names: Vec<String> = (0..600).map(|index| format!("n{index}")).collect();
        let peers: Vec<_> = names.iter().zip(1..).map(|(name, count)| peer(name, count)).collect();
        let now = clock::now();
        let mut activity = Activity::new(PeerSeries::Active);
        let chosen = activity.choose(&peers, now);
        assert_eq!(chosen.places.len() + chosen.omitted, 600);
        assert!(chosen.places.len() <= PEERS && chosen.places.len() > 300);
        assert_eq!(chosen.places.last(), Some(&599));
        let mut all = Activity::new(PeerSeries::All);
        assert_eq!(all.choose(&peers, now).places.len(), 600);
        let mut none = Activity::new(PeerSeries::None);
        assert!(none.choose(&peers, now).places.is_empty());
    }

    #[test]
    fn who_is_gone_or_has_begun_anew_is_forgotten() {
        let now = clock::now();
        let mut activity = Activity::new(PeerSeries::Active);
        for round in 0..20 {
            let names: Vec<String> = (0..10).map(|index| format!("{round}-{index}")).collect();
            let peers: Vec<_> = names.iter().map(|name| peer(name, 1)).collect();
            activity.choose(&peers, now + Duration::from_secs(round));
            assert_eq!(activity.seen.len(), 10);
        }
        activity.choose(&[peer("19-0", 0), peer("19-1", 1)], now);
        assert_eq!(activity.seen.len(), 1);
    }
}
