//! What keeps a node from following etcd, and what keeps it from owning its subnets.

use std::net::IpAddr;

use ipnet::IpNet;
use thiserror::Error;

use super::keys::{Problem, SettingsFault};
use super::memory::Unwritten;
use crate::pods::list_pods;
use crate::{HeldAddress, Parameters, PodsUnknown};

/// Why a session failed, in an operator's words. The next one reads everything anew.
#[derive(Debug, Error)]
#[error(transparent)]
pub struct Failure(#[from] Cause);

/// What makes a session fail.
#[derive(Debug, Error)]
pub(super) enum Cause {
    #[error(
        "{key} is missing: write there what all nodes share, such as \
         {{\"cidrs\":[\"10.244.0.0/16\"],\"vni\":1,\"port\":4790}}, or set network.cidrs"
    )]
    SettingsMissing { key: String },
    #[error("{key}: {problem}")]
    SettingsUnreadable { key: String, problem: Problem },
    #[error("network.cidrs does not fit: {fault}; write {key} with another subnet_len")]
    SettingsUnfit { key: String, fault: SettingsFault },
    #[error("{key} is gone")]
    SettingsGone { key: String },
    #[error(transparent)]
    Disagreement(#[from] Disagreement),
    #[error("etcd has forgotten changes that were not told yet; reading everything again")]
    Compacted,
    #[error("etcd has ended the watch: {0}")]
    Canceled(String),
    #[error(transparent)]
    Unwritten(#[from] Unwritten),
}

/// How what all nodes share differs from what this node goes by.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(super) enum Disagreement {
    #[error(
        "{key} says {}, but this node's configuration {}; make network and underlay.port the same, or \
         leave network.cidrs out to go by the key",
        json(.found),
        json(.configured)
    )]
    Configuration { key: String, found: Parameters, configured: Parameters },
    #[error(
        "{key} now says {}, which this daemon cannot go by while it runs; restart it, or change \
         {key} back",
        json(.found)
    )]
    AtRunTime { key: String, found: Parameters },
}

fn json(parameters: &Parameters) -> String {
    serde_json::to_string(parameters).unwrap_or_default()
}

/// Why what this node needs is not its own. Time or an operator may change that.
#[derive(Debug, Error)]
pub(super) enum Refusal {
    #[error(
        "another machine, with the address {address}, runs under the name \"{node}\"; give each \
         node.name of its own, or if that machine is gone wait for its lease to run out (or delete \
         {key})"
    )]
    NameTaken { node: String, address: IpAddr, key: String },
    #[error(
        "node \"{node}\" has the address {address} too; give each machine its own, or set \
         node.address, or if that node is gone wait for its lease to run out (or delete {key})"
    )]
    AddressTaken { node: String, address: IpAddr, key: String },
    #[error("{key} is {problem}")]
    Unreadable { key: String, problem: Problem },
    #[error(
        "{subnet} is not this node's any more ({by}); it takes no new pods, and looks whether \
         pods hold addresses in it"
    )]
    SubnetLost { subnet: IpNet, by: Taker },
    #[error(
        "{subnet} is not this node's any more ({by}), and {} of its pods hold addresses in it ({}); \
         drain this node and delete the pods that stay, or delete the other claim",
        .held.len(),
        list_pods(.held)
    )]
    SubnetHeld { subnet: IpNet, by: Taker, held: Vec<HeldAddress> },
    #[error(
        "{subnet} is not this node's any more ({by}), and whether pods hold addresses in it cannot \
         be known: {error}"
    )]
    PodsUnknown { subnet: IpNet, by: Taker, error: Box<PodsUnknown> },
    #[error(
        "no free /{len} is left of {network}: all {usable} are claimed or reserved; widen cidrs or \
         raise subnet_len in the settings, release reservations, or wait until leases of nodes that \
         are gone run out"
    )]
    Full { network: IpNet, len: u8, usable: u64 },
}

/// Who or what has a subnet that was this node's.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(super) enum Taker {
    #[error("node \"{0}\" has claimed it")]
    Node(String),
    #[error("it is reserved, or its key cannot be understood")]
    Reserved,
    #[error("it is part of none of the pod networks in {0}")]
    NoNetwork(String),
}
