//! Questions to peers, and what the network says of datagrams that left.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::{DataPlane, locked};
use crate::engine::Table;
use crate::path_claim::notice_of;
use crate::platform::clock;
use crate::platform::udp::Sender;
use crate::probe::{Ask, ProbeArrival, Probes, Unsent, Way};
use crate::underlay::bucket;

/// How often a question is offered to the kernel, and reports that are looked at after each time:
/// as trains are.
const ATTEMPTS: usize = 3;
const MAX_REPORTS: usize = 32;

impl DataPlane {
    /// What comes of questions to peers, for the first who asks.
    pub fn take_probe_arrivals(&self) -> Option<mpsc::Receiver<ProbeArrival>> {
        locked(&self.probe_arrivals).take()
    }

    /// What this node tells of itself in its answers, and by what its questions are known.
    pub fn probes(&self) -> &Probes {
        &self.probes
    }

    /// Sends a question to a peer, by one of the source ports of its packets. What the kernel has
    /// been told of datagrams that left before becomes notices.
    ///
    /// # Errors
    ///
    /// Why it was not sent.
    pub fn ask(&self, ask: &Ask<'_>) -> Result<(), Unsent> {
        let table = self.table.load();
        let peer = table.peer(table.sender(ask.peer).ok_or(Unsent::NoWay)?);
        let senders = self.senders();
        let way = Way { peer, path: ask.path, worker: self.prober.as_ref(), now: clock::now() };
        ask.send(&way, &mut |hash, transmit| {
            let sender = &senders[bucket(hash)];
            let mut attempts = 0;
            loop {
                let sent = sender.send(transmit);
                attempts += 1;
                let reports = sent.is_err() && self.notice(sender, &table);
                if sent.is_ok() || !reports || attempts == ATTEMPTS {
                    return sent;
                }
            }
        })
    }

    /// Makes notices of what the network says of datagrams that left.
    pub fn look_for_reports(&self) {
        let (table, senders) = (self.table.load(), self.senders());
        for sender in &*senders {
            self.notice(sender, &table);
        }
    }

    /// The source ports of the tunnel, by the numbers of the paths: a flow leaves by the one of its
    /// [`bucket`].
    pub fn source_ports(&self) -> Vec<u16> {
        self.senders().iter().map(Sender::port).collect()
    }

    fn senders(&self) -> Arc<[Sender]> {
        Arc::clone(locked(&self.sockets).senders())
    }

    /// Takes what waits at a socket; says whether anything did.
    fn notice(&self, sender: &Sender, table: &Table) -> bool {
        let mut found = false;
        for report in std::iter::from_fn(|| sender.report().ok()).take(MAX_REPORTS) {
            found = true;
            if let Some(notice) = notice_of(&report, table) {
                self.notices.send(notice);
            }
        }
        found
    }
}
