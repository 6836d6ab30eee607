//! The daemon put together: the one place that knows control, data path and observation.
//!
//! Runs on the control runtime. Decides the order of start and stop and connects the parts; what
//! they do is theirs.

mod announcer;
mod capture;
mod checkup;
mod daemon;
mod differences;
mod doubt;
mod drop_history;
mod examine;
mod feed;
#[cfg(test)]
mod fixture;
#[cfg(feature = "databases")]
mod flannel;
mod flow_export;
mod flows;
mod in_force;
mod kernel_facts;
mod key_log;
mod last_good;
mod listen;
mod offline;
mod owner;
mod path_mtus;
mod path_questions;
mod pods;
mod policy;
mod probes;
mod run;
mod sealed;
mod senders;
mod supervise;
mod turn;
mod view;

pub(crate) use checkup::Look;
pub(crate) use examine::{
    Action, Astray, Examination, PROTOCOL, examine, filters_frames, foreign_rules,
    frames_parameter, legacy_tables, neighbours,
};
#[cfg(feature = "databases")]
pub(crate) use flannel::{
    delete_flannel_device, ensure_no_daemon, flannel_device, give_back, has_flannel_device,
};
pub(crate) use offline::{Offline, offline, setup};
pub(crate) use run::run;
pub(crate) use view::own_netns;

use anyhow::Context as _;
use culvert_dataplane::engine::Membership;

use crate::config::{Config, TableSource};
use crate::control::node::Hint;
use crate::control::source::{self, Proposal};
use crate::control::table_file::TableFile;
use crate::platform::sysctl::Sysctls;

/// Reads the subnet table that `config` names and checks it; none where the table is not in a file,
/// and others could take a question for a node.
///
/// # Errors
///
/// What the daemon would refuse it for.
pub(crate) fn check(config: &Config) -> anyhow::Result<Option<Membership>> {
    let TableSource::File { path } = &config.table else { return Ok(None) };
    members(config, &TableFile::new(path).read()?).map(Some)
}

/// What a machine would mean for its daemon.
#[derive(Debug, Default)]
pub(crate) struct OnMachine {
    /// What ends the daemon's start.
    pub(crate) faults: Vec<String>,
    /// What would work less well than it could, or not at all, and what the daemon says too.
    pub(crate) hints: Vec<String>,
}

/// What this machine would mean for its daemon, with the subnet table `members`, where that is
/// known.
#[must_use]
pub(crate) fn on_machine(config: &Config, members: Option<&Membership>) -> OnMachine {
    let mut found = sealed::look_at_files(config, members);
    let hints = Hint::of(&Sysctls::at(&config.node.sysctl_dir)).into_iter();
    found.hints = hints.map(|hint| hint.to_string()).chain(found.hints).collect();
    found
}

/// The nodes that a table file proposes, checked.
fn members(config: &Config, proposal: &Proposal) -> anyhow::Result<Membership> {
    let parameters = source::configured(config).context("there is no pod network")?;
    let overlay = source::overlay(parameters, config);
    let (members, _none) = source::members(proposal, &overlay, &config.node.name)?;
    Ok(members)
}

/// Removes from this machine everything that a daemon made. Says what, and what could not be. No
/// daemon starts meanwhile.
///
/// # Errors
///
/// The kernel cannot be reached at all, or a daemon runs, which would put everything back.
pub(crate) fn cleanup() -> anyhow::Result<crate::control::node::Cleanup> {
    let _claim = turn::claim_for_cleanup()?;
    Ok(crate::control::node::Reconciler::open()?.cleanup())
}
