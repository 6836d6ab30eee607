//! What the node still needs before packets flow and pods can be attached.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// One thing that a ready node has. A new one is a variant here, and whoever provides it says so by
/// `Readiness::set`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Need {
    /// The daemon runs, and is not about to end.
    Daemon,
    /// A subnet table is in force.
    Table,
    /// This node's entry in the table is its own, by the table source.
    Claims,
    /// The kernel is set up, and the TUN takes packets.
    Kernel,
    /// Network policies are in force, if they are to be: this node's pods are kept from what they
    /// may not do.
    Policy,
    /// The plugin has been told how to attach pods.
    NodeFile,
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// What is missing, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// What.
    pub what: Need,
    /// Why, and what would change that.
    pub why: String,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.why)
    }
}

/// What is missing at present, for many readers; the node is ready while that is nothing.
#[derive(Clone, Debug)]
pub(crate) struct Readiness {
    missing: watch::Sender<BTreeMap<Need, String>>,
}

impl Readiness {
    /// Starts out with no table and no node.
    pub(crate) fn new() -> Self {
        let missing = [
            (Need::Table, "not read yet"),
            (Need::Kernel, "not set up yet"),
            (Need::NodeFile, "written once nothing else is missing"),
        ];
        let missing = missing.map(|(what, why)| (what, why.to_owned()));
        Self { missing: watch::Sender::new(missing.into()) }
    }

    /// Says why `what` is missing, or with `None` that it is there; answers whether that is news.
    pub(crate) fn set(&self, what: Need, why: Option<String>) -> bool {
        self.missing.send_if_modified(|missing| {
            let before = match &why {
                Some(why) => missing.insert(what, why.clone()),
                None => missing.remove(&what),
            };
            before != why
        })
    }

    /// Whether nothing is missing.
    pub(crate) fn is_ready(&self) -> bool {
        self.missing.borrow().is_empty()
    }

    /// When something is missing, or no longer.
    pub(crate) fn changes(&self) -> watch::Receiver<BTreeMap<Need, String>> {
        self.missing.subscribe()
    }

    /// What is missing, in the order of [`Need`].
    pub(crate) fn missing(&self) -> Vec<Missing> {
        let missing = self.missing.borrow();
        missing.iter().map(|(what, why)| Missing { what: *what, why: why.clone() }).collect()
    }
}

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_ready_when_nothing_is_missing_and_lists_by_name_what_is() {
        let readiness = Readiness::new();
        assert!(readiness.set(Need::Claims, Some("taken by node2".into())));
        assert!(!readiness.set(Need::Claims, Some("taken by node2".into())), "no news");
        let listed = readiness.missing().iter().map(Missing::to_string).collect::<Vec<_>>();
        assert_eq!(listed[0], "table: not read yet");
        assert_eq!(listed[1], "claims: taken by node2");
        for what in [Need::Table, Need::Claims, Need::Kernel] {
            assert!(readiness.set(what, None));
            assert!(!readiness.is_ready());
        }
        readiness.set(Need::NodeFile, None);
        assert!(readiness.is_ready() && readiness.missing().is_empty());
    }
}
