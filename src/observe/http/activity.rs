//! Which peers have series of their own: those that this node talks to.
//!
//! Thousands of nodes would be tens of thousands of series on each of them, most of them of peers
//! that it never talks to. Remembers what was counted of each peer at the last scrape, and when
//! that last grew.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::observe::PeerStatus;

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
    /// Packets of each peer, and since when there are so many.
    seen: HashMap<String, (u64, Instant)>,
}

/// The peers that have series, in the order of the table, and how many active ones have none.
pub(super) struct Chosen<'a> {
    pub(super) peers: Vec<&'a PeerStatus>,
    pub(super) omitted: usize,
}

impl Activity {
    pub(super) fn new(series: PeerSeries) -> Self {
        Self { series, seen: HashMap::new() }
    }

    /// Chooses among `peers` as they are at `now`.
    pub(super) fn choose<'a>(&mut self, peers: &'a [PeerStatus], now: Instant) -> Chosen<'a> {
        match self.series {
            PeerSeries::All => Chosen { peers: peers.iter().collect(), omitted: 0 },
            PeerSeries::None => Chosen { peers: Vec::new(), omitted: 0 },
            PeerSeries::Active => self.active(peers, now),
        }
    }

    fn active<'a>(&mut self, peers: &'a [PeerStatus], now: Instant) -> Chosen<'a> {
        let mut active: Vec<(usize, &PeerStatus)> = Vec::new();
        for (place, peer) in peers.iter().enumerate() {
            if self.is_active(peer, now) {
                active.push((place, peer));
            }
        }
        if self.seen.len() > peers.len() {
            self.seen.retain(|_, (_, since)| now.duration_since(*since) <= ACTIVE);
        }
        // Counters only grow, so that it is mostly the same peers from scrape to scrape.
        active
            .sort_by_key(|(_, peer)| Reverse(peer.egress.bytes.saturating_add(peer.ingress.bytes)));
        let mut bytes = 0;
        let fits = |(_, peer): &&(usize, &PeerStatus)| {
            bytes += BYTES_OF_ONE + NAMES_OF_ONE * peer.name.len();
            bytes <= BYTES
        };
        let shown = active.iter().take(PEERS).take_while(fits).count();
        let omitted = active.len() - shown;
        active.truncate(shown);
        active.sort_by_key(|(place, _)| *place);
        Chosen { peers: active.into_iter().map(|(_, peer)| peer).collect(), omitted }
    }

    /// Whether a peer had traffic lately. One with traffic that is seen for the first time may have
    /// had it at any time, and counts as active.
    fn is_active(&mut self, peer: &PeerStatus, now: Instant) -> bool {
        let packets = peer.egress.packets.saturating_add(peer.ingress.packets);
        if packets == 0 {
            self.seen.remove(&peer.name);
            return false;
        }
        match self.seen.get_mut(&peer.name) {
            Some((before, since)) if *before == packets => now.duration_since(*since) <= ACTIVE,
            Some(known) => {
                *known = (packets, now);
                true
            }
            None => {
                self.seen.insert(peer.name.clone(), (packets, now));
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
    use crate::observe::http::tests::peer;

    fn names(activity: &mut Activity, peers: &[PeerStatus], now: Instant) -> Vec<String> {
        activity.choose(peers, now).peers.iter().map(|peer| peer.name.clone()).collect()
    }

    #[test]
    fn peer_is_active_for_ten_minutes_after_its_last_packet() {
        let start = clock::now();
        let mut activity = Activity::new(PeerSeries::Active);
        let mut peers = vec![peer("node1", 1), peer("node2", 0), peer("node3", 1)];
        assert_eq!(names(&mut activity, &peers, start), ["node1", "node3"]);
        peers[0].ingress = Traffic { packets: 1, bytes: 100 };
        let later = start + Duration::from_secs(300);
        assert_eq!(names(&mut activity, &peers, later), ["node1", "node3"]);
        let late = start + Duration::from_secs(601);
        assert_eq!(names(&mut activity, &peers, late), ["node1"]);
        peers[2].egress.packets += 1;
        assert_eq!(names(&mut activity, &peers, late), ["node1", "node3"]);
    }

    #[test]
    fn the_busiest_are_shown_and_the_rest_is_counted() {
        let peers: Vec<_> = (0..600).map(|index| peer(&format!("n{index}"), index + 1)).collect();
        let now = clock::now();
        let mut activity = Activity::new(PeerSeries::Active);
        let chosen = activity.choose(&peers, now);
        assert_eq!(chosen.peers.len() + chosen.omitted, 600);
        assert!(chosen.peers.len() <= PEERS && chosen.peers.len() > 300);
        assert_eq!(chosen.peers.last().unwrap().name, "n599");
        let mut all = Activity::new(PeerSeries::All);
        assert_eq!(all.choose(&peers, now).peers.len(), 600);
        let mut none = Activity::new(PeerSeries::None);
        assert!(none.choose(&peers, now).peers.is_empty());
    }

    #[test]
    fn what_is_remembered_does_not_outgrow_the_table() {
        let now = clock::now();
        let mut activity = Activity::new(PeerSeries::Active);
        for round in 0..20 {
            let peers: Vec<_> = (0..10).map(|index| peer(&format!("{round}-{index}"), 1)).collect();
            let at = now + Duration::from_secs(601) * round;
            activity.choose(&peers, at);
            assert!(activity.seen.len() <= 20);
        }
    }
}
