//! `culvert ipam`: words and help.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use culvert_node::node_file::{DEFAULT_RUN_DIR, DEFAULT_STATE_DIR};
use ipnet::IpNet;
use serde::Serialize;

use super::say;
use crate::ipam::{self, Target};
use crate::observe::Document;

#[derive(Debug, Args)]
pub(super) struct IpamArgs {
    #[command(subcommand)]
    command: IpamCommand,
    /// Directory of the address store (node.state_dir, and the plugin's stateDir).
    #[arg(
        long,
        global = true,
        env = "CULVERT_STATE_DIR",
        value_name = "DIR",
        default_value = DEFAULT_STATE_DIR
    )]
    state_dir: PathBuf,
    /// Directory of the node file (node.run_dir), which says the node's subnets.
    #[arg(
        long,
        global = true,
        env = "CULVERT_RUN_DIR",
        value_name = "DIR",
        default_value = DEFAULT_RUN_DIR
    )]
    run_dir: PathBuf,
    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum IpamCommand {
    /// Show which pod has which address, and since when.
    List,
    /// Compare the store with the notes on pods' ports and with this node's subnets. Ends with 1 if
    /// they differ, or if the ports cannot be seen.
    Check {
        /// A subnet of this node, instead of those of the node file.
        #[arg(long = "subnet", value_name = "CIDR")]
        subnets: Vec<IpNet>,
    },
    /// Free an address, or all of a container, whose pod is gone. Touches no device.
    Free {
        /// An address, a container id, or CONTAINER/INTERFACE.
        #[arg(value_name = "ADDRESS|CONTAINER")]
        target: Target,
        /// Free it even if the pod lives. While the pod's port is there, no other pod gets its
        /// address, and the daemon takes it up again.
        #[arg(long)]
        force: bool,
    },
    /// Take over the addresses that the host-local plugin handed out, so that running pods keep
    /// them.
    Import {
        /// Its directory: /var/lib/cni/networks/NAME.
        #[arg(value_name = "DIR")]
        directory: PathBuf,
        /// Name of the network, instead of the directory's.
        #[arg(long, value_name = "NAME")]
        network: Option<String>,
        /// A subnet of this node, instead of those of the node file.
        #[arg(long = "subnet", value_name = "CIDR")]
        subnets: Vec<IpNet>,
        /// Remove the imported files, so that host-local no longer holds the addresses.
        #[arg(long)]
        remove: bool,
    },
    /// Write down the running pods that the store lacks, by the notes on their ports. Replaces a
    /// damaged store, and keeps the old one.
    Rebuild {
        /// A subnet of this node, instead of those of the node file, for a note that has no room
        /// for prefix lengths.
        #[arg(long = "subnet", value_name = "CIDR")]
        subnets: Vec<IpNet>,
        /// Replace a store that is sound, too, and even if no pod is seen.
        #[arg(long)]
        force: bool,
    },
}

pub(super) fn run(args: &IpamArgs) -> anyhow::Result<ExitCode> {
    let (state_dir, run_dir) = (args.state_dir.as_path(), args.run_dir.as_path());
    let mut code = ExitCode::SUCCESS;
    let text = match &args.command {
        IpamCommand::List => args.text(&ipam::list(state_dir)?)?,
        IpamCommand::Check { subnets } => {
            let check = ipam::check(state_dir, run_dir, subnets)?;
            if !check.findings.is_empty() || check.not_compared.is_some() {
                code = ExitCode::FAILURE;
            }
            args.text(&check)?
        }
        IpamCommand::Free { target, force } => {
            args.text(&ipam::free(state_dir, target, *force)?)?
        }
        IpamCommand::Import { directory, network, subnets, remove } => {
            let network = network.as_deref();
            let directories = (state_dir, run_dir);
            args.text(&ipam::import(directory, network, directories, subnets, *remove)?)?
        }
        IpamCommand::Rebuild { subnets, force } => {
            args.text(&ipam::rebuild(state_dir, run_dir, subnets, *force)?)?
        }
    };
    say(text)?;
    Ok(code)
}

impl IpamArgs {
    fn text(&self, value: &(impl Serialize + ToString)) -> anyhow::Result<String> {
        if self.json {
            Document::first(value).text().context("writing JSON")
        } else {
            Ok(value.to_string())
        }
    }
}
