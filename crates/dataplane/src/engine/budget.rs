//! How often something may happen: a token bucket.

use std::time::{Duration, Instant};

/// So many at once, and one more after each interval.
#[derive(Debug)]
pub(crate) struct Budget {
    burst: u32,
    interval: Duration,
    tokens: u32,
    refilled: Instant,
}

impl Budget {
    pub(crate) fn new(burst: u32, interval: Duration, now: Instant) -> Self {
        Self { burst, interval, tokens: burst, refilled: now }
    }

    /// Takes one token if there is one.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.refilled).as_nanos();
        let earned = passed / self.interval.as_nanos();
        if earned > 0 {
            let earned = u32::try_from(earned).unwrap_or(u32::MAX);
            self.tokens = self.tokens.saturating_add(earned).min(self.burst);
            // Whole intervals only, so that frequent calls do not lose the rest.
            self.refilled = if self.tokens == self.burst {
                now
            } else {
                self.refilled + self.interval * earned
            };
        }
        let granted = self.tokens > 0;
        self.tokens = self.tokens.saturating_sub(1);
        granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::clock;

    const BURST: u32 = 50;
    const INTERVAL: Duration = Duration::from_millis(1);

    #[test]
    fn a_burst_is_granted_and_then_one_per_interval() {
        let start = clock::now();
        let mut budget = Budget::new(BURST, INTERVAL, start);
        assert_eq!((0..1000).filter(|_| budget.take(start)).count(), BURST as usize);
        let later = start + INTERVAL * 3 + INTERVAL / 2;
        assert_eq!((0..1000).filter(|_| budget.take(later)).count(), 3);
        // The half interval was not lost.
        assert!(budget.take(later + INTERVAL / 2));
    }

    #[test]
    fn a_long_pause_buys_no_more_than_a_burst() {
        let start = clock::now();
        let mut budget = Budget::new(BURST, INTERVAL, start);
        let later = start + Duration::from_secs(1 << 20);
        assert_eq!((0..1000).filter(|_| budget.take(later)).count(), BURST as usize);
    }
}
