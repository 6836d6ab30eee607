//! ICMP echo inside the tunnel, for peers that do not know the O bit: their kernel answers it.

use super::packet::Ends;
use crate::checksum::{Sum, checksum, pseudo_header};
use crate::{Family, Fragment, InnerPacket};

const ICMP: u8 = 0x01;
const ICMPV6: u8 = 0x3a;
const HEADER_LEN: usize = 8;
const NONCE_LEN: usize = 8;

/// An echo request, and what comes back of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Echo {
    /// Tells this daemon's requests from those of `ping`.
    pub identifier: u16,
    /// The lower half of the question's number.
    pub sequence: u16,
    /// A number that nobody can guess.
    pub nonce: u64,
}

impl Echo {
    /// The length of the packet.
    #[must_use]
    pub const fn packet_len(family: Family) -> usize {
        family.header_len() + HEADER_LEN + NONCE_LEN
    }

    /// Writes the inner packet of a request; returns its length. `None`, with `out` in any state,
    /// if `ends` are of two families or `out` is too short.
    #[must_use]
    pub fn write(&self, ends: Ends, out: &mut [u8]) -> Option<usize> {
        let family = ends.family()?;
        let packet_len = Self::packet_len(family);
        let (protocol, kind) = match family {
            Family::V4 => (ICMP, 8),
            Family::V6 => (ICMPV6, 128),
        };
        let message = ends.write(protocol, packet_len, out)?;
        let [i0, i1] = self.identifier.to_be_bytes();
        let [s0, s1] = self.sequence.to_be_bytes();
        let (header, body) = message.split_first_chunk_mut::<HEADER_LEN>()?;
        *header = [kind, 0, 0, 0, i0, i1, s0, s1];
        body.copy_from_slice(&self.nonce.to_be_bytes());
        let sum = match family {
            Family::V4 => checksum(message),
            Family::V6 => ends.transport_checksum(protocol, message)?,
        };
        message.get_mut(2..4)?.copy_from_slice(&sum.to_be_bytes());
        Some(packet_len)
    }

    /// Reads the answer to a request that [`write`](Self::write) made; `None` of anything else.
    #[must_use]
    pub fn parse_reply(packet: &InnerPacket<'_>) -> Option<Self> {
        let (protocol, kind) = match packet.family() {
            Family::V4 => (ICMP, 0),
            Family::V6 => (ICMPV6, 129),
        };
        let upper = packet.upper_layer();
        if packet.next_protocol() != protocol || upper.fragment != Fragment::Whole {
            return None;
        }
        let message = packet.bytes().get(upper.offset..)?;
        let (header, body) = message.split_first_chunk::<HEADER_LEN>()?;
        let nonce = u64::from_be_bytes(body.try_into().ok()?);
        let len = u32::try_from(message.len()).ok()?;
        let sum = match packet.family() {
            Family::V4 => checksum(message),
            Family::V6 => pseudo_header(packet.source(), packet.destination(), ICMPV6, len)
                .join(Sum::of(message))
                .finish(),
        };
        let [found, 0, _, _, i0, i1, s0, s1] = *header else { return None };
        (found == kind && sum == 0).then_some(Self {
            identifier: u16::from_be_bytes([i0, i1]),
            sequence: u16::from_be_bytes([s0, s1]),
            nonce,
        })
    }
}
