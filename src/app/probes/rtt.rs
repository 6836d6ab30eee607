//! How long answers take, counted.

use std::time::Duration;

/// Upper bounds in seconds: from one switch to the other side of the world.
pub(crate) const BOUNDS: [f64; 10] =
    [0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.01, 0.025, 0.1, 0.25, 1.0];

/// A histogram since the start.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct RttHistogram {
    /// Answers up to each bound and not to the one before; the last are those above all.
    pub(crate) counts: [u64; BOUNDS.len() + 1],
    pub(crate) sum: f64,
}

impl RttHistogram {
    pub(super) fn add(&mut self, rtt: Duration) {
        let seconds = rtt.as_secs_f64();
        let place = BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS.len());
        self.counts[place] += 1;
        self.sum += seconds;
    }
}
