//! What all workers have counted, and the kernel for them.

use std::cmp::Reverse;
use std::sync::atomic::Ordering;

use super::{DataPlane, locked};
use crate::counters::WorkerCounters;
use crate::engine::{DropReason, LastDrop};
use crate::platform::overflows::overflows;

/// Datagrams that the kernel dropped at sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceiveDrops {
    /// No worker fetched them in time.
    pub late: u64,
    /// Their checksum was wrong.
    pub damaged: u64,
}

impl DataPlane {
    /// Questions of other nodes that were answered, and those that were too many.
    pub fn probes_answered(&self) -> (u64, u64) {
        let answered = self.sum(|counters| counters.probes_answered.load(Ordering::Relaxed));
        let refused = self.sum(|counters| counters.probes_refused.load(Ordering::Relaxed));
        (answered, refused)
    }

    /// Packets dropped so far for `reason`, by all workers.
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.sum(|counters| counters.drops.count(reason))
    }

    /// The newest packets dropped for `reason` by whichever worker, one of each sender that is
    /// remembered, the newest first.
    pub fn last_drops(&self, reason: DropReason) -> Vec<LastDrop> {
        let of_each = self.workers.iter().flat_map(|worker| worker.counters.drops.last(reason));
        let mut all: Vec<LastDrop> = of_each.flatten().collect();
        all.sort_by_key(|last| Reverse(last.at));
        let mut seen = Vec::new();
        all.retain(|last| {
            let is_new = !seen.contains(&last.from);
            seen.push(last.from);
            is_new
        });
        all
    }

    /// Packets dropped so far, for whatever reason.
    pub fn all_drops(&self) -> u64 {
        DropReason::ALL.into_iter().map(|reason| self.drops(reason)).sum()
    }

    /// Datagrams that the kernel dropped at the receiving sockets since they were bound; none where
    /// it does not tell.
    pub fn receive_drops(&self) -> Option<ReceiveDrops> {
        let dropped = locked(&self.sockets).dropped()?;
        let overflows = overflows().zip(self.overflows_before);
        // Other programs' sockets may have had no room either, and no more than all is ours.
        let late =
            overflows.map_or(dropped, |(now, before)| now.saturating_sub(before).min(dropped));
        Some(ReceiveDrops { late, damaged: dropped - late })
    }

    /// ICMP errors sent to pods so far.
    pub fn replies(&self) -> u64 {
        self.sum(|counters| counters.replies.load(Ordering::Relaxed))
    }

    /// Packets that were fragmented so far, and the fragments that they became.
    pub fn fragmented(&self) -> (u64, u64) {
        let packets = self.sum(|counters| counters.fragmented.load(Ordering::Relaxed));
        (packets, self.sum(|counters| counters.fragments.load(Ordering::Relaxed)))
    }

    /// Times that an offload was refused and given up.
    pub fn degraded(&self) -> u64 {
        self.sum(|counters| counters.degraded.load(Ordering::Relaxed))
    }

    pub(super) fn sum(&self, count: impl Fn(&WorkerCounters) -> u64) -> u64 {
        self.workers.iter().map(|worker| count(&worker.counters)).sum()
    }
}
