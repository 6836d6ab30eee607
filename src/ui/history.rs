//! What was dropped within the last hour, minute by minute, and how much it is now.
//!
//! Bounded: sixty minutes, and for each daemon that is looked at its last counts.

use std::collections::BTreeMap;

use super::vantage::Seen;
use crate::observe::Status;

/// Seconds of a bar, and how many there are.
const SPAN: u64 = 60;
const BARS: u64 = 60;

/// Counts by reason; those of the kernel are called `kernel_socket` and `kernel_tun`.
pub(super) type Counts = BTreeMap<String, u64>;

/// Counts of the past.
#[derive(Debug, Default)]
pub(super) struct History {
    last: BTreeMap<String, Last>,
    /// By the second at which they begin.
    bars: BTreeMap<u64, Counts>,
}

#[derive(Debug, Default)]
struct Last {
    at: u64,
    /// Since the daemon's start.
    total: Counts,
    started: f64,
    /// Per second, of those that grow.
    rates: BTreeMap<String, f64>,
}

impl History {
    /// Takes what was seen at `now`, in seconds since 1970.
    pub(super) fn take(&mut self, seen: &[Seen], now: u64) {
        let bar = now / SPAN * SPAN;
        let oldest = bar.saturating_sub((BARS - 1) * SPAN);
        self.bars.retain(|begin, _| *begin >= oldest);
        self.last.retain(|name, _| seen.iter().any(|seen| seen.name == *name));
        for seen in seen {
            let Some(Ok(status)) = &seen.found else { continue };
            let total = totals(status);
            let last = self.last.entry(seen.name.clone()).or_default();
            let (before, passed) = (std::mem::take(last), now);
            let is_same = last_start(&before, status);
            let passed = passed.saturating_sub(before.at);
            let grown = grown(&total, &before.total, is_same);
            let rates = match (before.at, passed) {
                // What was before the first look is not of this hour.
                (0, _) => BTreeMap::new(),
                (_, 0) => before.rates,
                #[expect(clippy::cast_precision_loss, reason = "a rate has three digits")]
                (_, passed) => {
                    let rate = |(reason, count): (&String, &u64)| {
                        (reason.clone(), *count as f64 / passed as f64)
                    };
                    grown.iter().map(rate).collect()
                }
            };
            if before.at != 0 {
                let bar = self.bars.entry(bar).or_default();
                grown
                    .into_iter()
                    .for_each(|(reason, count)| *bar.entry(reason).or_default() += count);
            }
            let at = if passed == 0 { before.at } else { now };
            *last = Last { at, total, started: status.process.started, rates };
        }
        self.bars.retain(|_, counts| !counts.is_empty());
    }

    /// Drops a second of a daemon, by reason.
    pub(super) fn rates(&self, name: &str) -> impl Iterator<Item = (&str, f64)> {
        let rates = self.last.get(name).map(|last| &last.rates);
        rates.into_iter().flatten().map(|(reason, rate)| (reason.as_str(), *rate))
    }

    /// Counts of each minute in which there were any, by the second at which it began.
    pub(super) fn bars(&self) -> &BTreeMap<u64, Counts> {
        &self.bars
    }
}

fn last_start(before: &Last, status: &Status) -> bool {
    (before.started - status.process.started).abs() < 1.0
}

fn totals(status: &Status) -> Counts {
    let own = status.drops.iter().map(|(reason, count)| (reason.as_str().to_owned(), *count));
    let kernel = [("kernel_socket", status.receive_drops), ("kernel_tun", status.tun_drops)];
    let kernel = kernel.into_iter().filter_map(|(name, count)| Some((name.to_owned(), count?)));
    own.chain(kernel).filter(|(_, count)| *count > 0).collect()
}

/// What has come to pass since; everything, where the daemon is another one.
fn grown(total: &Counts, before: &Counts, is_same: bool) -> Counts {
    let base = |reason: &String| if is_same { before.get(reason).copied() } else { None };
    total
        .iter()
        .map(|(reason, count)| (reason.clone(), count.saturating_sub(base(reason).unwrap_or(0))))
        .filter(|(_, count)| *count > 0)
        .collect()
}

#[cfg(test)]
mod tests {
    use culvert_dataplane::engine::DropReason;

    use super::*;

    fn seen(drops: u64, started: f64) -> Vec<Seen> {
        let mut status = Status::default();
        let reason = DropReason::ALL.into_iter().find(|it| it.as_str() == "no_owner").unwrap();
        status.drops.insert(reason, drops);
        status.process.started = started;
        vec![Seen { name: "node1".to_owned(), found: Some(Ok(status)) }]
    }

    #[test]
    fn drops_are_counted_from_the_first_look_on_and_forgotten_after_an_hour() {
        let mut history = History::default();
        history.take(&seen(1000, 5.0), 60_000);
        assert!(history.bars().is_empty(), "that was before");
        history.take(&seen(1020, 5.0), 60_010);
        assert_eq!(history.rates("node1").collect::<Vec<_>>(), [("no_owner", 2.0)]);
        history.take(&seen(1020, 5.0), 60_020);
        assert_eq!(history.rates("node1").count(), 0);
        // A daemon that was started again begins with zero.
        history.take(&seen(7, 60_055.0), 60_065);
        let bars: Vec<_> = history.bars().iter().map(|(at, bar)| (*at, bar["no_owner"])).collect();
        assert_eq!(bars, [(60_000, 20), (60_060, 7)]);
        history.take(&seen(7, 60_055.0), 63_600);
        assert_eq!(history.bars().keys().collect::<Vec<_>>(), [&60_060]);
        history.take(&[], 63_660);
        assert!(history.bars().is_empty() && history.last.is_empty());
    }
}
