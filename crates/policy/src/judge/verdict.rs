//! Words for what was decided.

use std::fmt;
use std::sync::Arc;

use crate::object::{ClusterNetworkPolicy, NetworkPolicy, Tier};
use crate::plan::{Action, Direction};
use crate::world::NamespacedName;

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What the source's end says.
    pub egress: Opinion,
    /// What the destination's end says.
    pub ingress: Opinion,
}

/// What one end says to a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opinion {
    /// The pod whose policies were asked; none if this end is no pod.
    pub pod: Option<NamespacedName>,
    /// The policies that apply to the pod in this direction.
    pub isolated_by: Vec<PolicyName>,
    /// Why.
    pub ground: Ground,
}

/// Why a packet passes one end, or does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ground {
    /// The end is no pod that policies know: passes.
    NoPod,
    /// No policy applies to the pod: passes.
    Unrestricted,
    /// Between a pod and its own node: passes.
    OwnNode,
    /// From a pod to itself: passes.
    Itself,
    /// A rule decided; it does not pass what it sees on.
    Rule(RuleName, Action),
    /// Policies apply, but none isolates the pod, and no rule denies it: passes.
    NothingDenies,
    /// Policies that are only being tried out would not allow it: passes, and is logged.
    TriedOut,
    /// Policies isolate the pod, and none allows it: dropped.
    NothingAllows,
}

/// A policy, as comments of rules name it: `default/web`, `admin:deny-all`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PolicyName {
    /// A NetworkPolicy, by namespace and name.
    Network(Arc<str>, Arc<str>),
    /// A ClusterNetworkPolicy, by tier and name.
    Cluster(Tier, Arc<str>),
}

/// A rule, as comments name it: `default/web ingress[0]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleName {
    /// The policy that it stands in.
    pub policy: PolicyName,
    /// In which list.
    pub direction: Direction,
    /// At which place, counted from 0.
    pub number: usize,
}

impl Verdict {
    /// Whether the packet passes.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.egress.is_allowed() && self.ingress.is_allowed()
    }

    /// What the end says that has this direction.
    #[must_use]
    pub const fn opinion(&self, direction: Direction) -> &Opinion {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }
}

impl Opinion {
    /// Whether the packet passes this end.
    #[must_use]
    pub const fn is_allowed(&self) -> bool {
        match self.ground {
            Ground::NoPod
            | Ground::Unrestricted
            | Ground::OwnNode
            | Ground::Itself
            | Ground::NothingDenies
            | Ground::TriedOut
            | Ground::Rule(_, Action::Accept | Action::Pass) => true,
            Ground::Rule(_, Action::Deny) | Ground::NothingAllows => false,
        }
    }
}

impl PolicyName {
    pub(crate) fn of_network(policy: &NetworkPolicy) -> Self {
        Self::Network(policy.namespace.clone(), policy.name.clone())
    }

    pub(crate) fn of_cluster(policy: &ClusterNetworkPolicy) -> Self {
        Self::Cluster(policy.tier, policy.name.clone())
    }
}

impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(namespace, name) => write!(f, "{namespace}/{name}"),
            Self::Cluster(tier, name) => write!(f, "{tier}:{name}"),
        }
    }
}

impl fmt::Display for RuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { policy, direction, number } = self;
        write!(f, "{policy} {direction}[{number}]")
    }
}

/// What is said of an end: `default/web ingress[0] allows it`.
impl fmt::Display for Opinion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let policies = || {
            let names: Vec<String> = self.isolated_by.iter().map(ToString::to_string).collect();
            names.join(", ")
        };
        match &self.ground {
            Ground::NoPod => f.write_str("no pod that policies know"),
            Ground::Unrestricted => f.write_str("no policy applies"),
            Ground::OwnNode => f.write_str("between a pod and its own node"),
            Ground::Itself => f.write_str("from a pod to itself"),
            Ground::Rule(rule, Action::Accept | Action::Pass) => write!(f, "{rule} allows it"),
            Ground::Rule(rule, Action::Deny) => write!(f, "{rule} denies it"),
            Ground::NothingDenies => write!(f, "{} apply, and none denies it", policies()),
            Ground::TriedOut => f.write_str("only policies that are being tried out object"),
            Ground::NothingAllows => write!(f, "isolated by {}, and no rule allows it", policies()),
        }
    }
}
