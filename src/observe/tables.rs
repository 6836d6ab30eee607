//! Which subnet tables peers have, and how they are, as they say themselves.

use serde::{Deserialize, Serialize};

/// What a peer says of its table and of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeerTable {
    /// Name of the peer.
    pub node: String,
    /// The hash of its table; none if it has not said it.
    pub table: Option<String>,
    /// Whether its packets flow.
    #[serde(default)]
    pub is_ready: Option<bool>,
    /// By how many seconds its clock is ahead of this node's; good for the time that the answer
    /// took.
    #[serde(default)]
    pub clock_ahead: Option<f64>,
    /// The checks of `culvert doctor` that fail there, if it says so: as of some seconds ago.
    #[serde(default)]
    pub failing: Option<Vec<String>>,
    /// Why it was not asked, if it was not.
    pub unasked: Option<String>,
}
