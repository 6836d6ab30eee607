//! A validated view of one inner IPv4 or IPv6 packet.
//!
//! It owns the checks that make the view safe to use: a value that exists describes a whole packet.
//! It never verifies a checksum (the kernel that receives the packet does), never changes a byte,
//! and never walks IPv6 extension headers before someone asks for what lies behind them.

mod error;
mod flow;
mod upper;

pub use error::InnerError;
pub use upper::{Fragment, UpperLayer};

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{Ecn, Family};

const V4_LEN: usize = Family::V4.header_len();
const V6_LEN: usize = Family::V6.header_len();

/// IPv6 next header number of the hop-by-hop options (RFC 8200 §4.3), the only place where a
/// jumbogram can say its length.
const HOP_BY_HOP: u8 = 0x00;

/// One whole IPv4 or IPv6 packet, borrowed.
///
/// Parsing has checked the version, the header length and the total length, and cut off whatever
/// followed the packet. The accessors cannot fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InnerPacket<'a> {
    bytes: &'a [u8], // INVARIANT: exactly one packet, from its version nibble to its last byte
    fixed: Fixed<'a>, // INVARIANT: the start of `bytes`
}

/// The part of the IP header that is always there; the type of the reference is its length check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fixed<'a> {
    V4(&'a [u8; V4_LEN]),
    V6(&'a [u8; V6_LEN]),
}

impl<'a> InnerPacket<'a> {
    /// Takes the packet at the start of `bytes`; bytes behind its end are left out.
    ///
    /// # Errors
    ///
    /// The first check that failed; see [`InnerError`].
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, InnerError> {
        match bytes.first().map(|first| first >> 4) {
            Some(4) => Self::parse_v4(bytes),
            Some(6) => Self::parse_v6(bytes),
            Some(_) => Err(InnerError::Version),
            None => Err(InnerError::TooShort),
        }
    }

    /// Takes the packet at the start of `bytes`, which must be of the announced `family`.
    ///
    /// # Errors
    ///
    /// As [`parse`](Self::parse), and [`InnerError::FamilyMismatch`] if the version nibble is that
    /// of the other family.
    #[inline]
    pub fn parse_as(family: Family, bytes: &'a [u8]) -> Result<Self, InnerError> {
        match (bytes.first().map(|first| first >> 4), family) {
            (Some(4), Family::V4) => Self::parse_v4(bytes),
            (Some(6), Family::V6) => Self::parse_v6(bytes),
            (Some(4), Family::V6) | (Some(6), Family::V4) => Err(InnerError::FamilyMismatch),
            (Some(_), Family::V4 | Family::V6) => Err(InnerError::Version),
            (None, Family::V4 | Family::V6) => Err(InnerError::TooShort),
        }
    }

    #[inline]
    fn parse_v4(bytes: &'a [u8]) -> Result<Self, InnerError> {
        let Some(fixed) = bytes.first_chunk::<V4_LEN>() else {
            return Err(InnerError::TooShort);
        };
        let header_len = v4_header_len(fixed);
        let total_len = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
        if header_len < V4_LEN {
            return Err(InnerError::HeaderLength);
        }
        if total_len < header_len {
            return Err(InnerError::TotalLength);
        }
        match bytes.get(..total_len) {
            Some(bytes) => Ok(Self { bytes, fixed: Fixed::V4(fixed) }),
            None => Err(InnerError::Truncated),
        }
    }

    #[inline]
    fn parse_v6(bytes: &'a [u8]) -> Result<Self, InnerError> {
        let Some(fixed) = bytes.first_chunk::<V6_LEN>() else {
            return Err(InnerError::TooShort);
        };
        let payload_len = usize::from(u16::from_be_bytes([fixed[4], fixed[5]]));
        if payload_len == 0 && fixed[6] == HOP_BY_HOP {
            return Err(InnerError::Jumbogram);
        }
        match bytes.get(..V6_LEN + payload_len) {
            Some(bytes) => Ok(Self { bytes, fixed: Fixed::V6(fixed) }),
            None => Err(InnerError::Truncated),
        }
    }

    /// Returns the packet's bytes, from the IP header to the last byte of the payload.
    #[inline]
    #[must_use]
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Returns the packet's length in bytes, IP header included.
    #[expect(clippy::len_without_is_empty, reason = "a packet has at least its IP header")]
    #[inline]
    #[must_use]
    pub const fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Returns the packet's IP version.
    #[inline]
    #[must_use]
    pub const fn family(&self) -> Family {
        match self.fixed {
            Fixed::V4(_) => Family::V4,
            Fixed::V6(_) => Family::V6,
        }
    }

    /// Returns the source address.
    #[inline]
    #[must_use]
    pub fn source(&self) -> IpAddr {
        match self.fixed {
            Fixed::V4(h) => IpAddr::V4(Ipv4Addr::new(h[12], h[13], h[14], h[15])),
            Fixed::V6(h) => IpAddr::V6(Ipv6Addr::from_bits(v6_source(h))),
        }
    }

    /// Returns the destination address.
    #[inline]
    #[must_use]
    pub fn destination(&self) -> IpAddr {
        match self.fixed {
            Fixed::V4(h) => IpAddr::V4(Ipv4Addr::new(h[16], h[17], h[18], h[19])),
            Fixed::V6(h) => IpAddr::V6(Ipv6Addr::from_bits(v6_destination(h))),
        }
    }

    /// Returns the source address as a number whose highest bit is the address's first.
    ///
    /// An IPv4 address fills the upper 32 bits and leaves the rest 0, so that "the first n bits"
    /// is the same shift for both families.
    #[inline]
    #[must_use]
    pub const fn source_bits(&self) -> u128 {
        match self.fixed {
            Fixed::V4(h) => (u32::from_be_bytes([h[12], h[13], h[14], h[15]]) as u128) << 96,
            Fixed::V6(h) => v6_source(h),
        }
    }

    /// Returns the destination address as [`source_bits`](Self::source_bits) does the source.
    #[inline]
    #[must_use]
    pub const fn destination_bits(&self) -> u128 {
        match self.fixed {
            Fixed::V4(h) => (u32::from_be_bytes([h[16], h[17], h[18], h[19]]) as u128) << 96,
            Fixed::V6(h) => v6_destination(h),
        }
    }

    /// Returns the ECN field (RFC 3168 §5).
    #[inline]
    #[must_use]
    pub const fn ecn(&self) -> Ecn {
        Ecn::from_bits(self.traffic_class())
    }

    /// Returns the byte that holds DSCP and ECN: IPv4 type of service, IPv6 traffic class.
    #[inline]
    #[must_use]
    pub const fn traffic_class(&self) -> u8 {
        match self.fixed {
            Fixed::V4(h) => h[1],
            Fixed::V6(h) => (h[0] << 4) | (h[1] >> 4),
        }
    }

    /// Returns the IPv4 time to live or the IPv6 hop limit.
    #[inline]
    #[must_use]
    pub const fn ttl(&self) -> u8 {
        match self.fixed {
            Fixed::V4(h) => h[8],
            Fixed::V6(h) => h[7],
        }
    }

    /// Says whether routers must not fragment the packet; for IPv6 they never may.
    #[inline]
    #[must_use]
    pub const fn dont_fragment(&self) -> bool {
        match self.fixed {
            Fixed::V4(h) => h[6] & 0x40 != 0, // RFC 791 §3.1, bit 1 of the flags
            Fixed::V6(_) => true,
        }
    }

    /// Returns the length of the fixed header and the IPv4 options.
    #[inline]
    pub(crate) const fn header_len(&self) -> usize {
        match self.fixed {
            Fixed::V4(h) => v4_header_len(h),
            Fixed::V6(_) => V6_LEN,
        }
    }
}

#[inline]
const fn v4_header_len(header: &[u8; V4_LEN]) -> usize {
    (header[0] & 0x0f) as usize * 4 // RFC 791 §3.1: IHL counts 32-bit words
}

#[inline]
const fn v6_source(header: &[u8; V6_LEN]) -> u128 {
    let [_, _, _, _, _, _, _, _, a @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] = *header;
    u128::from_be_bytes(a)
}

#[inline]
const fn v6_destination(header: &[u8; V6_LEN]) -> u128 {
    match header.last_chunk::<16>() {
        Some(address) => u128::from_be_bytes(*address),
        None => 0,
    }
}
