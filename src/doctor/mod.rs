//! `culvert doctor`: what is in the way of packets on this node, and the command that mends it.
//!
//! Facts are gathered once ([`gather`]), from the kernel, the daemon if it answers, and the node's
//! files; checks are functions over them, a file each. Whatever cannot be looked at is skipped with
//! the reason, never taken for good. Changes nothing, and works beside a daemon that is down.

mod ask;
mod ask_pods;
mod checks;
mod facts;
mod finding;
mod gather;
mod inside;
mod report;
mod sockets;

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use culvert_node::node_file::DEFAULT_RUN_DIR;
use culvert_node::words::plain;

use finding::Verdict;
use report::Report;

use crate::observe::Document;

/// What `culvert doctor` takes.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct DoctorArgs {
    /// Ask the peers too: each through the tunnel, by every path and with a full packet.
    #[arg(long)]
    peers: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Directory of the daemon's admin socket.
    #[arg(long, env = "CULVERT_RUN_DIR", value_name = "DIR", default_value = DEFAULT_RUN_DIR)]
    run_dir: PathBuf,
    /// The daemon's configuration, for when it does not answer.
    #[arg(
        long,
        env = "CULVERT_CONFIG",
        value_name = "FILE",
        default_value = "/etc/culvert/config.toml"
    )]
    config: PathBuf,
    /// Name of this node, instead of node.name of the configuration.
    #[arg(long, env = "CULVERT_NODE_NAME", value_name = "NAME")]
    node_name: Option<String>,
}

const EXAMPLES: &str = "\
Examples:
  What is wrong with this node?
    culvert doctor
  And between it and the others?
    culvert doctor --peers
  On a node of a Kubernetes cluster:
    kubectl -n kube-system exec ds/culvert -c culvert -- culvert doctor
  On a node of a lab:
    culvert lab exec node1 -- culvert doctor --peers

Each line is a check, by a name that docs/operations.md explains. ok: looked at, and good. warn: it may
be in the way. FAIL: it is in the way; the command that mends it is below. skip: it could not be looked
at, and why. Nothing is changed. Peers are asked by connections to their bridge's address, TCP and UDP
port 9, which their kernel refuses; only a peer that answers none of them gets an empty datagram to
its tunnel's port, which it counts as dropped.

Exit codes: 0 nothing failed; 1 something did; 2 a command line that makes no sense.";

/// The names of the checks that fail on this node now, in their order and each once, for a daemon
/// that answers its peers: nobody is asked for it. Nothing if it could not be looked at.
pub(crate) fn failing(
    config: &Path,
    node_name: Option<&str>,
    run_dir: &Path,
) -> Option<Vec<String>> {
    let place = gather::Place { run_dir, config, node_name };
    let (_, facts) = gather::gather(&place, gather::Asks::Nobody).ok()?;
    let mut failing: Vec<String> = checks::all(&facts)
        .into_iter()
        .filter(|finding| finding.verdict == Verdict::Fail)
        .map(|finding| finding.check.to_string())
        .collect();
    failing.dedup();
    Some(failing)
}

/// Runs the command.
///
/// # Errors
///
/// The node is another than this command sees, or the answer cannot be written.
pub(crate) fn run(args: &DoctorArgs) -> anyhow::Result<ExitCode> {
    let place = gather::Place {
        run_dir: &args.run_dir,
        config: &args.config,
        node_name: args.node_name.as_deref(),
    };
    let asks = if args.peers { gather::Asks::PodsAndPeers } else { gather::Asks::Pods };
    let (heading, facts) = gather::gather(&place, asks)?;
    let report = Report::new(heading, checks::all(&facts));
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{}", Document::first(&report).text()?)?;
    } else {
        writeln!(out, "{}", plain(&report.to_string()))?;
    }
    Ok(if report.has_failed() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
