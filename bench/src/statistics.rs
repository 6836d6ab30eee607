//! Medians, spreads and percentiles.

use std::fmt;
use std::time::Duration;

/// What several samples of one figure come to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Summary {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Summary {
    /// Sums up `samples`; none if there are none.
    pub(crate) fn of(samples: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = samples.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let (low, high) = (sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
        Some(Self { median: f64::midpoint(low, high), min, max })
    }
}

/// The median over rounds of what `figure` was to `baseline` in the same round. A machine that gets
/// slower from round to round makes both slower and leaves this as it is.
pub(crate) fn ratio(figure: &[Option<f64>], baseline: &[Option<f64>]) -> Option<f64> {
    let pairs = figure.iter().zip(baseline).filter_map(|(a, b)| a.zip(*b));
    let ratios = pairs.filter(|(_, base)| *base > 0.0).map(|(value, base)| value / base);
    Summary::of(ratios).map(|summary| summary.median)
}

/// What `figure` was to `baseline`, round by round.
pub(crate) fn ratios(figure: &[f64], baseline: &[f64]) -> Vec<f64> {
    let pairs = figure.iter().zip(baseline).filter(|(_, base)| **base > 0.0);
    pairs.map(|(value, base)| value / base).collect()
}

/// A median, and between what values that of endless rounds lies, 19 times out of 20.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl Spread {
    /// The spread of `samples`, whatever their distribution: the bounds are two of them, so far
    /// from the middle as the sign test asks for. Of fewer than six they are the outermost, which
    /// says less.
    pub(crate) fn of(samples: &[f64]) -> Self {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let count = sorted.len();
        // The normal approximation of the binomial distribution.
        let below = (count as f64 / 2.0 - 0.98 * (count as f64).sqrt()).floor().max(1.0) as usize;
        let at = |place: usize| sorted.get(place).copied().unwrap_or(f64::NAN);
        let median = Summary::of(sorted.iter().copied()).map_or(f64::NAN, |it| it.median);
        Self { median, low: at(below - 1), high: at(count.saturating_sub(below)) }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3} ({:.3} to {:.3})", self.median, self.low, self.high)
    }
}

/// The value that `per_mille` of `sorted` do not exceed (nearest rank).
pub(crate) fn percentile(sorted: &[Duration], per_mille: usize) -> Option<Duration> {
    let rank = (sorted.len() * per_mille).div_ceil(1000).max(1);
    sorted.get(rank - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_lies_between_the_middle_two() {
        let summary = Summary::of([4.0, 1.0, 3.0, 2.0]).unwrap();
        assert_eq!(summary, Summary { median: 2.5, min: 1.0, max: 4.0 });
        assert_eq!(Summary::of([7.0]).unwrap().median, 7.0);
        assert_eq!(Summary::of([]), None);
    }

    #[test]
    fn a_machine_that_gets_slower_leaves_the_ratio_as_it_is() {
        let figure = [Some(8.0), Some(4.0), Some(2.0)];
        let baseline = [Some(16.0), Some(8.0), Some(4.0)];
        assert_eq!(ratio(&figure, &baseline), Some(0.5));
    }

    #[test]
    fn rounds_that_failed_are_left_out_of_the_ratio() {
        let figure = [Some(8.0), None, Some(2.0)];
        let baseline = [Some(16.0), Some(1.0), None];
        assert_eq!(ratio(&figure, &baseline), Some(0.5));
        assert_eq!(ratio(&[None], &[Some(1.0)]), None);
        assert_eq!(ratio(&[Some(1.0)], &[Some(0.0)]), None);
    }

    #[test]
    fn the_median_of_endless_rounds_lies_between_two_samples() {
        let samples: Vec<f64> = (1..=40).rev().map(f64::from).collect();
        let spread = Spread::of(&samples);
        // The tables of the sign test have 14 and 27 for forty samples; the approximation errs on
        // the wide side.
        assert_eq!(spread, Spread { median: 20.5, low: 13.0, high: 28.0 });
        assert_eq!(spread.to_string(), "20.500 (13.000 to 28.000)");
        let few = Spread::of(&[3.0, 1.0, 2.0]);
        assert_eq!((few.low, few.high), (1.0, 3.0));
        assert!(Spread::of(&[]).median.is_nan());
        assert_eq!(ratios(&[1.0, 2.0, 3.0], &[2.0, 0.0]), [0.5]);
    }

    #[test]
    fn percentiles_are_values_that_occurred() {
        let sorted: Vec<Duration> = (1..=200).map(Duration::from_micros).collect();
        assert_eq!(percentile(&sorted, 500), Some(Duration::from_micros(100)));
        assert_eq!(percentile(&sorted, 990), Some(Duration::from_micros(198)));
        assert_eq!(percentile(&sorted[..1], 990), Some(Duration::from_micros(1)));
        assert_eq!(percentile(&[], 500), None);
    }
}
