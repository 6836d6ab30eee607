//! Sessions: what seals toward a peer, what opens what comes from it, and where workers find them.
//!
//! Everything here is shared by workers and the thread that makes keys, and read without a lock.
//! Keys are zeroed when the last worker has let go of them. What seals gives out each sequence
//! once, whoever asks; what opens takes each once, however many copies arrive at how many workers.

mod incoming;
mod link;
mod outgoing;
mod slots;
mod traffic;
mod window;

pub use incoming::{Incoming, OpenError};
pub use link::{Activity, PeerLink};
pub use outgoing::{Outgoing, SealError, Spent, Ticket, Tickets};
pub use slots::Slots;
pub use traffic::{Direction, TrafficKey};
pub(crate) use traffic::{KeyMaterial, MATERIAL_LEN};

/// Lanes of one sending worker: as many as there are source ports.
pub const LANES_PER_WORKER: u16 = 16;

/// What ends a session, and what ends it early enough that the next one stands before.
pub mod limits {
    use std::time::Duration;

    /// Blocks of AES after which a key is renewed.
    pub const RENEW_BLOCKS: u64 = 1 << 34;
    /// Blocks of AES after which a key is not used any more.
    pub const MAX_BLOCKS: u64 = 1 << 35;
    /// Sequence of a lane after which a key is renewed.
    pub const RENEW_SEQUENCE: u64 = 1 << 31;
    /// Sequence of a lane that is not used any more.
    pub const MAX_SEQUENCE: u64 = (1 << 32) - (1 << 16);
    /// Age after which whoever began renews a key; up to [`RENEW_SPREAD`] later.
    pub const RENEW_AGE: Duration = Duration::from_secs(100);
    /// So that not all peers of a node renew at once.
    pub const RENEW_SPREAD: Duration = Duration::from_secs(20);
    /// Age after which whoever answered renews a key that the other end has not.
    pub const RENEW_AGE_OF_RESPONDER: Duration = Duration::from_secs(140);
    /// Age after which a key is not used any more.
    pub const MAX_AGE: Duration = Duration::from_secs(180);
    /// For how long a session that has a successor still receives.
    pub const PREVIOUS: Duration = Duration::from_secs(10);
}

#[cfg(test)]
mod tests;
