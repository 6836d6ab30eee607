//! Whether to keep watch for a moment before sleeping.
//!
//! Being woken costs a message more than all that the daemon does with it: the CPU that the worker
//! slept on has to be interrupted, on a virtual machine even to be scheduled. While messages follow
//! each other closely, as requests and answers do, a worker therefore looks again and again for a
//! moment, and gives its CPU away between two looks, so that pods are not kept from theirs (compare
//! `net.core.busy_poll`, which does not). When the last wait was a long one, the next will be too, and
//! watching would only cost. While bulk moves, whoever fills and empties the buffers needs the CPU more,
//! and a wake-up is shared by many packets: the worker lets others go first, and looks twice.

use std::time::Duration;

/// What is moved between two waits of messages at most; more is bulk.
const MESSAGES: usize = 16 << 10;

/// How often to look before sleeping, while bulk moves.
const BULK_LOOKS: u32 = 2;

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

    /// Whether to look once more, having looked `looks` times and waited for `waited`, with `octets`
    /// moved since the last wait.
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

    /// Takes note that the wait, watch and sleep together, lasted `waited`.
    pub(super) fn ended(&mut self, waited: Duration) {
        self.expectant = waited < self.limit;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_micros(50);

    fn lasts(vigil: &Vigil, octets: usize) -> bool {
        vigil.lasts(octets, 1000, || LIMIT - Duration::from_nanos(1))
    }

    #[test]
    fn watch_is_kept_after_a_short_wait_only() {
        let mut vigil = Vigil::new(LIMIT);
        assert!(!lasts(&vigil, 0), "nothing is known at first");
        vigil.ended(LIMIT / 2);
        assert!(lasts(&vigil, 0));
        vigil.ended(LIMIT);
        assert!(!lasts(&vigil, 0), "in vain once, not again");
        vigil.ended(LIMIT / 2);
        assert!(lasts(&vigil, 0), "a short sleep is reason for the next watch");
    }

    #[test]
    fn watch_ends_after_its_time() {
        let mut vigil = Vigil::new(LIMIT);
        vigil.ended(Duration::ZERO);
        assert!(!vigil.lasts(MESSAGES, 1, || LIMIT));
    }

    #[test]
    fn while_bulk_moves_two_looks_are_enough() {
        let mut vigil = Vigil::new(LIMIT);
        vigil.ended(Duration::ZERO);
        assert!(lasts(&vigil, MESSAGES));
        assert!(!lasts(&vigil, MESSAGES + 1));
        assert!(vigil.lasts(MESSAGES + 1, 1, || LIMIT));
        assert!(!vigil.lasts(MESSAGES + 1, 2, || Duration::ZERO));
    }

    #[test]
    fn a_limit_of_zero_is_off() {
        let mut vigil = Vigil::new(Duration::ZERO);
        vigil.ended(Duration::ZERO);
        assert!(!vigil.lasts(0, 0, || Duration::ZERO));
        assert!(!vigil.lasts(MESSAGES + 1, 0, || Duration::ZERO));
    }
}
