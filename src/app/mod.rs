//! The daemon put together: the one place that knows control, data path and observation.
//!
//! Runs on the control runtime. Decides the order of start and stop and connects the parts; what they
//! do is theirs.

mod announcer;
mod capture;
mod daemon;
mod feed;
mod in_force;
mod last_good;
mod offline;
mod owner;
mod path_mtus;
mod path_questions;
mod turn;
mod view;

pub use daemon::run;
pub use offline::{Offline, offline};

use anyhow::Context as _;

use crate::config::{Config, TableSource};
use crate::control::source::Parameters;
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
            let parameters = Parameters::configured(config).context("network.cidrs is missing")?;
            let (proposal, overlay) = (TableFile::new(path).read()?, parameters.overlay(config));
            let (members, _none) = proposal.members(&overlay, &config.node.name)?;
            Ok(Some(members))
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
