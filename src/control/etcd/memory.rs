//! What this node must remember to come back to its own subnets, and to know a database that lost
//! those of others: who it is, what it had, and which database it saw.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use culvert_node::bounded_file;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::database::Database;
use super::keys::Claim;
use crate::control::source::write;

/// Name of the file under the state directory.
const FILE_NAME: &str = "claim.json";

/// The file, as it is on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
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
}

/// The memory cannot be read or written.
#[derive(Debug, Error)]
pub enum MemoryError {
    #[error("reading {}: {error}", .path.display())]
    Read { path: PathBuf, error: io::Error },
    #[error("understanding {}: {error}; if it is damaged, remove it", .path.display())]
    Understand { path: PathBuf, error: serde_json::Error },
    #[error("asking the kernel for a random name: {0}")]
    Random(io::Error),
    #[error("writing {}: {error}", .path.display())]
    Write { path: PathBuf, error: io::Error },
}

impl Memory {
    /// That of a machine without one.
    pub fn new(instance: &str, node: &str) -> Self {
        let (instance, node) = (instance.to_owned(), node.to_owned());
        Self { instance, node, subnets: Vec::new(), database: None }
    }

    /// What tells the machine from another of the same name.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// What the node claimed.
    pub fn subnets(&self) -> &[IpNet] {
        &self.subnets
    }

    /// What a machine has whose disk is a copy, and whose name is `node`.
    #[must_use]
    pub fn renamed(self, node: &str) -> Self {
        Self { node: node.to_owned(), ..self }
    }

    /// Reads the file under `state_dir`, or makes one for a machine that has none.
    pub(super) fn open(state_dir: &Path, node: &str) -> Result<Self, MemoryError> {
        let path = state_dir.join(FILE_NAME);
        let mut memory: Self = match bounded_file::read(&path, bounded_file::SMALL) {
            Ok(text) => serde_json::from_slice(&text)
                .map_err(|error| MemoryError::Understand { path, error })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let instance = fs::read_to_string("/proc/sys/kernel/random/uuid")
                    .map_err(MemoryError::Random)?;
                Self::new(instance.trim(), "")
            }
            Err(error) => return Err(MemoryError::Read { path, error }),
        };
        if memory.node != node {
            memory = memory.renamed(node);
            // Before the first claim: a node that is killed in the middle must know it as its own.
            memory.write(state_dir)?;
        }
        Ok(memory)
    }

    /// Whether a claim is this machine's: two of its instance, its name and its address are the
    /// claim's. The state directory may be lost, the node renamed, or its address another; but a
    /// machine with a copy of this one's disk has only the instance in common.
    pub(super) fn owns(&self, claim: &Claim, address: IpAddr) -> bool {
        let same = [
            claim.instance == self.instance,
            claim.node == self.node,
            claim.published.address == address,
        ];
        same.into_iter().filter(|same| *same).count() >= 2
    }

    /// Writes the file under `state_dir`.
    pub(super) fn write(&self, state_dir: &Path) -> Result<(), MemoryError> {
        let failed = |error| MemoryError::Write { path: state_dir.join(FILE_NAME), error };
        let text = serde_json::to_vec_pretty(self).map_err(|error| failed(error.into()))?;
        write(state_dir, FILE_NAME, &text).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_the_same_after_a_restart_and_another_on_another_disk() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut memory = Memory::open(one.path(), "node1").unwrap();
        memory.subnets = vec!["10.244.1.0/24".parse().unwrap()];
        memory.write(one.path()).unwrap();
        assert_eq!(Memory::open(one.path(), "node1").unwrap(), memory);
        let other = Memory::open(two.path(), "node1").unwrap();
        assert_ne!(other.instance, memory.instance);
        assert!(other.subnets.is_empty());
    }
}
