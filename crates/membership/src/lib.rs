//! The nodes of a cluster as one consistent list, whatever table source they come from.
//!
//! Owns what an entry of the subnet table says, which entries go together, and what two nodes speak
//! with one another. Every function is a pure one over its arguments. Never forwards, and never
//! knows where an entry was written.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod admission;
mod changes;
mod digest;
mod keys;
mod membership;
mod reserved;
mod tunnel;

pub use admission::Rejected;
pub use changes::Changes;
pub use digest::Digest;
pub use keys::{KeyFault, NodeKeys, WrongKey};
pub use membership::{Fault, Membership, NodeEntry, Overlay, Place, TableError};
pub use reserved::reserved;
pub use tunnel::{Foreign, MAX_PORTS, Tunnel, TunnelOptions};
