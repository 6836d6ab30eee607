//! Running seeds, and what is said about them.

#![expect(clippy::print_stdout, reason = "a run is told to people")]

use std::collections::BTreeMap;

/// Lines of the trace that are shown of a run that failed on its own.
const LAST_LINES: usize = 60;

/// Something that must hold does not.
#[derive(Debug)]
pub(crate) struct Violation {
    pub(crate) invariant: &'static str,
    pub(crate) detail: String,
}

impl Violation {
    pub(crate) fn new(invariant: &'static str, detail: String) -> Self {
        Self { invariant, detail }
    }
}

/// One run.
pub(crate) struct Outcome {
    pub(crate) trace: String,
    pub(crate) events: u64,
    /// How often each thing happened.
    pub(crate) fates: BTreeMap<&'static str, u64>,
    pub(crate) result: Result<(), Violation>,
}

/// A simulation: its name, which the command line knows, and how it runs a seed.
pub(crate) struct Simulation {
    pub(crate) name: &'static str,
    pub(crate) run: fn(u64, bool) -> Outcome,
}

impl Simulation {
    /// Runs `seeds`; panics over the first that breaks an invariant, having shown how to see it again.
    pub(crate) fn run_all(&self, seeds: std::ops::Range<u64>) -> BTreeMap<&'static str, u64> {
        let (mut fates, mut events) = (BTreeMap::new(), 0);
        let (first, runs) = (seeds.start, seeds.end - seeds.start);
        for seed in seeds {
            let outcome = (self.run)(seed, false);
            if let Err(violation) = outcome.result {
                // The same seed, the same run: only now is it worth writing down.
                let trace = (self.run)(seed, true).trace;
                let lines: Vec<&str> = trace.lines().collect();
                println!("... the last of {} lines:", lines.len());
                lines[lines.len().saturating_sub(LAST_LINES)..]
                    .iter()
                    .for_each(|line| println!("{line}"));
                panic!("{}", self.sentence(seed, &violation));
            }
            events += outcome.events;
            for (fate, count) in outcome.fates {
                *fates.entry(fate).or_default() += count;
            }
        }
        println!("{}: {runs} runs from seed {first}, {events} events", self.name);
        for (fate, count) in &fates {
            println!("{count:>12}  {fate}");
        }
        fates
    }

    /// Shows the whole of one run.
    pub(crate) fn show(&self, seed: u64) {
        let outcome = (self.run)(seed, true);
        print!("{}", outcome.trace);
        if let Err(violation) = outcome.result {
            panic!("{}", self.sentence(seed, &violation));
        }
        println!("{}: seed {seed}: every invariant held", self.name);
    }

    fn sentence(&self, seed: u64, violation: &Violation) -> String {
        let Violation { invariant, detail } = violation;
        let name = self.name;
        format!(
            "{name}: seed {seed} breaks \"{invariant}\": {detail}\n\
             see it again: make simulate-claims SOURCE={name} SEED={seed}"
        )
    }
}
