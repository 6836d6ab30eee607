//! Explicit congestion notification across a tunnel (RFC 6040).
//!
//! It owns the two rules, what the outer header gets and what the inner header gets back, and the
//! rewrite of the field. It never reads an outer header; the socket layer hands its bits over.

use core::error::Error;
use core::fmt;

use crate::{Family, checksum};

/// The two ECN bits of an IP header (RFC 3168 §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Ecn {
    /// The transport does not understand ECN; congestion must drop the packet.
    NotEct = 0b00,
    /// ECN-capable, code point 1.
    Ect1 = 0b01,
    /// ECN-capable, code point 0.
    Ect0 = 0b10,
    /// Congestion experienced.
    Ce = 0b11,
}

impl Ecn {
    /// Takes the two low bits of `bits`, so a whole traffic class or TOS byte will do.
    #[inline]
    #[must_use]
    pub const fn from_bits(bits: u8) -> Self {
        match bits & 0b11 {
            0b00 => Self::NotEct,
            0b01 => Self::Ect1,
            0b10 => Self::Ect0,
            _ => Self::Ce, // 0b11, the only one left
        }
    }

    /// Returns the two bits, in the low end of the byte.
    #[inline]
    #[must_use]
    pub const fn bits(self) -> u8 {
        self as u8
    }
}

/// Congestion was marked on the underlay and the inner transport cannot be told but by a drop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CongestionDrop;

impl fmt::Display for CongestionDrop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("congestion_drop")
    }
}

impl Error for CongestionDrop {}

/// Returns the outer field for an inner one: a copy (RFC 6040 §4.1, normal mode).
#[inline]
#[must_use]
pub const fn encapsulate(inner: Ecn) -> Ecn {
    inner
}

/// Returns the field that the inner packet shall get on leaving the tunnel (RFC 6040 §4.2).
///
/// # Errors
///
/// [`CongestionDrop`] if the outer header says congestion and the inner one is not ECN-capable.
#[inline]
pub const fn decapsulate(inner: Ecn, outer: Ecn) -> Result<Ecn, CongestionDrop> {
    match (inner, outer) {
        (Ecn::NotEct, Ecn::Ce) => Err(CongestionDrop),
        (Ecn::NotEct, Ecn::NotEct | Ecn::Ect0 | Ecn::Ect1) => Ok(Ecn::NotEct),
        (Ecn::Ce, _) | (_, Ecn::Ce) => Ok(Ecn::Ce),
        (Ecn::Ect1, Ecn::NotEct | Ecn::Ect0 | Ecn::Ect1) | (Ecn::Ect0, Ecn::Ect1) => Ok(Ecn::Ect1),
        (Ecn::Ect0, Ecn::NotEct | Ecn::Ect0) => Ok(Ecn::Ect0),
    }
}

/// Writes the field into the packet at the start of `packet` and keeps an IPv4 header checksum
/// right (RFC 1624), or as wrong as it was.
///
/// `packet` is what an [`InnerPacket`](crate::InnerPacket) of `family` was parsed from. A slice too
/// short for the fixed header of `family` is left as it is.
#[inline]
pub fn set_ecn(packet: &mut [u8], family: Family, ecn: Ecn) {
    match family {
        Family::V4 => {
            let Some(header) = packet.first_chunk_mut::<{ Family::V4.header_len() }>() else {
                return;
            };
            let old = u16::from_be_bytes([header[0], header[1]]);
            header[1] = (header[1] & !0b11) | ecn.bits();
            let new = u16::from_be_bytes([header[0], header[1]]);
            if new != old {
                let sum = u16::from_be_bytes([header[10], header[11]]);
                [header[10], header[11]] = checksum::update_u16(sum, old, new).to_be_bytes();
            }
        }
        Family::V6 => {
            let Some(header) = packet.first_chunk_mut::<{ Family::V6.header_len() }>() else {
                return;
            };
            // RFC 8200 §3: the traffic class straddles the first two bytes.
            header[1] = (header[1] & !0b0011_0000) | (ecn.bits() << 4);
        }
    }
}
