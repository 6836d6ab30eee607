//! What nodes ask each other through the tunnel: STAMP (RFC 8762) between their bridge addresses,
//! and ICMP echo toward peers that do not know it.
//!
//! It owns the inner packet of a question and of an answer, from the IP header to the last byte. It
//! never sends, waits or decides whom to ask. In VXLAN-GPE the packets travel behind a header with
//! the O bit ([`Codec::oam_header`](crate::Codec::oam_header)), so that no pod can send one;
//! sealed, they are told by [`is_oam`] of what was opened.

pub mod echo;
mod packet;
mod stamp;
mod tlv;

pub use packet::Ends;
pub use stamp::{Answer, MAX_LEN, MIN_LEN, Message, OamError, Question, Timestamp, parse};
pub use tlv::{Digest, MAX_TRACE_LEN, Route};

use crate::{Fragment, InnerPacket};

/// The UDP port that answers: the one of STAMP (RFC 8762 §4.1).
pub const REFLECTOR_PORT: u16 = 862;

/// The UDP port that asks, out of the range of which RFC 8762 §4.1 wants one.
pub const SENDER_PORT: u16 = 49_862;

const UDP: u8 = 0x11;

/// Whether a packet has the ports of a question or an answer. Whose it is is the caller's check.
#[inline]
#[must_use]
pub fn is_oam(packet: &InnerPacket<'_>) -> bool {
    const PORTS: [(u16, u16); 2] = [(SENDER_PORT, REFLECTOR_PORT), (REFLECTOR_PORT, SENDER_PORT)];
    packet.next_protocol() == UDP
        && packet.upper_layer().fragment == Fragment::Whole
        && packet.ports().is_some_and(|ports| PORTS.contains(&ports))
}
