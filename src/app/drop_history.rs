//! How many packets were dropped lately, by reason.
//!
//! Workers count since their start. Here their counts are written down every few seconds, for a
//! minute, by the task that looks at traffic anyhow; what has come since is the difference.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use culvert_dataplane::engine::DropReason;

/// How often counts are written down.
const EVERY: Duration = Duration::from_secs(5);

/// How far back is looked.
pub(super) const MINUTE: Duration = Duration::from_secs(60);

/// Counts of all reasons, in the order of [`DropReason::ALL`].
pub(super) type Counts = [u64; DropReason::COUNT];

/// What was counted at moments of the last minute, the oldest first.
#[derive(Debug, Default)]
pub(super) struct DropHistory(VecDeque<(Instant, Counts)>);

impl DropHistory {
    /// Writes the present counts down, if that is due.
    pub(super) fn note(&mut self, now: Instant, counts: impl FnOnce() -> Counts) {
        let age = |(at, _): &(Instant, Counts)| now.saturating_duration_since(*at);
        if self.0.back().is_some_and(|newest| age(newest) < EVERY) {
            return;
        }
        // The first one kept is the last that is a minute old.
        while self.0.get(1).is_some_and(|second| age(second) >= MINUTE) {
            self.0.pop_front();
        }
        self.0.push_back((now, counts()));
    }

    /// How much of `count`, the present one, is of about the last minute.
    pub(super) fn in_last_minute(&self, reason: DropReason, count: u64, now: Instant) -> u64 {
        let is_old = |(at, _): &&(Instant, Counts)| now.saturating_duration_since(*at) >= MINUTE;
        // Before the daemon has run for a minute all of it is.
        let before = self.0.iter().take_while(is_old).last();
        before.map_or(count, |(_, counts)| count.saturating_sub(counts[reason.index()]))
    }
}

#[cfg(test)]
mod tests {
    use culvert_dataplane::platform::clock;

    use super::*;

    #[test]
    fn what_is_older_than_a_minute_is_not_of_the_last_one() {
        const REASON: DropReason = DropReason::UnknownPeer;
        let counts = |count| [count; DropReason::COUNT];
        let start = clock::now();
        let mut history = DropHistory::default();
        assert_eq!(history.in_last_minute(REASON, 7, start), 7, "nothing was written down yet");
        // One more each second.
        for second in 0..200 {
            history.note(start + Duration::from_secs(second), || counts(second));
        }
        let lately = |second, count| {
            history.in_last_minute(REASON, count, start + Duration::from_secs(second))
        };
        assert!((60..=65).contains(&lately(199, 199)), "{}", lately(199, 199));
        assert_eq!(lately(400, 199), 4, "since it was written down for the last time");
        assert!(history.0.len() <= 14, "{}", history.0.len());
    }
}
