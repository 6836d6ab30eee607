//! The outer headers as they are on the wire, for those who look at packets: the kernel makes them,
//! and we never see them.

use std::net::{IpAddr, SocketAddr};

use overlay_proto::checksum::{self, Sum};
use overlay_proto::{Ecn, Family};

/// Longest outer IP and UDP header.
pub const MAX_OUTER_LEN: usize = Family::V6.header_len() + UDP_LEN;

const UDP: u8 = 0x11;
const UDP_LEN: usize = 8;
/// What Linux gives its packets (`net.ipv4.ip_default_ttl`, `net.ipv6.conf.all.hop_limit`).
const HOPS: u8 = 64;

/// IP and UDP header of one datagram.
#[derive(Clone, Copy, Debug)]
pub struct Outer {
    bytes: [u8; MAX_OUTER_LEN],
    len: usize,
}

impl Outer {
    /// Makes the headers of `payload`. Identification and flow label are 0, as nobody knows them;
    /// the checksums are right. Addresses of two families make an empty header.
    pub fn new(source: SocketAddr, destination: SocketAddr, ecn: Ecn, payload: &[u8]) -> Self {
        let mut outer = Self { bytes: [0; MAX_OUTER_LEN], len: 0 };
        let udp_len = u16::try_from(UDP_LEN + payload.len()).unwrap_or(u16::MAX);
        let ip_len = match (source.ip(), destination.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let total = udp_len.saturating_add(20);
                let header = &mut outer.bytes[..20];
                header[0] = 0x45;
                header[1] = ecn.bits();
                header[2..4].copy_from_slice(&total.to_be_bytes());
                header[6] = 0x40; // Don't fragment.
                header[8] = HOPS;
                header[9] = UDP;
                header[12..16].copy_from_slice(&from.octets());
                header[16..20].copy_from_slice(&to.octets());
                let sum = checksum::checksum(header);
                header[10..12].copy_from_slice(&sum.to_be_bytes());
                20
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let header = &mut outer.bytes[..40];
                header[0] = 0x60;
                header[1] = ecn.bits() << 4;
                header[4..6].copy_from_slice(&udp_len.to_be_bytes());
                header[6] = UDP;
                header[7] = HOPS;
                header[8..24].copy_from_slice(&from.octets());
                header[24..40].copy_from_slice(&to.octets());
                40
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return outer,
        };
        let udp = &mut outer.bytes[ip_len..ip_len + UDP_LEN];
        udp[0..2].copy_from_slice(&source.port().to_be_bytes());
        udp[2..4].copy_from_slice(&destination.port().to_be_bytes());
        udp[4..6].copy_from_slice(&udp_len.to_be_bytes());
        let pseudo = checksum::pseudo_header(source.ip(), destination.ip(), UDP, udp_len.into());
        let sum = pseudo.join(Sum::of(udp)).push(payload).finish();
        let sum = if sum == 0 { 0xffff } else { sum };
        udp[6..8].copy_from_slice(&sum.to_be_bytes());
        outer.len = ip_len + UDP_LEN;
        outer
    }

    /// The headers.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// How long the headers are on an underlay of `family`.
    pub const fn len_on(family: Family) -> usize {
        family.header_len() + UDP_LEN
    }
}
