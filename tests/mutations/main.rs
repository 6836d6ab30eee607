//! `make mutants`: removes each check in turn and says which test notices.
//!
//! Builds one copy of the source, under `target/mutants`, that has every mutant of `list.toml`
//! switched off, and runs its tests for each with that one switched on: those of its own crate
//! first, quick ones before slow ones, until one fails. Fails if a mutant lives. `MUTANTS` chooses
//! those whose name has one of its words.

#![expect(clippy::unwrap_used, reason = "a test may fail where it stands")]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for people")]
#![expect(clippy::disallowed_methods, reason = "it measures how long other programs take")]

mod copy;
mod list;
mod programs;

use std::fmt;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use self::list::Mutation;
use self::programs::{Outcome, Program};

/// What became of a mutant.
enum Verdict<'a> {
    /// This test of this program failed.
    Noticed(&'a Program, String),
    /// This program ended before a test could say that it failed, as some simulations do.
    Died(&'a Program),
    /// This program took much longer than it should.
    Hung(&'a Program),
    Lives,
}

fn main() -> ExitCode {
    match run() {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_alive) => ExitCode::FAILURE,
        Err(complaint) => {
            eprintln!("{complaint}");
            ExitCode::FAILURE
        }
    }
}

/// Tries every mutant that is wanted; how many live.
fn run() -> Result<usize, String> {
    let wanted = std::env::var("MUTANTS").unwrap_or_default();
    let mutations = list::read();
    println!("building {} mutants at once", mutations.len());
    let is_wanted = |name: &str| {
        wanted.trim().is_empty() || wanted.split_whitespace().any(|part| name.contains(part))
    };
    let chosen: Vec<_> = mutations.iter().filter(|mutation| is_wanted(&mutation.name)).collect();
    let mutated = chosen.iter().map(|mutation| mutation.package()).collect();
    let programs = programs::build(&copy::write(&mutations)?, &mutated)?;
    for program in &programs {
        println!("{:<40} takes {:>6}", program.name, Seconds(program.takes));
    }
    let begin = Instant::now();
    let alive = AtomicUsize::new(0);
    let next = AtomicUsize::new(0);
    let at_once = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                while let Some(mutation) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let begin = Instant::now();
                    let verdict = judge(mutation, &programs);
                    if matches!(verdict, Verdict::Lives) {
                        alive.fetch_add(1, Ordering::Relaxed);
                    }
                    println!("{:<36} {:>6} {verdict}", mutation.name, Seconds(begin.elapsed()));
                }
            });
        }
    });
    let alive = alive.into_inner();
    println!("{} mutants in {}, {alive} live", chosen.len(), Seconds(begin.elapsed()));
    Ok(alive)
}

fn judge<'a>(mutation: &Mutation, programs: &'a [Program]) -> Verdict<'a> {
    let package = mutation.package();
    let concerned = programs.iter().filter(|program| program.has(package));
    let (own, others): (Vec<_>, Vec<_>) = concerned.partition(|one| one.package == package);
    for program in own.into_iter().chain(others) {
        match program.run_mutant(&mutation.name) {
            Outcome::Passed => {}
            Outcome::Failed(test) => return Verdict::Noticed(program, test),
            Outcome::Died => return Verdict::Died(program),
            Outcome::Hung => return Verdict::Hung(program),
        }
    }
    Verdict::Lives
}

impl fmt::Display for Verdict<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Noticed(program, test) => write!(f, "{}: {test} fails", program.name),
            Self::Died(program) => write!(f, "{} ends before its time", program.name),
            Self::Hung(program) => write!(f, "{} DOES NOT END", program.name),
            Self::Lives => f.write_str("NOBODY NOTICES"),
        }
    }
}

/// A time as people read it.
struct Seconds(Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{:.1} s", self.0.as_secs_f64()))
    }
}
