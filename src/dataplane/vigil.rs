//! Whether to keep watch for a moment before sleeping.
//!
//! Being woken costs a message more than all that the daemon does with it: the CPU that the worker
//! slept on has to be interrupted, on a virtual machine even to be scheduled. While messages follow
//! each other closely, as requests and answers do, a worker therefore looks again and again for a
//! moment, and gives its CPU away between two looks, so that pods are not kept from theirs (compare
//! `net.core.busy_poll`, which does not). In two cases it would only cost: when the last wait was a long one, the next will
//! be too; and while bulk moves, whoever fills and empties the buffers needs the CPU more, and a wake-up
//! is shared by many packets.

use std::time::Duration;

/// What is moved between two waits of messages at most; more is bulk.
const MESSAGES: usize = 16 << 10;

/// When to keep watch, and for how long.
#[derive(Debug)]
pub(super) struct Vigil {
    limit: Duration,
    expectant: bool,
}

impl Vigil {
    /// Never keeps watch for longer than `limit`; not at all if it is zero.
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, expectant: false }
    }

    /// How long to keep watch now, having moved `octets` since the last wait.
    pub(super) fn patience(&self, octets: usize) -> Duration {
        if self.expectant && octets <= MESSAGES { self.limit } else { Duration::ZERO }
    }

    /// Takes note that the wait, watch and sleep together, lasted `waited`.
    pub(super) fn ended(&mut self, waited: Duration) {
        self.expectant = waited < self.limit;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_micros(50);

    #[test]
    fn watch_is_kept_after_a_short_wait_only() {
        let mut vigil = Vigil::new(LIMIT);
        assert_eq!(vigil.patience(0), Duration::ZERO, "nothing is known at first");
        vigil.ended(LIMIT / 2);
        assert_eq!(vigil.patience(0), LIMIT);
        vigil.ended(LIMIT);
        assert_eq!(vigil.patience(0), Duration::ZERO, "in vain once, not again");
        vigil.ended(LIMIT / 2);
        assert_eq!(vigil.patience(0), LIMIT, "a short sleep is reason for the next watch");
    }

    #[test]
    fn no_watch_is_kept_while_bulk_moves() {
        let mut vigil = Vigil::new(LIMIT);
        vigil.ended(Duration::ZERO);
        assert_eq!(vigil.patience(MESSAGES), LIMIT);
        assert_eq!(vigil.patience(MESSAGES + 1), Duration::ZERO);
    }

    #[test]
    fn a_limit_of_zero_is_off() {
        let mut vigil = Vigil::new(Duration::ZERO);
        vigil.ended(Duration::ZERO);
        assert_eq!(vigil.patience(0), Duration::ZERO);
    }
}
