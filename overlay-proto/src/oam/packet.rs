//! The IP and UDP headers around a question or an answer.

use core::net::IpAddr;

use crate::Family;
use crate::checksum::{Sum, checksum, pseudo_header};

/// Traffic class of what nodes say to each other: CS6 (RFC 4594 §3.1), Not-ECT.
const TRAFFIC_CLASS: u8 = 0xc0;
/// What is left of it when it arrives tells an answer how far it came.
const TTL: u8 = 64;

pub(super) const UDP_HEADER_LEN: usize = 8;

/// From which of a node's addresses to which of another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// Who sends.
    pub source: IpAddr,
    /// Who is meant.
    pub destination: IpAddr,
}

impl Ends {
    /// The family of both; `None` if they are of two.
    #[must_use]
    pub fn family(&self) -> Option<Family> {
        let family = Family::of(self.source);
        (family == Family::of(self.destination)).then_some(family)
    }

    /// The other way round.
    #[must_use]
    pub const fn turned(self) -> Self {
        Self { source: self.destination, destination: self.source }
    }

    /// Writes the IP header of a packet of `packet_len` bytes; returns what follows it. The bytes
    /// of the packet become zero.
    pub(super) fn write<'o>(
        &self,
        protocol: u8,
        packet_len: usize,
        out: &'o mut [u8],
    ) -> Option<&'o mut [u8]> {
        let packet = out.get_mut(..packet_len)?;
        packet.fill(0);
        let len = u16::try_from(packet_len).ok()?;
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let (ip, rest) = packet.split_first_chunk_mut::<20>()?;
                [ip[0], ip[1]] = [0x45, TRAFFIC_CLASS];
                [ip[2], ip[3]] = len.to_be_bytes();
                ip[6] = 0x40; // Don't fragment.
                [ip[8], ip[9]] = [TTL, protocol];
                ip[12..16].copy_from_slice(&source.octets());
                ip[16..20].copy_from_slice(&destination.octets());
                [ip[10], ip[11]] = checksum(ip).to_be_bytes();
                Some(rest)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let (ip, rest) = packet.split_first_chunk_mut::<40>()?;
                ip[0] = 0x60 | (TRAFFIC_CLASS >> 4);
                ip[1] = TRAFFIC_CLASS << 4;
                let payload_len = u16::try_from(rest.len()).ok()?;
                [ip[4], ip[5]] = payload_len.to_be_bytes();
                [ip[6], ip[7]] = [protocol, TTL];
                ip[8..24].copy_from_slice(&source.octets());
                ip[24..40].copy_from_slice(&destination.octets());
                Some(rest)
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => None,
        }
    }

    /// The checksum of a transport header and its payload, whose own field is still zero.
    pub(super) fn transport_checksum(&self, protocol: u8, bytes: &[u8]) -> Option<u16> {
        let len = u32::try_from(bytes.len()).ok()?;
        let pseudo = pseudo_header(self.source, self.destination, protocol, len);
        Some(pseudo.join(Sum::of(bytes)).finish())
    }
}
