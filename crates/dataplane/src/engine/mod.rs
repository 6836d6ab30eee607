//! Decisions: where a packet goes and why.
//!
//! Owns the subnet table in its compiled form, the verdict on each packet and the reasons for
//! dropping. Never holds a file descriptor, reads a clock, awaits or knows of configuration: time
//! and table are arguments, so that the daemon, a replay and a simulation run the same code. The
//! table is an immutable snapshot that any thread may read; an [`Engine`] belongs to one worker.

mod admission;
mod drop_reason;
mod egress;
mod ingress;
mod membership;
mod peer;
mod prefix_map;
mod reply;
mod reserved;
mod table;
mod tunnel;

pub use admission::Rejected;
pub use drop_reason::{DropCounters, DropReason};
pub use egress::EgressVerdict;
pub use ingress::Delivery;
pub use membership::{Fault, Membership, NodeEntry, Overlay, Place, TableError};
pub use peer::{Peer, PeerCounters, PeerIndex, PeerRegistry, Traffic};
pub use prefix_map::PrefixMap;
pub use reply::Reply;
pub use reserved::reserved;
pub use table::{Local, Owner, Table};
pub use tunnel::{Foreign, MAX_PORTS, Tunnel, TunnelOptions};

use std::time::Instant;

use reply::ReplyBudget;

/// What one worker decides with, besides the table: the little state that decisions have.
#[derive(Debug)]
pub struct Engine {
    replies: ReplyBudget,
}

impl Engine {
    /// Starts with a full budget of replies at `now`.
    pub fn new(now: Instant) -> Self {
        Self { replies: ReplyBudget::new(now) }
    }
}

#[cfg(test)]
mod tests;
