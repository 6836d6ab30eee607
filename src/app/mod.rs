//! The daemon put together: the one place that knows control, data path and observation.
//!
//! Runs on the control runtime. Decides the order of start and stop and connects the parts; what they
//! do is theirs.

mod capture;
mod daemon;
mod feed;
mod members;
mod offline;
mod owner;
mod turn;
mod view;

pub use daemon::run;
pub use offline::{Offline, offline};

use crate::config::{Config, TableSource};
use crate::control::source;
use crate::control::table_file::TableFile;
use crate::engine::Membership;

/// Reads the subnet table that `config` names and checks it; none where the table is not in a file,
/// and others could take a question for a node.
///
/// # Errors
///
/// What the daemon would refuse it for.
pub fn check(config: &Config) -> anyhow::Result<Option<Membership>> {
    match &config.table {
        TableSource::File { path } => {
            let read = TableFile::new(path).read(&source::overlay(config), &config.node.name);
            Ok(Some(read.map_err(crate::config::Complaint::from)?))
        }
        TableSource::Etcd(_) | TableSource::Kubernetes(_) => Ok(None),
    }
}

/// Removes from this machine everything that a daemon made. Says what, and what could not be.
///
/// # Errors
///
/// The kernel cannot be reached at all.
pub async fn cleanup() -> anyhow::Result<crate::control::node::Cleanup> {
    Ok(crate::control::node::Reconciler::open()?.cleanup().await)
}
