//! The addresses of this node's pods, as a person looks at them: what `culvert ipam` does.
//!
//! The store itself, and the rules by which addresses are given, are the plugin's; all of this goes
//! through its library, takes the store's locks, and blocks. It runs on the thread of the command,
//! in the node's network namespace, and goes by the notes on pods' ports: what cannot be seen there
//! is said, never guessed.

mod check;
mod listing;
mod repair;

use std::path::Path;

use anyhow::Context as _;
use culvert_node::ipam::{Record, Store};
use culvert_node::node_file::NodeFile;
use ipnet::IpNet;

pub(crate) use self::check::{Check, check};
pub(crate) use self::listing::{Entry, list};
pub(crate) use self::repair::{Target, free, import, rebuild};

/// The store under `state_dir`, which must be there.
fn open(state_dir: &Path) -> anyhow::Result<Store> {
    Store::open(state_dir)?.with_context(|| {
        format!(
            "no address store under {}: culvert-cni makes it with the first pod. Name the node's \
             state directory with --state-dir",
            state_dir.display()
        )
    })
}

/// This node's subnets: those that are named, or else those of the node file.
fn subnets(named: &[IpNet], run_dir: &Path) -> anyhow::Result<Vec<IpNet>> {
    if !named.is_empty() {
        return Ok(named.to_vec());
    }
    let node = NodeFile::read(run_dir).with_context(|| {
        format!(
            "reading this node's subnets from {}: start the daemon, name its run directory with \
             --run-dir, or name the subnets with --subnet",
            NodeFile::path(run_dir).display()
        )
    })?;
    Ok(node.subnets)
}

/// Why nothing can be said about the pod of `record`, whose port is in another network namespace.
fn elsewhere(record: &Record) -> String {
    format!(
        "its device {} is in network namespace {}, and this command is in another: run it in the \
         node's own (`nsenter --net=/proc/PID/ns/net` with the daemon's PID)",
        record.host_device, record.host_netns
    )
}
