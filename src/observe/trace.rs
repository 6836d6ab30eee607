//! What `culvert trace` is told.

use serde::{Deserialize, Serialize};

/// What a text ends with that a node has cut, since its answer has to be short.
pub const CUT: char = '…';

/// A packet's way, and that of the answer to it, as both nodes see them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceReport {
    /// What the packet's node says, and then what the node of its destination does.
    pub there: Vec<TraceHalf>,
    /// The same of the answer's way.
    pub back: Vec<TraceHalf>,
    /// What `culvert doctor` finds on the nodes, of those that say so.
    #[serde(default)]
    pub failing: Vec<FailingChecks>,
    /// Why the other node says nothing, if it does not.
    pub silence: Option<String>,
}

/// The checks of `culvert doctor` that fail on a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailingChecks {
    /// The node.
    pub node: String,
    /// Their names; none if all is well, as far as it could look.
    pub checks: Vec<String>,
}

/// What one node says of a way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceHalf {
    /// The node.
    pub node: String,
    /// What becomes of the packet there.
    pub verdict: String,
    /// What decides that.
    pub found: String,
}
