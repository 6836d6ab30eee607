//! What the IP header carries: protocol, place of the transport header, fragment, ports.
//!
//! It owns the bounded walk over IPv6 extension headers (RFC 8200 §4). It never rejects a packet: a
//! chain that is cut short or too long ends at the last header that could be read, because a router
//! forwards such packets and lets the receiver judge.

use crate::InnerPacket;
use crate::inner::{Fixed, HOP_BY_HOP};

const ROUTING: u8 = 0x2b; // RFC 8200 §4.4
const FRAGMENT: u8 = 0x2c; // RFC 8200 §4.5
const AUTHENTICATION: u8 = 0x33; // RFC 4302
const DESTINATION_OPTIONS: u8 = 0x3c; // RFC 8200 §4.6

const TCP: u8 = 0x06;
const UDP: u8 = 0x11;
const SCTP: u8 = 0x84;

/// How many IPv6 extension headers are walked at most.
///
/// RFC 8200 §4.1 names seven places in a well-formed chain; one more is slack. Beyond that a packet
/// is built to cost time.
const MAX_EXTENSION_HEADERS: usize = 8;

/// What a packet is of the datagram it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    /// All of it.
    Whole,
    /// Its start, with the transport header; more follows (or an IPv6 atomic fragment, RFC 6946).
    First,
    /// A later piece, without a transport header.
    Later,
}

/// Where the IP header chain ends and what comes after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpperLayer {
    /// The protocol number of what starts at `offset`, such as 6 for TCP.
    pub protocol: u8,
    /// Where it starts, in bytes from the start of the packet; never beyond the packet's end.
    pub offset: usize,
    /// Which part of a datagram the packet is.
    pub fragment: Fragment,
}

impl<'a> InnerPacket<'a> {
    /// Finds the upper layer; for IPv6 this walks the extension headers.
    ///
    /// The accessors below ask this each; a caller that wants several answers asks once.
    #[inline]
    #[must_use]
    pub fn upper_layer(&self) -> UpperLayer {
        match self.fixed {
            Fixed::V4(h) => {
                let fragment = match u16::from_be_bytes([h[6], h[7]]) & 0x3fff {
                    0 => Fragment::Whole,
                    0x2000 => Fragment::First, // more fragments, offset 0
                    _ => Fragment::Later,
                };
                UpperLayer { protocol: h[9], offset: self.header_len(), fragment }
            }
            Fixed::V6(h) if is_extension(h[6]) => walk(self.bytes, self.header_len(), h[6]),
            Fixed::V6(h) => {
                UpperLayer { protocol: h[6], offset: self.header_len(), fragment: Fragment::Whole }
            }
        }
    }

    /// Returns the protocol number that the fixed IP header names: where IPv6 extension headers
    /// follow, that of the first.
    #[inline]
    #[must_use]
    pub const fn next_protocol(&self) -> u8 {
        match self.fixed {
            Fixed::V4(h) => h[9],
            Fixed::V6(h) => h[6],
        }
    }

    /// Returns the protocol number behind the IP header and the IPv6 extension headers.
    #[inline]
    #[must_use]
    pub fn protocol(&self) -> u8 {
        self.upper_layer().protocol
    }

    /// Returns where the transport header starts, in bytes; at most [`len`](Self::len).
    #[inline]
    #[must_use]
    pub fn transport_offset(&self) -> usize {
        self.upper_layer().offset
    }

    /// Returns the bytes from the transport header on; those of a later fragment start mid-way.
    #[inline]
    #[must_use]
    pub fn transport(&self) -> &'a [u8] {
        self.bytes.get(self.upper_layer().offset..).unwrap_or_default()
    }

    /// Returns the source and destination port of a TCP, UDP or SCTP packet.
    ///
    /// `None` for other protocols, for later fragments, and if the four bytes are not all there.
    #[inline]
    #[must_use]
    pub fn ports(&self) -> Option<(u16, u16)> {
        let ports = port_bits(self.bytes, self.upper_layer())?.to_be_bytes();
        let [s0, s1, d0, d1] = ports;
        Some((u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1])))
    }
}

/// Returns both ports as one number, the source port in the upper half.
#[inline]
pub(super) fn port_bits(bytes: &[u8], upper: UpperLayer) -> Option<u32> {
    if upper.fragment == Fragment::Later || !matches!(upper.protocol, TCP | UDP | SCTP) {
        return None;
    }
    let ports = bytes.get(upper.offset..)?.first_chunk::<4>()?;
    Some(u32::from_be_bytes(*ports))
}

#[inline]
const fn is_extension(next_header: u8) -> bool {
    matches!(next_header, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION_OPTIONS)
}

/// Walks the IPv6 extension headers that start at `offset` with one of type `protocol`.
fn walk(bytes: &[u8], mut offset: usize, mut protocol: u8) -> UpperLayer {
    let mut fragment = Fragment::Whole;
    for _ in 0..MAX_EXTENSION_HEADERS {
        if !is_extension(protocol) || fragment == Fragment::Later {
            break;
        }
        // The smallest extension header has eight bytes, and the fragment header exactly eight.
        let Some(header) = bytes.get(offset..).and_then(<[u8]>::first_chunk::<8>) else {
            break;
        };
        let len = match protocol {
            FRAGMENT => 8,
            AUTHENTICATION => (usize::from(header[1]) + 2) * 4, // RFC 4302 §2.2
            _ => (usize::from(header[1]) + 1) * 8,              // RFC 8200 §4.3
        };
        if bytes.len() - offset < len {
            break;
        }
        if protocol == FRAGMENT {
            let is_first = u16::from_be_bytes([header[2], header[3]]) & 0xfff8 == 0;
            fragment = if is_first { Fragment::First } else { Fragment::Later };
        }
        protocol = header[0];
        offset += len;
    }
    UpperLayer { protocol, offset, fragment }
}
