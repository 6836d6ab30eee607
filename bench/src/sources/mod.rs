//! Table sources: how fast a change reaches the nodes, and what ten thousand nodes cost.

mod large;
mod report;
mod spread;
mod stage;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use culvert_lab::interrupt;
use serde::Serialize;

pub(crate) use stage::Kind;

use crate::cli::SourcesArgs;
use crate::compare::{be_alone, print, write};
use crate::machine::Machine;
use crate::programs::Programs;
use crate::progress::Progress;
use large::{Amount, Large};
use spread::Spread;

/// What was found of one source.
#[derive(Clone, Debug, Serialize)]
struct Found {
    kind: Kind,
    spread: Spread,
    large: Large,
}

/// Measures what `args` ask for and prints it.
pub(crate) fn run(args: &SourcesArgs) -> Result<ExitCode> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "this needs root: it makes network namespaces and devices (try `make bench-sources`)"
    );
    let _alone = be_alone()?;
    interrupt::watch()?;
    let programs = match &args.run.culvert {
        Some(path) => Programs::at(path)?,
        None => Programs::build()?,
    };
    let seconds = Duration::from_secs;
    let (rounds, amount) = if args.run.quick {
        (30, Amount { starts: 2, changes: 50, traffic: seconds(3), idle: seconds(3) })
    } else {
        (100, Amount { starts: 3, changes: 100, traffic: seconds(10), idle: seconds(5) })
    };
    let kinds = if args.only.is_empty() { Kind::ALL.to_vec() } else { args.only.clone() };
    let machine = Machine::facts(args.run.date.clone());
    let planned = kinds.iter().map(|kind| spread::duration(rounds) + amount.duration(*kind)).sum();
    let mut progress = Progress::new(2 * kinds.len(), planned);
    if let Some(warning) = machine.warning() {
        progress.say(&warning);
    }
    let found = kinds.into_iter().map(|kind| {
        Ok(Found {
            kind,
            spread: spread::measure(kind, &programs, rounds, &mut progress)?,
            large: large::measure(kind, &programs, amount, &mut progress)?,
        })
    });
    let found: Result<Vec<Found>> = found.collect();
    progress.clear();
    let found = found?;
    print(&report::render(&machine, &found))?;
    if let Some(path) = &args.run.json {
        let json = serde_json::to_string_pretty(&report::to_json(&machine, &found));
        write(path, &(json.context("write JSON")? + "\n"))?;
    }
    let failed = args.run.check && !report::targets(&found).iter().all(|target| target.is_reached);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
