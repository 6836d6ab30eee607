//! What policies are about, and policies themselves, as they are understood.
//!
//! Every value here is sound: what an author wrote wrongly, or what this program does not know, was
//! already turned into a part that allows nothing ([`crate::read`]).

mod address;
mod cluster;
mod labels;
mod network;
mod node;
mod pod;
mod rule;
mod selector;

use std::fmt;
use std::sync::Arc;

pub use address::PodAddresses;
pub use cluster::{ClusterNetworkPolicy, Tier};
pub use labels::Labels;
pub use network::NetworkPolicy;
pub use node::Node;
pub use pod::{ContainerPort, Namespace, Pod};
pub use rule::{Block, Peer, PortMatch, Rule};
pub use selector::{Namespaces, PodSelection, Requirement, Selector};

/// One object of any kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// A namespace.
    Namespace(Namespace),
    /// A pod.
    Pod(Pod),
    /// A node.
    Node(Node),
    /// A policy of a namespace.
    NetworkPolicy(NetworkPolicy),
    /// A policy of the cluster.
    ClusterNetworkPolicy(ClusterNetworkPolicy),
}

/// A kind of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Namespaces.
    Namespace,
    /// Pods.
    Pod,
    /// Nodes.
    Node,
    /// Policies of namespaces.
    NetworkPolicy,
    /// Policies of the cluster.
    ClusterNetworkPolicy,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 5] =
        [Self::Namespace, Self::Pod, Self::Node, Self::NetworkPolicy, Self::ClusterNetworkPolicy];

    /// Its name in objects.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::Pod => "Pod",
            Self::Node => "Node",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::ClusterNetworkPolicy => "ClusterNetworkPolicy",
        }
    }

    /// The version of the API that is understood, with its group.
    #[must_use]
    pub const fn api_version(self) -> &'static str {
        match self {
            Self::Namespace | Self::Pod | Self::Node => "v1",
            Self::NetworkPolicy => "networking.k8s.io/v1",
            Self::ClusterNetworkPolicy => "policy.networking.k8s.io/v1alpha2",
        }
    }

    /// The kind of this name.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

/// What an object is called among all.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// A namespace, by its name.
    Namespace(Arc<str>),
    /// A pod, by its namespace and name.
    Pod(Arc<str>, Arc<str>),
    /// A node, by its name.
    Node(Arc<str>),
    /// A policy of a namespace, by that and its name.
    NetworkPolicy(Arc<str>, Arc<str>),
    /// A policy of the cluster, by its name.
    ClusterNetworkPolicy(Arc<str>),
}

/// One change of what there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// An object is new, or another than before.
    Put(Object),
    /// An object is gone.
    Delete(Key),
}

impl Object {
    /// What it is called among all.
    #[must_use]
    pub fn key(&self) -> Key {
        match self {
            Self::Namespace(it) => Key::Namespace(it.name.clone()),
            Self::Pod(it) => Key::Pod(it.namespace.clone(), it.name.clone()),
            Self::Node(it) => Key::Node(it.name.clone()),
            Self::NetworkPolicy(it) => Key::NetworkPolicy(it.namespace.clone(), it.name.clone()),
            Self::ClusterNetworkPolicy(it) => Key::ClusterNetworkPolicy(it.name.clone()),
        }
    }
}

impl Key {
    /// The kind of the object.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Namespace(_) => Kind::Namespace,
            Self::Pod(..) => Kind::Pod,
            Self::Node(_) => Kind::Node,
            Self::NetworkPolicy(..) => Kind::NetworkPolicy,
            Self::ClusterNetworkPolicy(_) => Kind::ClusterNetworkPolicy,
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Namespace(name) => write!(f, "Namespace {name}"),
            Self::Pod(namespace, name) => write!(f, "Pod {namespace}/{name}"),
            Self::Node(name) => write!(f, "Node {name}"),
            Self::NetworkPolicy(namespace, name) => write!(f, "NetworkPolicy {namespace}/{name}"),
            Self::ClusterNetworkPolicy(name) => write!(f, "ClusterNetworkPolicy {name}"),
        }
    }
}
