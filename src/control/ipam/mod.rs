//! The addresses of this node's pods, as a person or the daemon looks at them.
//!
//! Owns what `culvert ipam` does and the daemon's sweep. The store itself, and the rules by which
//! addresses are given, are the plugin's; all of this goes through its library, takes the store's
//! locks, and blocks. The command's functions run on the thread of the command, the sweep on a thread
//! that may block; never on the control runtime.

mod check;
mod listing;
mod repair;
mod sweep;

use std::path::Path;

use anyhow::Context as _;
use culvert_cni::ipam::Store;
use culvert_cni::node_file::NodeFile;
use ipnet::IpNet;

pub use self::check::{Check, Finding, check};
pub use self::listing::{Entry, Listing, list};
pub use self::repair::{Freed, Imported, Rebuilt, Target, free, import, rebuild};
pub use self::sweep::keep_sweeping;

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
