//! Decisions: where a packet goes and why.
//!
//! Owns the subnet table in its compiled form, the verdict on each packet and the reasons for
//! dropping. Never holds a file descriptor, reads a clock, awaits or knows of configuration: time
//! and table are arguments, so that the daemon, a replay and a simulation run the same code. The
//! table is an immutable snapshot that any thread may read; an [`Engine`] belongs to one worker.

mod budget;
mod drop_reason;
mod egress;
mod ingress;
mod oam;
mod paths;
mod peer;
mod prefix_map;
mod reply;
mod seal;
mod table;

pub use culvert_membership::{
    Changes, Digest, Fault, Foreign, MAX_PORTS, Membership, NodeEntry, Overlay, Place, Rejected,
    TableError, Tunnel, TunnelOptions, reserved,
};
pub use drop_reason::{DropCounters, DropReason, LastDrop, LastDrops, SENDERS_KEPT};
pub use egress::EgressVerdict;
pub use ingress::Delivery;
pub use oam::router_of;
pub use paths::PeerPaths;
pub use peer::{Lasting, Peer, PeerCounters, PeerIndex, PeerRegistry, Traffic};
pub use prefix_map::PrefixMap;
pub use reply::Reply;
pub use seal::{Keyed, PeerKeys, Seal, SealedMode, Sealing, Ways};
pub use table::{Local, Owner, Table};

use std::time::Instant;

pub(crate) use budget::Budget;
pub(crate) use paths::hash_of;

/// What one worker decides with, besides the table: the little state that decisions have.
#[derive(Debug)]
pub struct Engine {
    replies: Budget,
}

impl Engine {
    /// Starts with a full budget of replies at `now`.
    pub fn new(now: Instant) -> Self {
        Self { replies: reply::budget(now) }
    }
}

#[cfg(test)]
mod tests;
