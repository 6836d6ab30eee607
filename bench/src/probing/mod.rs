//! `bench probes`: what it costs a node to ask its peers, and how soon it finds out what is wrong.

mod cost;
mod detection;

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, ValueEnum};
use culvert_lab::interrupt;
use culvert_probe::PEER_LEN;

use self::cost::{Scene, bytes_of_a_peer, measure};
use crate::programs::Programs;

#[derive(Debug, Args)]
pub(crate) struct ProbesArgs {
    /// Only these parts.
    #[arg(long, value_name = "PART", value_delimiter = ',')]
    only: Vec<Part>,
    /// Peers in the table, for what they cost.
    #[arg(long, value_name = "COUNT", default_value_t = 1000)]
    peers: u32,
    /// How long each measurement of what they cost lasts.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    seconds: u64,
    /// How often each thing that is to be found out is done.
    #[arg(long, value_name = "COUNT", default_value_t = 10)]
    rounds: u32,
    /// Measure this build of culvert instead of building one; `culvert-cni` is beside it.
    #[arg(long, value_name = "PATH")]
    culvert: Option<PathBuf>,
}

/// What can be measured by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// CPU time and memory with many peers.
    Cost,
    /// Peers that die.
    Peers,
    /// Source ports that lead nowhere.
    Paths,
    /// Paths that drop long packets without a word.
    Holes,
}

impl ProbesArgs {
    fn has(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }
}

pub(crate) fn run(args: &ProbesArgs) -> Result<ExitCode> {
    interrupt::watch()?;
    let programs = Programs::of(args.culvert.as_deref())?;
    let mut out = io::stdout().lock();
    if args.has(Part::Cost) {
        tell_cost(args, &programs, &mut out)?;
    }
    let mut found = Vec::new();
    if args.has(Part::Peers) {
        found.extend(detection::peers(&programs, args.rounds)?);
    }
    if args.has(Part::Paths) {
        found.extend(detection::paths(&programs, args.rounds)?);
    }
    if args.has(Part::Holes) {
        found.extend(detection::holes(&programs, args.rounds)?);
    }
    for found in found {
        writeln!(out, "{found}")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn tell_cost(args: &ProbesArgs, programs: &Programs, out: &mut impl io::Write) -> Result<()> {
    let bytes = bytes_of_a_peer(100_000)?;
    writeln!(
        out,
        "a peer takes {bytes:.0} bytes of memory (of 100,000 at once; at most {PEER_LEN} by its type)"
    )?;
    let (lasts, peers) = (Duration::from_secs(args.seconds), args.peers);
    for (scene, what) in
        [(Scene::Seldom, "a packet now and then"), (Scene::Often, "packets all the time")]
    {
        let with = measure(programs, peers, "", scene, lasts)?;
        let without = measure(programs, peers, "[probe]\ninterval = 0", scene, lasts)?;
        writeln!(
            out,
            "asking {peers} peers, {what}: {:.3} % of a core ({:.3} with, {:.3} without); {:.1} \
             questions a second; {:.1} MiB resident with, {:.1} without",
            with.percent() - without.percent(),
            with.percent(),
            without.percent(),
            with.rate(),
            mib(with.resident),
            mib(without.resident),
        )?;
        if scene == Scene::Seldom {
            let looked_at = measure(programs, peers, "", Scene::LookedAt, lasts)?;
            writeln!(
                out,
                "looked at by culvert ui: {:.3} % of a core, {:.1} MiB resident",
                looked_at.percent(),
                mib(looked_at.resident),
            )?;
        }
    }
    Ok(())
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
