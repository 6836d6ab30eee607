//! Nodes.

use std::net::IpAddr;
use std::sync::Arc;

use super::Labels;

/// A node, as its object describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: Arc<str>,
    /// Its labels.
    pub labels: Labels,
    /// Its addresses inside the cluster (InternalIP), by which an ipBlock means it.
    pub internal: Box<[IpAddr]>,
    /// Its other addresses.
    pub external: Box<[IpAddr]>,
}
