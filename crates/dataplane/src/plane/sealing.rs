//! What control says of keys, and asks of sessions.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use culvert_seal::mesh::{Event, Identity};
use tokio::sync::mpsc;

use super::{DataPlane, locked};
use crate::engine::{Peer, PeerKeys, Seal, SealedMode, Table};
use crate::platform::clock;
use crate::sealed::SealedCounters;

impl DataPlane {
    /// Changes what this node proves who it is with, and the peers that have keys: all of the table
    /// that is published next. Sessions with keys that are not there any more end now. Peers of the
    /// table in force that have got keys are sealed from now on; those that have lost theirs get
    /// nothing until another table is published, so that it does not matter which of the two is
    /// first for what is sealed in both. Nothing happens on a node that does not seal.
    pub fn set_keys(&self, identity: Identity, peers: Vec<PeerKeys>) {
        let Some(sealed) = &self.sealed else { return };
        let mut sealing = locked(&sealed.sealing);
        let next = sealing.with(&peers);
        let in_force = self.table.load();
        let has_got_keys =
            |peer: &Peer| !matches!(peer.seal, Seal::Keyed(_)) && next.has(peer.name());
        if in_force.peers().iter().any(has_got_keys) {
            let table = Table::clone(&in_force).seal(&next.or(&sealing));
            self.table.store(Arc::new(table));
        }
        sealed.keys.set_table(identity, next.entries(peers));
        *sealing = next;
    }

    /// How strict the node is with the tables that are published from now on. Nothing happens on a
    /// node that does not seal.
    pub fn set_sealed_mode(&self, mode: SealedMode) {
        let Some(sealed) = &self.sealed else { return };
        let mut sealing = locked(&sealed.sealing);
        *sealing = sealing.clone().with_mode(mode);
    }

    /// Has a session made with every peer of the table in force that has keys and may still send in
    /// plain, and names those peers. Not all are asked at once where there are many: whoever wants
    /// to see the list become empty calls again.
    pub fn seek_sessions(&self) -> Vec<String> {
        let Some(worker) = &self.prober else { return Vec::new() };
        let now_ms = worker.ms(clock::now());
        let table = self.table.load();
        let link = |peer: &'_ Peer| match &peer.seal {
            Seal::Keyed(keyed) => Some(Arc::clone(&keyed.link)),
            Seal::Plain | Seal::NoKey => None,
        };
        let links = table.peers().iter().filter_map(link);
        let open = links.filter(|link| !link.refuses_plain(now_ms));
        open.map(|link| {
            if link.outgoing().is_none() {
                worker.want(&link);
            }
            link.name().to_owned()
        })
        .collect()
    }

    /// What people should know of handshakes and sessions, for the first who asks. Whoever does not
    /// take events loses them: 256 wait at most.
    pub fn take_sealed_events(&self) -> Option<mpsc::Receiver<Event>> {
        self.sealed.as_ref()?.keys.take_events()
    }

    /// What is counted of handshakes and sessions, on a node that seals.
    pub fn sealed_counters(&self) -> Option<&SealedCounters> {
        self.sealed.as_ref().map(|sealed| sealed.keys.counters())
    }

    /// Handshake datagrams that were no peer's, or more than are looked at.
    pub fn refused_handshakes(&self) -> u64 {
        self.sum(|counters| counters.refused_handshakes.load(Ordering::Relaxed))
    }
}
