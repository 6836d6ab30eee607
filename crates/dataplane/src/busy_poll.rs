//! Whether a worker polls for a moment before it sleeps.
//!
//! For a single message, waking the thread costs more than processing it: the CPU that the worker
//! slept on has to be interrupted, on a virtual machine even to be scheduled. While messages follow
//! each other closely, as requests and answers do, a worker therefore polls for a moment, and
//! yields its CPU between two looks, so that it keeps no pod from running (the kernel's
//! `net.core.busy_poll` does not yield). When the last wait was long, the next will be too, and
//! polling would only cost. While bulk moves, the threads that fill and empty the buffers need the
//! CPU more, and many packets share one wake-up: the worker lets others go first, and looks twice.

use std::time::Duration;

/// What is moved between two waits of messages at most; more is bulk.
const MESSAGES: usize = 16 << 10;

/// How often to look before sleeping, while bulk moves.
const BULK_LOOKS: u32 = 2;

/// When to poll, and for how long.
#[derive(Debug)]
pub(super) struct BusyPoll {
    limit: Duration,
    expectant: bool,
}

impl BusyPoll {
    /// Polls for at most `limit`; not at all if that is zero.
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, expectant: false }
    }

    /// Whether to look once more, having looked `looks` times and waited for `waited`, with
    /// `octets` moved since the last wait.
    pub(super) fn lasts(
        &self,
        octets: usize,
        looks: u32,
        waited: impl FnOnce() -> Duration,
    ) -> bool {
        if octets > MESSAGES {
            looks < BULK_LOOKS && !self.limit.is_zero()
        } else {
            self.expectant && waited() < self.limit
        }
    }

    /// Takes note that the wait, polling and sleep together, lasted `waited`.
    pub(super) fn ended(&mut self, waited: Duration) {
        self.expectant = waited < self.limit;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_micros(50);

    fn lasts(watch: &BusyPoll, octets: usize) -> bool {
        watch.lasts(octets, 1000, || LIMIT - Duration::from_nanos(1))
    }

    #[test]
    fn watch_is_kept_after_a_short_wait_only() {
        let mut watch = BusyPoll::new(LIMIT);
        assert!(!lasts(&watch, 0), "nothing is known at first");
        watch.ended(LIMIT / 2);
        assert!(lasts(&watch, 0));
        watch.ended(LIMIT);
        assert!(!lasts(&watch, 0), "in vain once, not again");
        watch.ended(LIMIT / 2);
        assert!(lasts(&watch, 0), "a short sleep is reason for the next watch");
    }

    #[test]
    fn watch_ends_after_its_time() {
        let mut watch = BusyPoll::new(LIMIT);
        watch.ended(Duration::ZERO);
        assert!(!watch.lasts(MESSAGES, 1, || LIMIT));
    }

    #[test]
    fn while_bulk_moves_two_looks_are_enough() {
        let mut watch = BusyPoll::new(LIMIT);
        watch.ended(Duration::ZERO);
        assert!(lasts(&watch, MESSAGES));
        assert!(!lasts(&watch, MESSAGES + 1));
        assert!(watch.lasts(MESSAGES + 1, 1, || LIMIT));
        assert!(!watch.lasts(MESSAGES + 1, 2, || Duration::ZERO));
    }

    #[test]
    fn a_limit_of_zero_is_off() {
        let mut watch = BusyPoll::new(Duration::ZERO);
        watch.ended(Duration::ZERO);
        assert!(!watch.lasts(0, 0, || Duration::ZERO));
        assert!(!watch.lasts(MESSAGES + 1, 0, || Duration::ZERO));
    }
}
