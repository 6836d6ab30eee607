//! How long to wait before the next attempt.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::Duration;

/// The wait after a first failure: an etcd member that restarts is back in about as long.
const FIRST: Duration = Duration::from_millis(250);

/// The longest wait. Ten thousand nodes that wait for one server then ask it a thousand times a
/// second, which it can refuse without effort.
const LONGEST: Duration = Duration::from_secs(10);

/// Waits that grow with each failure and differ between nodes, so that a server that comes back is
/// not met by all at once.
#[derive(Debug)]
pub(in crate::control) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub(in crate::control) fn new() -> Self {
        Self { next: FIRST }
    }

    /// Forgets the failures.
    pub(in crate::control) fn reset(&mut self) {
        self.next = FIRST;
    }

    /// How long to wait now: half of the present bound to all of it.
    pub(in crate::control) fn wait(&mut self) -> Duration {
        let bound = self.next;
        self.next = (bound * 2).min(LONGEST);
        // A hasher's random keys are randomness enough for a wait.
        let random = RandomState::new().build_hasher().finish();
        let part = u32::try_from(random % 1024).unwrap_or_default();
        bound / 2 + bound * part / 2048
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound_and_start_over() {
        let mut backoff = Backoff::new();
        let mut bound = FIRST;
        for _ in 0..20 {
            let wait = backoff.wait();
            assert!(wait >= bound / 2 && wait <= bound, "{wait:?} of {bound:?}");
            bound = (bound * 2).min(LONGEST);
        }
        assert_eq!(bound, LONGEST);
        backoff.reset();
        assert!(backoff.wait() <= FIRST);
    }

    #[test]
    fn waits_differ() {
        let waits: std::collections::BTreeSet<Duration> =
            (0..64).map(|_| Backoff::new().wait()).collect();
        assert!(waits.len() > 8, "{waits:?}");
    }
}
