//! Removing a lab, whatever state it is in.
//!
//! Owns finding what belongs to a lab: by its names, and by the process ids it left. Needs no
//! description, so it also removes what a crash left half built. Removing nothing is no error.

use std::collections::HashSet;
use std::fs;
use std::time::Duration;

use anyhow::{Result, anyhow};

use super::files::{self, Description};
use super::netns::{Identity, Netns};
use super::plan;
use super::process::{self, Process};

/// How long the processes of a lab may take to stop by themselves.
const GRACE: Duration = Duration::from_secs(5);

/// What a removal found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Processes that were ended: daemons, and whatever else ran inside.
    pub processes: usize,
    /// Namespaces that were removed.
    pub namespaces: usize,
}

/// Removes the lab `name`: its processes, namespaces and directory. Carries on past a failure and
/// reports the first.
///
/// # Errors
///
/// Something could not be removed.
pub fn down(name: &str) -> Result<Removed> {
    plan::check_name(name)?;
    let mut failure: Option<anyhow::Error> = None;
    let mut note = |result: Result<()>| {
        if let Err(error) = result {
            failure.get_or_insert(error);
        }
    };

    let namespaces = namespaces(name).unwrap_or_else(|error| {
        note(Err(error));
        Vec::new()
    });
    let identities: HashSet<Identity> = namespaces.iter().filter_map(Netns::identity).collect();
    let mut processes = process::inside(&identities);
    // A daemon whose namespace lost its name is still known by the id it left.
    processes.extend(
        recorded(name)
            .into_iter()
            .filter(|process| !identities.iter().any(|identity| process.is_in(*identity))),
    );
    let removed = Removed { processes: processes.len(), namespaces: namespaces.len() };

    let stubborn = process::terminate(&processes, GRACE);
    if !stubborn.is_empty() {
        note(Err(anyhow!("processes that do not end: {stubborn:?}")));
    }
    note(Netns::delete_all(&namespaces));
    // Of a lab without a description nobody knows where its objects are.
    if let Ok(Description { policies: Some(policies), .. }) = Description::open(name) {
        note(policies.remove_all(name));
    }
    note(files::remove(name));
    failure.map_or(Ok(removed), Err)
}

/// Whether anything of the lab `name` exists.
pub(super) fn exists(name: &str) -> Result<bool> {
    Ok(files::dir(name).exists() || !namespaces(name)?.is_empty())
}

fn namespaces(name: &str) -> Result<Vec<Netns>> {
    Ok(Netns::names()?
        .into_iter()
        .filter(|found| plan::place_of(name, found).is_some())
        .map(Netns::named)
        .collect())
}

/// The daemons whose ids the lab's directory has.
fn recorded(name: &str) -> Vec<Process> {
    let dir = files::dir(name);
    let Ok(entries) = fs::read_dir(&dir) else {
        return Vec::new();
    };
    let marker = dir.to_string_lossy().into_owned() + "/";
    entries
        .filter_map(|entry| fs::read_to_string(entry.ok()?.path().join("daemon.pid")).ok())
        .filter_map(|id| Process::open(id.trim().parse().ok()?))
        .filter(|process| process.was_called_with(&marker))
        .collect()
}
