//! How often something may happen.

use std::time::{Duration, Instant};

/// So many at once, and one more after each interval.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    most: u32,
    interval: Duration,
    left: u32,
    /// When the last one was given back; none while all are there.
    since: Option<Instant>,
}

impl Budget {
    pub(super) const fn new(most: u32, interval: Duration) -> Self {
        Self { most, interval, left: most, since: None }
    }

    /// Whether it may happen now.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        if let Some(since) = self.since {
            let passed = now.saturating_duration_since(since).as_nanos();
            let back = u32::try_from(passed / self.interval.as_nanos()).unwrap_or(u32::MAX);
            self.left = self.left.saturating_add(back).min(self.most);
            self.since = (self.left < self.most)
                .then(|| since.checked_add(self.interval.saturating_mul(back)).unwrap_or(now));
        }
        let Some(left) = self.left.checked_sub(1) else { return false };
        self.left = left;
        self.since.get_or_insert(now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any moment will do")]
    fn what_is_spent_comes_back_one_by_one() {
        let mut now = Instant::now();
        let mut budget = Budget::new(3, Duration::from_millis(100));
        let mut spend =
            |now| std::iter::repeat_with(|| budget.take(now)).take_while(|it| *it).count();
        assert_eq!(spend(now), 3);
        now += Duration::from_millis(99);
        assert_eq!(spend(now), 0);
        now += Duration::from_millis(1);
        assert_eq!(spend(now), 1);
        now += Duration::from_millis(250);
        assert_eq!(spend(now), 2);
        now += Duration::from_secs(1_000_000);
        assert_eq!(spend(now), 3);
    }
}
