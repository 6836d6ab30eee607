//! With which peers there is traffic: what their counters say, looked at now and then.

use std::net::IpAddr;
use std::sync::Arc;

use culvert_dataplane::engine::Table;

/// The counters of every peer as they were.
#[derive(Default)]
pub(super) struct Traffic {
    table: Option<Arc<Table>>,
    before: Vec<(u64, u64)>,
}

/// A peer with traffic since the last look.
pub(super) struct Moved {
    pub(super) peer: IpAddr,
    /// Whether something was received from it.
    pub(super) is_heard: bool,
}

impl Traffic {
    /// Who has had traffic. The first look at a table tells of nobody but those it counts packets
    /// of.
    pub(super) fn look(&mut self, table: Arc<Table>) -> Vec<Moved> {
        let is_new = self.table.as_ref().is_none_or(|before| !Arc::ptr_eq(before, &table));
        if is_new {
            let known: std::collections::HashMap<IpAddr, (u64, u64)> = self
                .table
                .iter()
                .flat_map(|table| table.peers())
                .zip(&self.before)
                .map(|(peer, counts)| (peer.address(), *counts))
                .collect();
            let before = |address| known.get(&address).copied().unwrap_or_default();
            self.before = table.peers().iter().map(|peer| before(peer.address())).collect();
        }
        let mut moved = Vec::new();
        for (peer, before) in table.peers().iter().zip(&mut self.before) {
            let now = (peer.counters.egress().packets, peer.counters.ingress().packets);
            if now != *before {
                moved.push(Moved { peer: peer.address(), is_heard: now.1 != before.1 });
                *before = now;
            }
        }
        self.table = Some(table);
        moved
    }
}
