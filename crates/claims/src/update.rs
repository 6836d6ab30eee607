//! What a source tells the daemon: everything first, then what changes.

use std::sync::Arc;

use culvert_membership::NodeEntry;

use crate::Proposal;

/// A node as a source knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Since when, in whatever the source counts by: of two that claim the same, the lesser wins.
    pub since: u64,
    /// What it says.
    pub entry: Arc<NodeEntry>,
}

/// What a source tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update {
    /// This is everything that the source knows; it is followed from here on.
    Everything(Proposal),
    /// A node is new or has changed.
    Put(Candidate),
    /// A node is gone.
    Remove(String),
    /// A value cannot be understood, or again can.
    Unreadable {
        /// Where it stands.
        key: String,
        /// What is wrong with it, if anything.
        problem: Option<String>,
    },
    /// What this node needs is not its own (or, with `None`, is again): it must take no new pods.
    Contested(Option<String>),
    /// What the source has makes no sense as a whole; what it had before stays in force.
    Refused(String),
    /// What all nodes share has changed in a way that this node does not go by (or, with `None`, no
    /// longer has).
    Differs(Option<String>),
    /// The source cannot be followed, for this reason; it is tried again.
    Lost(String),
}
