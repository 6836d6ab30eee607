//! Table sources: how fast a change reaches the nodes, and what ten thousand nodes cost.

mod large;
mod report;
mod spread;
mod stage;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

pub(crate) use stage::{Kind, node_object};

use crate::cli::SourcesArgs;
use crate::session::{self, Findings};
use crate::target::Target;
use large::{Amount, Large};
use spread::Spread;

/// What was found of one source.
#[derive(Clone, Debug, Serialize)]
struct Found {
    kind: Kind,
    spread: Spread,
    large: Large,
}

impl Findings for Vec<Found> {
    const KEY: &'static str = "sources";
    const COMMAND: &'static str = "sources";

    fn text(&self) -> String {
        report::text(self)
    }

    fn targets(&self) -> Vec<Target> {
        report::targets(self)
    }
}

/// Measures what `args` ask for and prints it.
pub(crate) fn run(args: &SourcesArgs) -> Result<ExitCode> {
    let seconds = Duration::from_secs;
    let (rounds, amount) = if args.run.quick {
        (30, Amount { starts: 2, changes: 50, traffic: seconds(3), idle: seconds(3) })
    } else {
        (100, Amount { starts: 3, changes: 100, traffic: seconds(10), idle: seconds(5) })
    };
    let kinds = if args.only.is_empty() { Kind::ALL.to_vec() } else { args.only.clone() };
    let planned = kinds.iter().map(|kind| spread::duration(rounds) + amount.duration(*kind)).sum();
    session::run(&args.run, (2 * kinds.len(), planned), |programs, progress| {
        let found = kinds.into_iter().map(|kind| {
            Ok(Found {
                kind,
                spread: spread::measure(kind, programs, rounds, progress)?,
                large: large::measure(kind, programs, amount, progress)?,
            })
        });
        found.collect::<Result<Vec<Found>>>()
    })
}
