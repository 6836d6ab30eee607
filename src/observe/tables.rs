//! Which subnet tables peers have, as they say themselves.

use serde::{Deserialize, Serialize};

/// What a peer says of its table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerTable {
    /// Name of the peer.
    pub node: String,
    /// The hash of its table; none if it has not said it.
    pub table: Option<String>,
    /// Why it was not asked, if it was not.
    pub unasked: Option<String>,
}
