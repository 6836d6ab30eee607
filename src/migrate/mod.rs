//! `culvert migrate`: a cluster on another network comes over node by node, and goes back.
//!
//! Owns the command line, what of a cluster can come over, and the files of a node that lead its
//! container runtime to one network or the other. What the nodes speak meanwhile is the daemon's:
//! it reads flannel's annotations, and takes over flannel's tunnel when it starts
//! (docs/decisions/0193). Each command says what it would do, and does it with `--apply` only.

mod check;
mod node;
mod plan;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use culvert_node::node_file::{DEFAULT_RUN_DIR, DEFAULT_STATE_DIR};

/// Arguments of `culvert migrate`.
#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
pub(crate) struct MigrateArgs {
    #[command(subcommand)]
    network: Network,
}

/// What is done in which order.
const WAY: &str = "\
The way, which docs/kubernetes.md has with every command:
  1. culvert migrate flannel check: can this cluster come over? Anywhere with kubectl.
  2. By the label culvert.dev/network, keep flannel's DaemonSet off nodes where it is changing or
     culvert, and Culvert's on those where it is culvert or leaving.
  3. Each node: label it changing; there, culvert migrate flannel node --apply; label it culvert.
  4. Each node, once all have come over: there, culvert migrate flannel finish --apply.

Back, until step 4: annotate the Node with culvert.dev/codec=vxlan; label it leaving until flanneld
is ready there; take the label away; there, culvert migrate flannel back --apply.";

#[derive(Debug, Subcommand)]
enum Network {
    /// From flannel (back end vxlan, store kube, IPv4), node by node, under traffic.
    ///
    /// While kubernetes.migrate_from is "flannel" in Culvert's configuration, its daemons speak
    /// flannel's VXLAN with nodes that flannel serves, known by flannel's annotations, and
    /// a daemon that starts takes over address, hardware address and port of its node's flannel.1.
    /// So flannel's nodes notice nothing, and pods keep their addresses and connections.
    #[command(arg_required_else_help = true, after_help = WAY)]
    Flannel {
        #[command(subcommand)]
        step: Step,
    },
}

#[derive(Debug, Subcommand)]
enum Step {
    /// Say whether the cluster can come over, and which node is served by what. Changes nothing.
    ///
    /// Ends with 1 if something is in the way, which it names.
    Check(check::CheckArgs),
    /// On a node whose flanneld has ended and whose Culvert has not begun: import host-local's
    /// addresses, and set flannel's network configuration aside.
    ///
    /// No pod starts on the node from here until Culvert's daemon is ready and `culvert cni
    /// install` has written the configuration; pods that run go on.
    Node(NodeArgs),
    /// On a node whose Culvert has ended: flannel's device up again, our devices and rules away,
    /// addresses back to host-local, flannel's network configuration in its place.
    Back(NodeArgs),
    /// On a node of a cluster that has come over as a whole: remove what flannel has left. There is
    /// no way back from here.
    Finish(NodeArgs),
}

/// Where everything of a node is.
#[derive(Debug, Args)]
struct NodeArgs {
    /// Do it; without this it is only said.
    #[arg(long)]
    apply: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// The network identifier of flannel's VXLAN.
    #[arg(long, value_name = "VNI", default_value_t = 1)]
    vni: u32,
    /// Directory of network configurations.
    #[arg(long, env = "CNI_CONF", value_name = "DIR", default_value = "/etc/cni/net.d")]
    conf_dir: PathBuf,
    /// Directory in which host-local has a directory for each network.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/cni/networks")]
    host_local_dir: PathBuf,
    /// What flanneld tells its plugin.
    #[arg(long, value_name = "FILE", default_value = "/run/flannel/subnet.env")]
    subnet_env: PathBuf,
    /// Directory of the address store (node.state_dir).
    #[arg(long, env = "CULVERT_STATE_DIR", value_name = "DIR", default_value = DEFAULT_STATE_DIR)]
    state_dir: PathBuf,
    /// Directory of the node file (node.run_dir).
    #[arg(long, env = "CULVERT_RUN_DIR", value_name = "DIR", default_value = DEFAULT_RUN_DIR)]
    run_dir: PathBuf,
}

/// Runs a step.
///
/// # Errors
///
/// What is in the way, before anything is changed; or what failed, with what was done by then.
pub(crate) fn run(args: MigrateArgs) -> anyhow::Result<ExitCode> {
    let Network::Flannel { step } = args.network;
    match step {
        Step::Check(args) => check::run(&args),
        Step::Node(args) => node::over(&args)?.run(args.apply, args.json),
        Step::Back(args) => node::back(&args)?.run(args.apply, args.json),
        Step::Finish(args) => node::finish(&args)?.run(args.apply, args.json),
    }
}
