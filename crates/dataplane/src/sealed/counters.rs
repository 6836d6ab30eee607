//! What is counted of sessions and handshakes, for others to read.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use culvert_seal::Suite;
use culvert_seal::mesh::{Event, Failure, Role, What};

/// Counts of what the machine that makes sessions has told. Only its thread writes them.
#[derive(Debug, Default)]
pub struct SealedCounters {
    /// By role, then by suite.
    established: [[AtomicU64; Suite::ALL.len()]; 2],
    /// By role.
    durations: [Durations; 2],
    ended: AtomicU64,
    /// As [`Failure::ALL`].
    failures: [AtomicU64; Failure::ALL.len()],
    lost: AtomicU64,
}

/// How long handshakes took, as numbers of those that took no longer than each bound and longer
/// than the one before.
#[derive(Debug, Default)]
struct Durations {
    counts: [AtomicU64; HandshakeTimes::BOUNDS.len() + 1],
    micros: AtomicU64,
}

/// How long handshakes took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct HandshakeTimes {
    /// How many took longer than the bound before and no longer than their own, and last those that
    /// took longer than any.
    pub counts: [u64; Self::BOUNDS.len() + 1],
    /// What they took together, in seconds.
    pub sum: f64,
}

impl HandshakeTimes {
    /// Bounds in seconds: from a round trip in one rack to an INIT that was sent several times.
    pub const BOUNDS: [f64; 9] = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0];
}

impl Durations {
    fn add(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bounds = HandshakeTimes::BOUNDS.iter();
        let index = bounds.take_while(|bound| seconds > **bound).count();
        self.counts[index].fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.micros.fetch_add(micros, Ordering::Relaxed);
    }

    fn read(&self) -> HandshakeTimes {
        let counts = self.counts.each_ref().map(|count| count.load(Ordering::Relaxed));
        let sum = Duration::from_micros(self.micros.load(Ordering::Relaxed)).as_secs_f64();
        HandshakeTimes { counts, sum }
    }
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

    /// How long those took in which this node had that role.
    pub fn times(&self, role: Role) -> HandshakeTimes {
        self.durations[role_index(role)].read()
    }

    /// Sessions that have ended without a successor.
    pub fn ended(&self) -> u64 {
        self.ended.load(Ordering::Relaxed)
    }

    /// Times that handshakes with a peer began to fail for another reason than before, by this
    /// node's role and that reason.
    pub fn failures(&self) -> impl Iterator<Item = (Role, Failure, u64)> {
        let counts = Failure::ALL.into_iter().zip(&self.failures);
        counts.map(|((role, failure), count)| (role, failure, count.load(Ordering::Relaxed)))
    }

    /// Events that nobody took in time.
    pub fn lost_events(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    pub(super) fn count(&self, event: &Event) {
        let count = match event.what {
            What::Established(role, suite, took) => {
                self.durations[role_index(role)].add(took);
                &self.established[role_index(role)][suite_index(suite)]
            }
            What::Ended => &self.ended,
            What::ClockBehind | What::StaleInit => return,
            What::Failed(role, failure) => {
                let index = Failure::ALL.iter().position(|each| *each == (role, failure));
                let Some(count) = index.and_then(|index| self.failures.get(index)) else { return };
                count
            }
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn lose(&self) {
        self.lost.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_long_handshakes_took_is_counted_by_role() {
        let counters = SealedCounters::default();
        let suite = Suite::Aes256Gcm;
        for millis in [1, 2, 250, 60_000] {
            let what = What::Established(Role::Initiator, suite, Duration::from_millis(millis));
            counters.count(&Event { peer: String::new(), what });
        }
        assert_eq!(counters.established(Role::Initiator, suite), 4);
        let times = counters.times(Role::Initiator);
        assert_eq!(times.counts, [1, 1, 0, 0, 0, 1, 0, 0, 0, 1]);
        assert!((times.sum - 60.253).abs() < 1e-6);
        assert_eq!(counters.times(Role::Responder), HandshakeTimes::default());
    }

    #[test]
    fn failures_are_counted_by_role_and_reason() {
        let counters = SealedCounters::default();
        for (times, (role, failure)) in (1..).zip(Failure::ALL) {
            for _ in 0..times {
                let what = What::Failed(role, failure);
                counters.count(&Event { peer: String::new(), what });
            }
        }
        let counted: Vec<_> = counters.failures().collect();
        let expected = (1..).zip(Failure::ALL);
        let expected = expected.map(|(times, (role, failure))| (role, failure, times));
        assert_eq!(counted, expected.collect::<Vec<_>>());
    }
}
