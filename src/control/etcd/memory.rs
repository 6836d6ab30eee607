//! What this node must remember to come back to its own subnets, and to know a database that lost
//! those of others: who it is, what it had, and which database it saw.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use culvert_cni::bounded_file;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::database::Database;
use super::keys::Claim;
use crate::control::source::write;

/// Name of the file under the state directory.
const FILE_NAME: &str = "claim.json";

/// The file, as it is on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Memory {
    /// Random; tells this machine from another of the same name.
    pub(super) instance: String,
    /// The node's name when it claimed them.
    #[serde(default)]
    pub(super) node: String,
    /// What it claimed.
    #[serde(default)]
    pub(super) subnets: Vec<IpNet>,
    /// The database in which all nodes were that this one knew.
    #[serde(default)]
    pub(super) database: Option<Database>,
    #[serde(skip)]
    directory: PathBuf,
}

impl Memory {
    /// Reads the file under `state_dir`, or makes one for a machine that has none.
    pub(super) fn open(state_dir: &Path, node: &str) -> anyhow::Result<Self> {
        let path = state_dir.join(FILE_NAME);
        let mut memory = match bounded_file::read(&path, bounded_file::SMALL) {
            Ok(text) => serde_json::from_slice(&text).with_context(|| {
                format!("understanding {}; if it is damaged, remove it", path.display())
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let instance = fs::read_to_string("/proc/sys/kernel/random/uuid")
                    .context("asking the kernel for a random name")?;
                Self {
                    instance: instance.trim().to_owned(),
                    node: String::new(),
                    subnets: Vec::new(),
                    database: None,
                    directory: PathBuf::new(),
                }
            }
            Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
        };
        memory.directory = state_dir.to_owned();
        if memory.node != node {
            memory.node = node.to_owned();
            // Before the first claim: a node that is killed in the middle must know it as its own.
            memory.write()?;
        }
        Ok(memory)
    }

    /// Remembers what was claimed.
    pub(super) fn remember(&mut self, subnets: &[IpNet]) -> anyhow::Result<()> {
        if self.subnets != subnets {
            self.subnets = subnets.to_vec();
            self.write()?;
        }
        Ok(())
    }

    /// Remembers the database. What is lost if that fails is patience with one that lost its data.
    pub(super) fn saw(&mut self, database: Database) {
        if self.database.replace(database) != Some(database)
            && let Err(error) = self.write()
        {
            tracing::warn!(error = format!("{error:#}"), "the state of etcd is not kept");
        }
    }

    /// Whether a claim is this machine's: by its instance, or, where the state directory was lost,
    /// by name and address together, which no two machines that work have in common.
    pub(super) fn owns(&self, claim: &Claim, address: IpAddr) -> bool {
        claim.instance == self.instance
            || (claim.node == self.node && claim.published.address == address)
    }

    fn write(&self) -> anyhow::Result<()> {
        let text = serde_json::to_vec_pretty(self).context("describing the claim")?;
        write(&self.directory, FILE_NAME, &text)
            .with_context(|| format!("writing {}", self.directory.join(FILE_NAME).display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_the_same_after_a_restart_and_another_on_another_disk() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut memory = Memory::open(one.path(), "node1").unwrap();
        let subnets = vec!["10.244.1.0/24".parse().unwrap()];
        memory.remember(&subnets).unwrap();
        assert_eq!(Memory::open(one.path(), "node1").unwrap(), memory);
        let other = Memory::open(two.path(), "node1").unwrap();
        assert_ne!(other.instance, memory.instance);
        assert!(other.subnets.is_empty());
    }
}
