//! Where a lab keeps its files, and the description that outlives the program that built it.
//!
//! Owns the directory of a lab. `lab.json` is written before anything else exists, and what it
//! describes has names that follow from it, so a lab that was left half built can be removed.
//!
//! ```text
//! /run/culvert-lab/NAME/lab.json           the description
//!                      /faults.json        what `culvert lab break` has broken
//!                      /table.toml         the subnet table of all nodes, unless each has its own
//!                      /node1/config.toml  what its daemon reads
//!                            /daemon.pid   the process that was started last
//!                            /daemon.log   what every daemon of this node said
//!                            /run/ /state/ its run and state directories
//!                            /pods/1.json  what the plugin answered when it attached pod 1
//! ```

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use culvert_node::whole_file;
use serde::{Deserialize, Serialize};

use super::plan::{self, Plan};
use super::policy::Policies;

/// Parent of the directories of all labs.
const ROOT: &str = "/run/culvert-lab";

/// How often to make a lab's directory: the last lab that goes takes the parent with it, which may
/// happen between making the parent and making the directory.
const ATTEMPTS: usize = 8;

/// The description of a lab.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Description {
    pub(crate) plan: Plan,
    /// The daemon's program.
    pub(crate) culvert: PathBuf,
    /// The plugin's program.
    pub(crate) plugin: PathBuf,
    /// Added to the daemon's environment.
    pub(crate) daemon_env: Vec<(String, String)>,
    /// Whether each node reads a table of its own.
    pub(crate) own_tables: bool,
    /// The policies that are enforced, if any are.
    #[serde(default)]
    pub(crate) policies: Option<Policies>,
}

impl Description {
    /// Creates the directory of the lab and writes the description into it.
    pub(crate) fn create(&self) -> Result<()> {
        let dir = dir(&self.plan.name);
        let make = || fs::create_dir_all(ROOT).and_then(|()| fs::create_dir(&dir));
        let mut made = make();
        for _again in 1..ATTEMPTS {
            match &made {
                Err(error) if error.kind() == io::ErrorKind::NotFound => made = make(),
                _ => break,
            }
        }
        match made {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                bail!(exists(&self.plan.name));
            }
            made => made.with_context(|| format!("create {}", dir.display()))?,
        }
        let text = serde_json::to_string_pretty(self).context("describe the lab")?;
        write(&dir.join("lab.json"), &text)
    }

    /// Reads the description of the lab `name`.
    pub(crate) fn open(name: &str) -> Result<Self> {
        plan::check_name(name)?;
        let path = dir(name).join("lab.json");
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                bail!("there is no lab `{name}`; `culvert lab up{}` builds it", option(name))
            }
            text => text.with_context(|| format!("read {}", path.display()))?,
        };
        serde_json::from_str(&text).with_context(|| format!("read {}", path.display()))
    }

    /// The table file that `node` reads.
    pub(crate) fn table(&self, node: u16) -> PathBuf {
        let dir = dir(&self.plan.name);
        if self.own_tables {
            node_dir(&dir, node).join("table.toml")
        } else {
            dir.join("table.toml")
        }
    }
}

/// Why the lab `name` cannot be built.
pub(crate) fn exists(name: &str) -> String {
    format!("the lab `{name}` exists; run `culvert lab down{}` first", option(name))
}

/// How the command line names the lab `name`.
pub(crate) fn option(name: &str) -> String {
    if name == super::DEFAULT_NAME { String::new() } else { format!(" --name {name}") }
}

/// Directory of the lab `name`.
pub(crate) fn dir(name: &str) -> PathBuf {
    Path::new(ROOT).join(name)
}

/// The names of all labs on this machine, in the order of text.
#[must_use]
pub fn names() -> Vec<String> {
    let entries = fs::read_dir(ROOT).into_iter().flatten().flatten();
    let labs = entries.filter(|entry| entry.path().join("lab.json").exists());
    let mut names: Vec<_> = labs.filter_map(|lab| lab.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// The record of what is broken in the lab `name`.
pub(crate) fn faults(name: &str) -> PathBuf {
    dir(name).join("faults.json")
}

/// Directory of `node` in the lab directory `lab`.
pub(crate) fn node_dir(lab: &Path, node: u16) -> PathBuf {
    lab.join(format!("node{node}"))
}

/// Removes the directory of the lab `name`, and the parent with the last one.
pub(crate) fn remove(name: &str) -> Result<()> {
    let dir = dir(name);
    match fs::remove_dir_all(&dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("remove {}", dir.display()));
        }
        _ => {}
    }
    // Refused while it holds other labs, which is as it should be.
    let _ = fs::remove_dir(ROOT);
    Ok(())
}

/// Writes `text` to `path` in one step, so that nobody who watches the file sees half of it.
pub(crate) fn write(path: &Path, text: &str) -> Result<()> {
    whole_file::write(path, |file| file.write_all(text.as_bytes()))
        .with_context(|| format!("write {}", path.display()))
}
