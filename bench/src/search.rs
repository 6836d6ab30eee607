//! The search for the highest rate that a network carries with little loss.
//!
//! Owns the choice of the next rate to try, from the outcomes so far. Pure: sends nothing, and
//! knows no clock.

/// Share of packets that may be lost at a rate that counts as carried.
pub(crate) const MAX_LOSS: f64 = 0.01;

/// Where the search ends: carried and not carried rate this close, as a factor.
const PRECISION: f64 = 1.04;

/// A bound on the number of trials. Without disturbances a search takes six to nine.
const MAX_TRIALS: u32 = 14;

/// A sender that reaches less than this share of the rate asked for is itself the limit.
const REACHED: f64 = 0.95;

/// The longest stride upward, as a factor.
const MAX_STRIDE: f64 = 2.0;

/// Trials in a row that the sender may be the limit of, without getting further, before the search
/// ends: once may be chance.
const MAX_LIMITED: u32 = 2;

/// What came of offering packets at some rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Trial {
    /// Packets per second that were really sent.
    pub(crate) offered_pps: f64,
    /// Packets per second that arrived.
    pub(crate) delivered_pps: f64,
}

impl Trial {
    fn is_carried(&self) -> bool {
        self.delivered_pps > 0.0 && self.delivered_pps >= self.offered_pps * (1.0 - MAX_LOSS)
    }
}

/// A search in progress.
///
/// Lengthens its stride upward until a rate is not carried, then halves the gap. Before it believes
/// the lowest rate that was not carried, it tries that one again: a hiccup of the machine must not
/// decide.
#[derive(Debug)]
pub(crate) struct Search {
    /// The highest rate asked for that was carried.
    low: f64,
    /// The lowest that was not.
    high: Option<f64>,
    next: f64,
    stride: f64,
    verified: bool,
    limited: u32,
    trials: u32,
    best: f64,
}

impl Search {
    /// Starts at `start_pps`, and strides by a factor of `stride`.
    pub(crate) fn new(start_pps: f64, stride: f64) -> Self {
        Self {
            low: 0.0,
            high: None,
            next: start_pps,
            stride,
            verified: false,
            limited: 0,
            trials: 0,
            best: 0.0,
        }
    }

    /// The next rate to try; none once the search has ended.
    pub(crate) fn next_rate(&self) -> Option<f64> {
        let ended = self.trials >= MAX_TRIALS || self.limited >= MAX_LIMITED || self.verified;
        (!ended).then_some(self.next)
    }

    /// The highest rate of arrival among the rates that were carried.
    pub(crate) fn best_pps(&self) -> f64 {
        self.best
    }

    /// Takes the outcome of the rate that [`next_rate`](Self::next_rate) named.
    pub(crate) fn record(&mut self, trial: &Trial) {
        let asked = self.next;
        let verifying = self.high == Some(asked);
        let reached = trial.offered_pps >= asked * REACHED;
        self.trials += 1;
        if trial.is_carried() {
            // A sender that others kept from running gets further when asked for more.
            let improved = trial.delivered_pps > self.best * PRECISION;
            self.limited = if reached || improved { 0 } else { self.limited + 1 };
            self.best = self.best.max(trial.delivered_pps);
            self.low = self.low.max(asked);
            if verifying {
                self.high = None;
            }
        } else if verifying {
            self.verified = true;
        } else {
            self.high = Some(self.high.map_or(asked, |high| high.min(asked)));
        }
        self.next = self.choose(trial);
    }

    fn choose(&mut self, trial: &Trial) -> f64 {
        let Some(high) = self.high else {
            let next = self.low * self.stride;
            self.stride = (self.stride * self.stride).min(MAX_STRIDE);
            return next;
        };
        if self.low == 0.0 {
            // What arrived is a good guess at what can be carried.
            return (trial.delivered_pps * REACHED).clamp(high * 0.2, high * 0.9);
        }
        if high / self.low <= PRECISION { high } else { (high * self.low).sqrt() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A network that carries `capacity`, fed by a sender that reaches `reach`.
    fn offer(asked: f64, capacity: f64, reach: f64) -> Trial {
        let offered_pps = asked.min(reach);
        Trial { offered_pps, delivered_pps: offered_pps.min(capacity) }
    }

    fn search(start: f64, stride: f64, mut network: impl FnMut(f64) -> Trial) -> (f64, u32) {
        let mut search = Search::new(start, stride);
        while let Some(rate) = search.next_rate() {
            search.record(&network(rate));
        }
        (search.best_pps(), search.trials)
    }

    #[test]
    fn finds_the_capacity_from_below_and_above() {
        for capacity in [900.0, 50_000.0, 123_456.0, 400_000.0] {
            let (found, trials) = search(100_000.0, 1.6, |rate| offer(rate, capacity, 1e9));
            assert!((0.95..=1.0).contains(&(found / capacity)), "{found} of {capacity}");
            assert!(trials <= 12, "{trials} trials");
        }
    }

    #[test]
    fn a_good_guess_saves_trials() {
        let (found, trials) = search(98_000.0, 1.08, |rate| offer(rate, 100_000.0, 1e9));
        assert!((0.95..=1.0).contains(&(found / 100_000.0)), "{found}");
        assert!(trials <= 5, "{trials} trials");
    }

    #[test]
    fn a_sender_that_is_the_limit_ends_the_search() {
        let (found, trials) = search(100_000.0, 1.6, |rate| offer(rate, 1e9, 250_000.0));
        assert_eq!(found, 250_000.0);
        assert!(trials <= 6, "{trials} trials");
    }

    #[test]
    fn a_sender_that_gets_half_of_the_time_finds_the_capacity() {
        let (found, _) = search(60_000.0, 1.5, |rate| {
            let offered_pps = rate / 2.0;
            Trial { offered_pps, delivered_pps: offered_pps.min(200_000.0) }
        });
        assert!((0.9..=1.0).contains(&(found / 200_000.0)), "{found}");
    }

    #[test]
    fn one_hiccup_does_not_decide() {
        let mut count = 0;
        let (found, _) = search(100_000.0, 1.6, |rate| {
            count += 1;
            offer(rate, if count == 1 { 20_000.0 } else { 100_000.0 }, 1e9)
        });
        assert!(found > 90_000.0, "{found}");
    }

    #[test]
    fn a_network_that_carries_nothing_ends_the_search() {
        let (found, trials) = search(100_000.0, 1.6, |rate| offer(rate, 0.0, 1e9));
        assert_eq!((found, trials), (0.0, MAX_TRIALS));
    }

    #[test]
    fn one_percent_of_loss_is_carried_and_more_is_not() {
        let trial = |delivered_pps| Trial { offered_pps: 1000.0, delivered_pps };
        assert!(trial(990.0).is_carried());
        assert!(!trial(989.0).is_carried());
    }
}
