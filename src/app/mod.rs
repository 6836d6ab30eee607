//! The daemon put together: the one place that knows control, data path and observation.
//!
//! Runs on the control runtime. Decides the order of start and stop and connects the parts; what they
//! do is theirs.

mod capture;
mod daemon;
mod members;
mod offline;
mod owner;
mod turn;
mod view;

pub use daemon::run;
pub use offline::{Offline, offline};

use crate::config::{Config, TableSource};
use crate::control::table_file::TableFile;
use crate::engine::Membership;

/// Reads the subnet table that `config` names and checks it.
///
/// # Errors
///
/// What the daemon would refuse it for.
pub fn check(config: &Config) -> anyhow::Result<Membership> {
    let mut source = TableFile::new(table_path(config));
    Ok(source.read(&members::overlay(config), &config.node.name)?)
}

/// The path of the table file.
fn table_path(config: &Config) -> &std::path::Path {
    match &config.table {
        TableSource::File { path } => path,
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
