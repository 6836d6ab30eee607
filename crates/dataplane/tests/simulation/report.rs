//! Running seeds, and what is said about them.

#![expect(clippy::print_stdout, reason = "a run is told to people")]

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use crate::ledger::Violation;
use crate::world::World;

/// Lines of the trace that are shown of a run that failed on its own.
const LAST_LINES: usize = 40;

/// Characters of the detail of a violation; whole packets may be in it.
const MAX_DETAIL: usize = 2000;

/// What a number of runs came to.
#[derive(Debug, Default)]
pub(crate) struct Summary {
    pub(crate) runs: u64,
    pub(crate) events: u64,
    /// How many packets met each fate.
    pub(crate) fates: BTreeMap<&'static str, u64>,
}

/// One run.
pub(crate) struct Outcome {
    pub(crate) trace: String,
    pub(crate) events: u64,
    pub(crate) fates: BTreeMap<&'static str, u64>,
    pub(crate) last_delivery: Duration,
    pub(crate) result: Result<(), Violation>,
}

pub(crate) fn run(seed: u64, traced: bool) -> Outcome {
    let mut world = World::new(seed, traced);
    let result = catch_unwind(AssertUnwindSafe(|| world.run()));
    Outcome {
        trace: world.trace().to_owned(),
        events: world.events,
        fates: world.ledger.fates.clone(),
        last_delivery: world.ledger.last_delivery,
        result: result
            .unwrap_or_else(|_| Err(Violation::new("nothing panics", "see the message above"))),
    }
}

/// Runs `seeds`; panics over the first that breaks an invariant, having shown how to see it again.
pub(crate) fn run_all(seeds: impl Iterator<Item = u64>) -> Summary {
    let mut summary = Summary::default();
    for seed in seeds {
        let outcome = run(seed, false);
        if let Err(violation) = outcome.result {
            // The same seed, the same run: only now is it worth writing down.
            let trace = run(seed, true).trace;
            let lines: Vec<&str> = trace.lines().collect();
            println!("... the last of {} lines:", lines.len());
            lines[lines.len().saturating_sub(LAST_LINES)..].iter().for_each(|l| println!("{l}"));
            panic!("{}", sentence(seed, &violation));
        }
        summary.runs += 1;
        summary.events += outcome.events;
        for (fate, count) in outcome.fates {
            *summary.fates.entry(fate).or_default() += count;
        }
    }
    summary
}

/// Shows the whole of one run.
pub(crate) fn show(seed: u64) {
    let outcome = run(seed, true);
    print!("{}", outcome.trace);
    for (fate, count) in &outcome.fates {
        println!("{count:>9}  {fate}");
    }
    if let Err(violation) = outcome.result {
        panic!("{}", sentence(seed, &violation));
    }
    println!("seed {seed}: every invariant held");
}

fn sentence(seed: u64, violation: &Violation) -> String {
    let Violation { invariant, detail } = violation;
    let detail: String = detail.chars().take(MAX_DETAIL).collect();
    format!("seed {seed} breaks \"{invariant}\": {detail}\nsee it again: make simulate SEED={seed}")
}
