//! ClusterNetworkPolicy.

use std::fmt;
use std::sync::Arc;

use super::{PodSelection, Rule};
use crate::plan::Direction;

/// A ClusterNetworkPolicy of `policy.networking.k8s.io/v1alpha2`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterNetworkPolicy {
    /// Its name.
    pub name: Arc<str>,
    /// Before or after the policies of namespaces.
    pub tier: Tier,
    /// The lowest is asked first; among equals the first by name.
    pub priority: u16,
    /// The pods that it is about.
    pub subjects: PodSelection,
    /// What happens to what comes to them, in order.
    pub ingress: Vec<Rule>,
    /// What happens to what they send, in order.
    pub egress: Vec<Rule>,
}

/// When a ClusterNetworkPolicy is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// Before all others.
    Admin,
    /// After all others, for pods that no NetworkPolicy isolates.
    Baseline,
}

impl ClusterNetworkPolicy {
    /// Its rules in one direction.
    #[must_use]
    pub fn rules(&self, direction: Direction) -> &[Rule] {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }

    /// What puts policies of one tier in order.
    #[must_use]
    pub fn rank(&self) -> (u16, &str) {
        (self.priority, &self.name)
    }
}

impl Tier {
    /// The word in names and reports.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Baseline => "baseline",
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
