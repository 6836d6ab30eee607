//! What one worker counts, for others to read.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::engine::DropCounters;

/// Counters of one worker; only that worker writes them.
#[derive(Debug, Default)]
pub struct WorkerCounters {
    /// Dropped packets by reason.
    pub drops: DropCounters,
    /// ICMP errors sent to pods.
    pub replies: AtomicU64,
    /// Packets that were fragmented.
    pub fragmented: AtomicU64,
    /// Fragments that these became.
    pub fragments: AtomicU64,
    /// Times that segmentation offload was refused and given up.
    pub degraded: AtomicU64,
    /// Questions of other nodes that were answered.
    pub probes_answered: AtomicU64,
    /// Questions of other nodes that were more than are answered.
    pub probes_refused: AtomicU64,
    /// Handshake datagrams that were no peer's, or more than are looked at.
    pub refused_handshakes: AtomicU64,
}

impl WorkerCounters {
    pub(super) fn add_reply(&self) {
        self.replies.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a packet that became so many fragments.
    pub(super) fn add_fragmented(&self, fragments: usize) {
        self.fragmented.fetch_add(1, Ordering::Relaxed);
        self.fragments.fetch_add(fragments as u64, Ordering::Relaxed);
    }

    pub(super) fn add_refused_handshake(&self) {
        self.refused_handshakes.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn add_probe(&self, is_answered: bool) {
        let count = if is_answered { &self.probes_answered } else { &self.probes_refused };
        count.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn add_degraded(&self) {
        self.degraded.fetch_add(1, Ordering::Relaxed);
    }
}
