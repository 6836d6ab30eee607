//! Questions of nodes to each other, inside the tunnel: whether, how fast and how wide.
//!
//! A worker answers what it is asked, within limits, and hands answers to whoever asks
//! ([`ProbeArrival`]) by a short queue; one that finds it full is lost, as any datagram may be.
//! Neither ever reaches the TUN device, nor the counters of a peer's traffic. Who is asked when is
//! not known here.

mod ask;
mod reflector;

pub use ask::{Ask, Unsent, What};
pub(super) use ask::{Way, send};
pub(super) use reflector::Reflector;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use overlay_proto::oam::echo::Echo;
use overlay_proto::oam::{self, Digest, Ends};
use tokio::sync::mpsc;

/// Answers that wait for whoever asked. What a node asks in a second at most.
const ARRIVALS: usize = 1024;

/// What came of a question, or what control has to answer itself.
#[derive(Clone, Debug)]
pub enum ProbeArrival {
    /// A peer has answered.
    Answer {
        /// The peer's underlay address.
        peer: IpAddr,
        /// What it says.
        answer: oam::Answer,
        /// Its answer to a trace.
        trace: Option<Box<[u8]>>,
        /// When it arrived.
        received: Instant,
    },
    /// The kernel of a peer has answered ICMP echo.
    Echo {
        /// The peer's underlay address.
        peer: IpAddr,
        /// What came back.
        echo: Echo,
        /// When it arrived.
        received: Instant,
    },
    /// A peer asks about a packet.
    Trace {
        /// The peer's underlay address.
        peer: IpAddr,
        /// Whom the answer goes from and to.
        ends: Ends,
        /// The answer, without times.
        answer: oam::Answer,
        /// When the question arrived.
        received: oam::Timestamp,
        /// What it asks.
        trace: Box<[u8]>,
        /// Bytes that the answer may have.
        room: usize,
    },
}

/// A worker's end of it.
#[derive(Clone, Debug)]
pub struct Probes {
    arrivals: mpsc::Sender<ProbeArrival>,
    digest: Arc<ArcSwap<Digest>>,
    /// In ICMP echo of this daemon.
    identifier: u16,
}

impl Probes {
    /// Opens the queue. `identifier` tells this daemon's ICMP echo from that of others.
    pub fn new(identifier: u16) -> (Self, mpsc::Receiver<ProbeArrival>) {
        let (arrivals, receiver) = mpsc::channel(ARRIVALS);
        (Self { arrivals, digest: Arc::default(), identifier }, receiver)
    }

    /// Has answers say this of the node from now on.
    pub fn set_digest(&self, digest: Digest) {
        self.digest.store(Arc::new(digest));
    }

    /// What answers say of the node.
    pub fn digest(&self) -> Digest {
        **self.digest.load()
    }

    /// Tells this daemon's ICMP echo from that of others.
    pub fn identifier(&self) -> u16 {
        self.identifier
    }

    fn hand_over(&self, arrival: ProbeArrival) {
        // Full or nobody listening: see the module.
        let _ = self.arrivals.try_send(arrival);
    }
}
