//! Pods and their namespaces.

use std::sync::Arc;

use overlay_proto::Protocol;

use super::{Labels, PodAddresses};

/// A namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Its name.
    pub name: Arc<str>,
    /// Its labels.
    pub labels: Labels,
}

/// A pod: as much of it as policies ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// The namespace that it is in.
    pub namespace: Arc<str>,
    /// Its name there.
    pub name: Arc<str>,
    /// What tells it from another pod that had its name before; only kept of this node's pods.
    pub uid: Option<Box<str>>,
    /// Its labels.
    pub labels: Labels,
    /// Its addresses, as far as they are known.
    pub addresses: PodAddresses,
    /// Its ports that have names.
    pub ports: Arc<[ContainerPort]>,
    /// The node that it is on.
    pub node: Option<Arc<str>>,
    /// When it was created, in seconds since 1970; 0 if nobody says.
    pub created: u32,
    /// Whether it uses its node's network. Such a pod is never selected.
    pub host_network: bool,
    /// Whether it has succeeded or failed: its addresses are not its own any more.
    pub has_ended: bool,
    /// Whether it is about to end.
    pub is_terminating: bool,
}

/// A port of a container that has a name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerPort {
    /// Its name.
    pub name: Arc<str>,
    /// Of which protocol.
    pub protocol: Protocol,
    /// Its number.
    pub port: u16,
}

impl Pod {
    /// Whether policies can select it: it has a network of its own, and has not ended.
    #[must_use]
    pub const fn is_selectable(&self) -> bool {
        !self.host_network && !self.has_ended
    }
}
