//! Medians, spreads and percentiles.

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
    fn percentiles_are_values_that_occurred() {
        let sorted: Vec<Duration> = (1..=200).map(Duration::from_micros).collect();
        assert_eq!(percentile(&sorted, 500), Some(Duration::from_micros(100)));
        assert_eq!(percentile(&sorted, 990), Some(Duration::from_micros(198)));
        assert_eq!(percentile(&sorted[..1], 990), Some(Duration::from_micros(1)));
        assert_eq!(percentile(&[], 500), None);
    }
}
