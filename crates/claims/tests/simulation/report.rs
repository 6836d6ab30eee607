//! Running seeds, and what is said about them.

#![expect(clippy::print_stdout, reason = "a run is told to people")]

use std::collections::BTreeMap;
use std::num::NonZero;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

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

/// What came of the runs of one thread, or of all.
#[derive(Default)]
struct Tally {
    events: u64,
    fates: BTreeMap<&'static str, u64>,
    /// The least seed that broke an invariant.
    broken: Option<(u64, Violation)>,
}

impl Tally {
    fn add(&mut self, seed: u64, outcome: Outcome) {
        let Outcome { events, fates, result, .. } = outcome;
        self.merge(Self { events, fates, broken: result.err().map(|broken| (seed, broken)) });
    }

    fn merge(&mut self, other: Self) {
        self.events += other.events;
        for (fate, count) in other.fates {
            *self.fates.entry(fate).or_default() += count;
        }
        let both = [self.broken.take(), other.broken];
        self.broken = both.into_iter().flatten().min_by_key(|(seed, _)| *seed);
    }
}

impl Simulation {
    /// Runs `seeds`, on all CPUs; panics over one that breaks an invariant, having shown how to see
    /// it again.
    pub(crate) fn run_all(&self, seeds: Range<u64>) -> BTreeMap<&'static str, u64> {
        let tally = self.tally(&seeds);
        if let Some((seed, violation)) = tally.broken {
            // The same seed, the same run: only now is it worth writing down.
            let trace = (self.run)(seed, true).trace;
            let lines: Vec<&str> = trace.lines().collect();
            println!("... the last of {} lines:", lines.len());
            let last = &lines[lines.len().saturating_sub(LAST_LINES)..];
            last.iter().for_each(|line| println!("{line}"));
            panic!("{}", self.sentence(seed, &violation));
        }
        let (first, runs) = (seeds.start, seeds.end - seeds.start);
        println!("{}: {runs} runs from seed {first}, {} events", self.name, tally.events);
        for (fate, count) in &tally.fates {
            println!("{count:>12}  {fate}");
        }
        tally.fates
    }

    fn tally(&self, seeds: &Range<u64>) -> Tally {
        let next = AtomicU64::new(seeds.start);
        let work = || {
            let mut tally = Tally::default();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= seeds.end {
                    return tally;
                }
                tally.add(seed, (self.run)(seed, false));
                if tally.broken.is_some() {
                    // Nobody begins another.
                    next.store(seeds.end, Ordering::Relaxed);
                }
            }
        };
        let threads = thread::available_parallelism().map_or(1, NonZero::get);
        thread::scope(|scope| {
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            workers.into_iter().fold(Tally::default(), |mut all, worker| {
                all.merge(worker.join().unwrap());
                all
            })
        })
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
