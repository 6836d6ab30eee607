//! What a node must remember to come back to its own subnets, and to know a database that lost
//! those of others: who it is, what it had, and which database it saw.

use std::error::Error;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::database::Database;
use super::keys::Claim;

/// What a node remembers; it outlives the daemon.
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

/// The memory could not be written.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct Unwritten(Box<dyn Error + Send + Sync>);

impl Unwritten {
    /// For this reason.
    pub fn new(reason: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(reason.into())
    }
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

    /// The name of the node.
    pub fn node(&self) -> &str {
        &self.node
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
}
