//! How long the kernel may go without being looked at before that counts as a fault.
//!
//! A look can fail though nothing is wrong: hundreds of devices come and go while they are listed,
//! or the kernel's lock is taken for seconds. To withdraw the node then would do more harm than
//! what a look might have found.

use std::time::{Duration, Instant};

/// Longer than a hundred pods take to start at once on a small machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Since when nobody could look.
#[derive(Debug, Default)]
pub(super) struct Doubt {
    since: Option<Instant>,
}

impl Doubt {
    /// The kernel was looked at; says whether that is news.
    pub(super) fn clear(&mut self) -> bool {
        self.since.take().is_some()
    }

    /// A look failed at `now`; answers whether that is news, and whether it has gone on for too
    /// long.
    pub(super) fn grow(&mut self, now: Instant) -> (bool, bool) {
        let is_news = self.since.is_none();
        let since = *self.since.get_or_insert(now);
        (is_news, now.saturating_duration_since(since) >= PATIENCE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use culvert_dataplane::platform::clock;

    #[test]
    fn looks_that_fail_for_a_minute_are_a_fault_and_one_that_succeeds_ends_the_doubt() {
        let (mut doubt, begin) = (Doubt::default(), clock::now());
        let second = Duration::from_secs(1);
        assert_eq!(doubt.grow(begin), (true, false));
        assert_eq!(doubt.grow(begin + 59 * second), (false, false));
        assert_eq!(doubt.grow(begin + 60 * second), (false, true));
        doubt.clear();
        assert_eq!(doubt.grow(begin + 61 * second), (true, false));
    }
}
