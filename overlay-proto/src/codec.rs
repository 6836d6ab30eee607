//! The encapsulations, behind one small interface: header bytes, checks, overhead, port.
//!
//! It owns every header size of the overlay; nothing outside asks anything but the [`Codec`]. It
//! never looks inside the inner packet ([`InnerPacket`](crate::InnerPacket) does) and never knows
//! which node a datagram came from.

mod gpe;

use core::error::Error;
use core::fmt;
use core::str::FromStr;

use crate::{Family, Overhead, Vni};

/// Length of a UDP header (RFC 768).
const UDP_HEADER_LEN: usize = 8;

/// How an inner packet is put into a UDP datagram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Codec {
    /// VXLAN-GPE (draft-ietf-nvo3-vxlan-gpe): an eight-byte header, then a bare IP packet.
    #[default]
    VxlanGpe,
}

impl Codec {
    /// The longest header, in bytes, that any codec writes between UDP and the inner packet.
    pub const MAX_HEADER_LEN: usize = gpe::HEADER_LEN;

    /// Returns the number of bytes between the UDP header and the inner packet.
    #[inline]
    #[must_use]
    pub const fn header_len(self) -> usize {
        match self {
            Self::VxlanGpe => gpe::HEADER_LEN,
        }
    }

    /// Returns what this codec adds to an inner packet on an underlay of `underlay`.
    ///
    /// Outer IP header without options, UDP header and the codec's own: 36 or 56 bytes for
    /// VXLAN-GPE.
    #[expect(clippy::cast_possible_truncation, reason = "a sum of three short headers")]
    #[inline]
    #[must_use]
    pub const fn overhead(self, underlay: Family) -> Overhead {
        let bytes = underlay.header_len() + UDP_HEADER_LEN + self.header_len();
        Overhead::from_bytes(bytes as u16)
    }

    /// Returns the UDP destination port registered for this codec.
    #[inline]
    #[must_use]
    pub const fn default_port(self) -> u16 {
        match self {
            Self::VxlanGpe => gpe::PORT,
        }
    }

    /// Returns the header to put in front of an inner packet of family `inner`.
    #[inline]
    #[must_use]
    pub const fn header(self, vni: Vni, inner: Family) -> Header {
        match self {
            Self::VxlanGpe => Header { bytes: gpe::header(vni, inner), len: gpe::HEADER_LEN },
        }
    }

    /// Checks the header of a UDP payload and returns what follows it.
    ///
    /// Every bit of the header must be exactly what [`header`](Self::header) writes for `vni` and
    /// one of the two families. The inner bytes are not looked at.
    ///
    /// # Errors
    ///
    /// The first check that failed, in the order of [`DecodeError`]'s variants.
    #[inline]
    pub fn decode(self, vni: Vni, datagram: &[u8]) -> Result<Decoded<'_>, DecodeError> {
        match self {
            Self::VxlanGpe => gpe::decode(vni, datagram),
        }
    }

    /// Returns the name used in configuration and labels.
    #[inline]
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::VxlanGpe => "vxlan-gpe",
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Codec {
    type Err = CodecNameError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "vxlan-gpe" => Ok(Self::VxlanGpe),
            _ => Err(CodecNameError),
        }
    }
}

/// The name is not that of a [`Codec`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodecNameError;

impl fmt::Display for CodecNameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("unknown codec; the one known is vxlan-gpe")
    }
}

impl Error for CodecNameError {}

/// The bytes a codec puts between the UDP header and the inner packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    bytes: [u8; Codec::MAX_HEADER_LEN],
    len: usize, // INVARIANT: <= Codec::MAX_HEADER_LEN
}

impl Header {
    /// Returns the header as it stands on the wire.
    #[inline]
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&self.bytes)
    }
}

impl AsRef<[u8]> for Header {
    #[inline]
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

/// A UDP payload whose overlay header passed every check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded<'a> {
    /// The family that the header announced; the inner packet must turn out to be of it.
    pub family: Family,
    /// What follows the header, not yet parsed.
    pub inner: &'a [u8],
}

/// Why a UDP payload was refused: one variant per check, in the order of the checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DecodeError {
    /// Shorter than the header.
    TooShort,
    /// The version is not the one spoken here.
    Version,
    /// A flag that must be set is clear, or one that must be clear is set.
    Flags,
    /// A reserved bit is set.
    Reserved,
    /// The next protocol is neither IPv4 nor IPv6.
    NextProtocol,
    /// The packet belongs to another virtual network.
    Vni,
}

impl DecodeError {
    /// Every variant, in the order of the checks.
    pub const ALL: [Self; 6] =
        [Self::TooShort, Self::Version, Self::Flags, Self::Reserved, Self::NextProtocol, Self::Vni];

    /// Returns the name used as a metric label.
    #[inline]
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TooShort => "too_short",
            Self::Version => "version",
            Self::Flags => "flags",
            Self::Reserved => "reserved",
            Self::NextProtocol => "next_protocol",
            Self::Vni => "vni",
        }
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Error for DecodeError {}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::string::ToString;

    #[test]
    fn overhead_is_36_and_56() {
        assert_eq!(Codec::VxlanGpe.overhead(Family::V4).get(), 36);
        assert_eq!(Codec::VxlanGpe.overhead(Family::V6).get(), 56);
    }

    #[test]
    fn name_round_trips() {
        let codec = Codec::default();
        assert_eq!(codec.to_string().parse(), Ok(codec));
        assert_eq!("VXLAN-GPE".parse::<Codec>(), Err(CodecNameError));
    }
}
