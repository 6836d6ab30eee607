//! Sealed mode in the data path: what workers seal and open with, and the thread that makes keys.
//!
//! Workers read sessions without a lock and never shake hands. What concerns handshakes they put
//! into one short queue and go on; the thread at its other end ([`Keeper`]) owns the machine that
//! makes sessions and sends its datagrams. Packets that must be sealed wait for a session within
//! the worker that has read them, for a second and up to a number of bytes.

mod counters;
mod hold;
mod keeper;
mod options;
mod sealer;
mod thread;
mod worker;

pub use counters::{HandshakeTimes, SealedCounters};
pub use keeper::Keeper;
pub use options::SealedOptions;
pub use worker::SealedWorker;

pub(super) use hold::HeldPackets;
pub(super) use sealer::Sealer;
pub(super) use thread::KeyThread;

use std::net::IpAddr;
use std::sync::Arc;

use culvert_seal::session::PeerLink;
use overlay_proto::esp::Slot;

/// Requests that wait at most. A handshake takes a tenth of a millisecond, so that the last of them
/// waits for 25 ms; what is lost is repeated by whoever needs it.
const REQUESTS: usize = 256;

/// What workers tell the thread that makes keys.
#[derive(Debug)]
enum Request {
    /// Somebody has packets for a peer and no session.
    Want(Arc<PeerLink>),
    /// A handshake datagram has arrived, and its MAC is right.
    Handshake(Box<[u8]>),
    /// Something has arrived, from this node of the table, for a session that is not there.
    UnknownSpi(IpAddr),
    /// Something authentic has arrived for this session, for the first time.
    Heard(Slot),
    /// Control has left something to look at.
    Look,
}
