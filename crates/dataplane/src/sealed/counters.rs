//! What is counted of sessions and handshakes, for others to read.

use std::sync::atomic::{AtomicU64, Ordering};

use culvert_seal::Suite;
use culvert_seal::mesh::{Event, Role, What};

/// Counts of what the machine that makes sessions has told. Only its thread writes them.
#[derive(Debug, Default)]
pub struct SealedCounters {
    /// By role, then by suite.
    established: [[AtomicU64; Suite::ALL.len()]; 2],
    ended: AtomicU64,
    failures: AtomicU64,
    lost: AtomicU64,
}

const fn role_index(role: Role) -> usize {
    match role {
        Role::Initiator => 0,
        Role::Responder => 1,
    }
}

const fn suite_index(suite: Suite) -> usize {
    match suite {
        Suite::Aes256Gcm => 0,
        Suite::ChaCha20Poly1305 => 1,
    }
}

impl SealedCounters {
    /// Handshakes that came to a session, in this role and with this suite.
    pub fn established(&self, role: Role, suite: Suite) -> u64 {
        self.established[role_index(role)][suite_index(suite)].load(Ordering::Relaxed)
    }

    /// Sessions that have ended without a successor.
    pub fn ended(&self) -> u64 {
        self.ended.load(Ordering::Relaxed)
    }

    /// Times that handshakes with a peer began to fail for another reason than before.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Events that nobody took in time.
    pub fn lost_events(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    pub(super) fn count(&self, event: &Event) {
        let count = match event.what {
            What::Established(role, suite) => {
                &self.established[role_index(role)][suite_index(suite)]
            }
            What::Ended => &self.ended,
            What::ClockBehind | What::StaleInit => return,
            What::NoAnswer
            | What::WrongKeys(_)
            | What::WrongPsk
            | What::NoCommonSuite
            | What::PostQuantumDiffers
            | What::TooManyInits => &self.failures,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn lose(&self) {
        self.lost.fetch_add(1, Ordering::Relaxed);
    }
}
