//! What keeps a node from following the cluster, and what keeps it from owning its subnets.

use std::fmt;

use ipnet::IpNet;
use thiserror::Error;

use crate::pods::list_pods;
use crate::{HeldAddress, PodsUnknown, PublishedError};

/// Where a value of a node stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place(pub(super) String);

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "node \"{}\" of the cluster", self.0)
    }
}

/// What is wrong with a Node, in words that follow its place.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(super) enum NodeProblem {
    #[error("the annotation {key} = \"{text}\" is not an IP address")]
    Address { key: &'static str, text: String },
    #[error("has no InternalIP; set the kubelet's --node-ip, or annotate it with {key}")]
    NoAddress { key: &'static str },
    #[error("podCIDR = \"{text}\" is not a prefix")]
    PodCidr { text: String },
    #[error("the annotation {key} = \"{text}\" is not a port")]
    Port { key: &'static str, text: String },
    #[error("the annotation {key} = \"{text}\" is neither true nor false")]
    Plain { key: &'static str, text: String },
    #[error("the annotation {key} = \"{text}\": {what}")]
    Flannel { key: &'static str, text: String, what: String },
    /// A node that this one cannot speak to.
    #[error(transparent)]
    Entry(#[from] PublishedError),
}

/// Why this node's entry is not its own.
#[derive(Debug, Error)]
pub(super) enum Refusal {
    #[error(
        "the cluster has no node \"{name}\"; set node.name to the name that kubectl get nodes shows"
    )]
    NoNode { name: String },
    #[error(
        "the Node \"{name}\" was deleted, and takes no new pods: restart its kubelet, which registers it \
         again, or stop the machine if it is to leave the cluster"
    )]
    NodeDeleted { name: String },
    #[error("{place}: {problem}")]
    Problem { place: Place, problem: NodeProblem },
    #[error(
        "node \"{name}\" has no podCIDR: run kube-controller-manager with \
         --allocate-node-cidrs=true and --cluster-cidr, or set the node's spec.podCIDR"
    )]
    NoPodCidr { name: String },
    #[error(
        "node \"{name}\" got another podCIDR; it takes no new pods, and looks whether pods hold \
         addresses of {lost:?}"
    )]
    SubnetsLost { name: String, lost: Vec<IpNet> },
    #[error(
        "node \"{name}\" got another podCIDR while {} pods hold addresses of {lost:?} ({}); drain it, \
         and delete the pods that stay (those of DaemonSets)",
        .held.len(),
        list_pods(.held)
    )]
    SubnetsHeld { name: String, lost: Vec<IpNet>, held: Vec<HeldAddress> },
    #[error(
        "node \"{name}\" got another podCIDR, and whether pods hold addresses of {lost:?} cannot be \
         known: {error}"
    )]
    PodsUnknown { name: String, lost: Vec<IpNet>, error: Box<PodsUnknown> },
}

impl Refusal {
    pub(super) fn lost(
        name: &str,
        lost: Vec<IpNet>,
        held: Result<Vec<HeldAddress>, PodsUnknown>,
    ) -> Self {
        let name = name.to_owned();
        match held {
            Ok(held) => Self::SubnetsHeld { name, lost, held },
            Err(error) => Self::PodsUnknown { name, lost, error: error.into() },
        }
    }
}
