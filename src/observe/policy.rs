//! What the daemon shows of network policies.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// How it stands with network policies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyStatus {
    /// Whether they are enforced: off or on; nothing before the start has come so far.
    pub mode: String,
    /// Where they come from.
    pub source: String,
    /// What is wrong with the source, and that what was read last stays in force.
    pub source_error: Option<String>,
    /// NetworkPolicies and ClusterNetworkPolicies that are known.
    pub policies: usize,
    /// Pods that are known, of all nodes.
    pub pods: usize,
    /// Addresses of this node's pods that a policy isolates.
    pub isolated: usize,
    /// Whether the kernel keeps others from changing the rules.
    pub is_owned: bool,
    /// Policies that the kernel refuses, with its words, and the pods that are closed for it.
    pub refused: Vec<String>,
    /// Why the rules are not those that they should be.
    pub error: Option<String>,
    /// Times that the rules were changed.
    pub updates: u64,
    /// Times that somebody else's change was undone.
    pub repairs: u64,
    /// Connections that were cut because they are no longer allowed.
    pub cut: u64,
    /// Pods that were let in, and that were refused.
    pub pods_admitted: u64,
    /// Pods that were refused.
    pub pods_refused: u64,
    /// Packets that each rule of a policy has matched, as far as this was looked at: the first of
    /// each connection, but for those that are dropped.
    pub hits: BTreeMap<String, u64>,
    /// Packets that were dropped, by direction and the policies that isolate, or else by what
    /// dropped them.
    pub drops: BTreeMap<String, u64>,
    /// Packets that passed, and that policies which are only being tried out would have dropped.
    pub audited: BTreeMap<String, u64>,
}
