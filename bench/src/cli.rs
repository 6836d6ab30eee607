//! The command line.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::handshakes::HandshakesArgs;
use crate::metric::Measure;
use crate::probing::{self, ProbesArgs};
#[cfg(feature = "sources")]
use crate::sources::{self, Kind};
use crate::{churn, compare, handshakes, look, sealed};
#[cfg(feature = "sources")]
use crate::{cluster, policy};

/// Measures Culvert against other pod networks, side by side on this machine.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build every network, measure them in turn, and print what came out.
    ///
    /// Needs root, and a machine that does nothing else.
    Compare(CompareArgs),
    /// Attach and detach pods, beside the stock plugins `bridge` and `host-local`.
    ///
    /// Needs root, those two plugins, and a machine that does nothing else.
    Churn(ChurnArgs),
    /// Make sessions with as many peers as a large cluster has, on one thread.
    Handshakes(HandshakesArgs),
    /// Ask as many peers as a large cluster has whether they answer.
    ///
    /// Needs root.
    Probes(ProbesArgs),
    /// Look at nodes by `doctor`, by scrapes, `flows` and `top`: what it takes, and what it costs.
    ///
    /// Needs root, and a machine that does nothing else.
    Look(LookArgs),
    /// Follow a file, etcd and a stand-in for the Kubernetes API, and change what they have.
    ///
    /// Needs root, etcd, and a machine that does nothing else.
    #[cfg(feature = "sources")]
    Sources(SourcesArgs),
    /// Enforce network policies: what that costs, and how soon a change is in force.
    ///
    /// Needs root, and a machine that does nothing else.
    #[cfg(feature = "sources")]
    Policy(PolicyArgs),
    /// Follow a stand-in for the Kubernetes API that tells of a large cluster.
    ///
    /// Needs root, and a machine that does nothing else.
    #[cfg(feature = "sources")]
    Cluster(ClusterArgs),
    /// Sealed mode: handshakes, floods, renewals, and how soon sessions stand.
    ///
    /// Needs root, and a machine that does nothing else.
    Sealed(SealedArgs),
    /// List the networks, and what this machine lacks for them.
    List,
    /// Remove what a killed run left behind.
    Clean,
}

/// What every measuring command takes.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Measure less of everything, in a quarter of the time or less.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Measure this build of culvert instead of building one; `culvert-cni` is beside it.
    #[arg(long, value_name = "PATH")]
    pub(crate) culvert: Option<PathBuf>,
    /// Write everything that was measured as JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// The date to put down with the figures.
    #[arg(long, value_name = "DATE")]
    pub(crate) date: Option<String>,
    /// Fail if a target that must be reached is not, or could not be measured.
    #[arg(long)]
    pub(crate) check: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    #[command(flatten)]
    pub(crate) run: RunArgs,
    /// Only these networks (see `list`), and what `--also` names; the kernel's VXLAN is always
    /// measured, for the ratios.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub(crate) only: Vec<String>,
    /// Only these measures.
    #[arg(long, value_name = "MEASURE", value_delimiter = ',')]
    pub(crate) measures: Vec<Measure>,
    /// Rounds of the comparison.
    #[arg(long, value_name = "COUNT")]
    pub(crate) rounds: Option<usize>,
    /// Measure another build of culvert too, as the network NAME; `culvert-cni` is beside it.
    #[arg(long, value_name = "NAME=PATH")]
    pub(crate) also: Vec<String>,
    /// Draw the ratios to the kernel's VXLAN.
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ChurnArgs {
    #[command(flatten)]
    pub(crate) run: RunArgs,
    /// Only with so many pods present, or addresses held: 0, 100, 250, 4000.
    #[arg(long, value_name = "COUNT", value_delimiter = ',')]
    pub(crate) present: Vec<usize>,
    /// Only with so many calls at once: 1, 8, 32.
    #[arg(long, value_name = "COUNT", value_delimiter = ',')]
    pub(crate) at_once: Vec<usize>,
}

#[derive(Debug, Args)]
pub(crate) struct SealedArgs {
    #[command(flatten)]
    pub(crate) run: RunArgs,
    /// Only these parts.
    #[arg(long, value_name = "PART", value_delimiter = ',')]
    pub(crate) only: Vec<sealed::Part>,
}

#[derive(Debug, Args)]
pub(crate) struct LookArgs {
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

#[cfg(feature = "sources")]
#[derive(Debug, Args)]
pub(crate) struct SourcesArgs {
    #[command(flatten)]
    pub(crate) run: RunArgs,
    /// Only these sources.
    #[arg(long, value_name = "SOURCE", value_delimiter = ',')]
    pub(crate) only: Vec<Kind>,
}

#[cfg(feature = "sources")]
#[derive(Debug, Args)]
pub(crate) struct PolicyArgs {
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

#[cfg(feature = "sources")]
#[derive(Debug, Args)]
pub(crate) struct ClusterArgs {
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

/// Does what the command line says.
pub fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Compare(args) => compare::run(&args),
        Command::Churn(args) => churn::run(&args),
        Command::Handshakes(args) => handshakes::run(&args),
        Command::Probes(args) => probing::run(&args),
        Command::Look(args) => look::run(&args),
        #[cfg(feature = "sources")]
        Command::Sources(args) => sources::run(&args),
        #[cfg(feature = "sources")]
        Command::Policy(args) => policy::run(&args),
        #[cfg(feature = "sources")]
        Command::Cluster(args) => cluster::run(&args),
        Command::Sealed(args) => sealed::run(&args),
        Command::List => compare::list(),
        Command::Clean => compare::clean(),
    };
    done.unwrap_or_else(|error| {
        // Where standard error is gone there is nobody left to tell.
        let _ = writeln!(io::stderr().lock(), "bench: {error:#}");
        ExitCode::FAILURE
    })
}
