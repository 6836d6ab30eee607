//! ICMP errors that the overlay sends to its own pods, and the limit on them.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use overlay_proto::{InnerPacket, Mtu, icmp};

use super::{Budget, DropReason};

/// Errors that may go out at once; Linux allows itself 50 (`icmp_msgs_burst`).
const BURST: u32 = 50;

/// Time that buys one more error: 1,000 a second, as Linux allows itself (`icmp_msgs_per_sec`).
const INTERVAL: Duration = Duration::from_millis(1);

/// An ICMP error in the making: what to tell the sender of a dropped packet, and from where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    pub(super) source: IpAddr,
    pub(super) message: Message,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Message {
    NoRoute,
    /// The peer must not be spoken to in plain, and has no key.
    Prohibited,
    /// The peer does not answer handshakes.
    NoSession,
    TooBig(Mtu),
}

impl Reply {
    /// Why the offending packet was dropped.
    pub fn reason(&self) -> DropReason {
        match self.message {
            Message::NoRoute => DropReason::NoOwner,
            Message::Prohibited => DropReason::NoKey,
            Message::NoSession => DropReason::NoSession,
            Message::TooBig(_) => DropReason::TooBig,
        }
    }

    /// Writes the error about `offending` into `out` and returns its length; `None` if the RFCs
    /// forbid an error about that packet.
    pub fn build(&self, offending: &InnerPacket<'_>, out: &mut [u8]) -> Option<usize> {
        let why = match self.message {
            Message::NoRoute => icmp::Unreachable::NoRoute,
            Message::Prohibited => icmp::Unreachable::AdminProhibited,
            Message::NoSession => icmp::Unreachable::Address,
            Message::TooBig(mtu) => return icmp::too_big(offending, self.source, mtu, out),
        };
        icmp::unreachable(offending, self.source, why, out)
    }
}

/// A pod that sends into the void must not make us send as much back.
pub(super) fn budget(now: Instant) -> Budget {
    Budget::new(BURST, INTERVAL, now)
}
