//! The encapsulations, behind one small interface: header bytes, checks, overhead, port.
//!
//! It owns every header size of the overlay; nothing outside asks anything but the [`Codec`]. It
//! never looks inside the inner packet ([`InnerPacket`](crate::InnerPacket) does) and never knows
//! which node a datagram came from.

pub mod esp;
mod gpe;
mod ip_udp;
mod kind;
mod vxlan;

use core::error::Error;
use core::fmt;

pub use kind::{CodecKind, CodecNameError};

use crate::{Family, Mac, Overhead, Vni};

/// How an inner packet is put into a UDP datagram between two nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Codec {
    /// VXLAN-GPE (draft-ietf-nvo3-vxlan-gpe): an eight-byte header, then a bare IP packet.
    #[default]
    VxlanGpe,
    /// VXLAN (RFC 7348): an eight-byte header, then an Ethernet frame between two tunnel ends.
    Vxlan {
        /// The Ethernet address of this end.
        own: Mac,
        /// That of the other.
        peer: Mac,
    },
    /// The bare IP packet, as flannel's `udp` backend and Linux's FOU send it.
    IpUdp,
}

impl Codec {
    /// The longest header, in bytes, that any codec writes between UDP and the inner packet.
    pub const MAX_HEADER_LEN: usize = vxlan::HEADER_LEN;

    /// Returns which codec it is, whoever the ends are.
    #[inline]
    #[must_use]
    pub const fn kind(self) -> CodecKind {
        match self {
            Self::VxlanGpe => CodecKind::VxlanGpe,
            Self::Vxlan { .. } => CodecKind::Vxlan,
            Self::IpUdp => CodecKind::IpUdp,
        }
    }

    /// As [`CodecKind::header_len`].
    #[inline]
    #[must_use]
    pub const fn header_len(self) -> usize {
        self.kind().header_len()
    }

    /// As [`CodecKind::overhead`].
    #[inline]
    #[must_use]
    pub const fn overhead(self, underlay: Family) -> Overhead {
        self.kind().overhead(underlay)
    }

    /// Returns the header to put in front of an inner packet of family `inner`.
    #[inline]
    #[must_use]
    pub fn header(self, vni: Vni, inner: Family) -> Header {
        match self {
            Self::VxlanGpe => Header::new(gpe::header(vni, inner)),
            Self::Vxlan { own, peer } => Header::new(vxlan::header(vni, own, peer, inner)),
            Self::IpUdp => Header::new([0; ip_udp::HEADER_LEN]),
        }
    }

    /// Returns the header to put in front of a question of one node to another, or its answer
    /// ([`oam`](crate::oam)); `None` where the codec has no way to tell such packets from those of
    /// pods.
    #[must_use]
    pub fn oam_header(self, vni: Vni, inner: Family) -> Option<Header> {
        match self {
            Self::VxlanGpe => Some(Header::new(gpe::oam_header(vni, inner))),
            Self::Vxlan { .. } | Self::IpUdp => None,
        }
    }

    /// Checks the header of a UDP payload that [`decode`](Self::decode) has refused for its flags:
    /// whether it is exactly an [`oam_header`](Self::oam_header). Returns what follows it.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Vni`] if it is one of another virtual network, else what was refused before.
    pub fn decode_oam(self, vni: Vni, datagram: &[u8]) -> Result<Decoded<'_>, DecodeError> {
        match self {
            Self::VxlanGpe => gpe::decode_oam(vni, datagram),
            Self::Vxlan { .. } | Self::IpUdp => Err(DecodeError::Flags),
        }
    }

    /// Checks the header of a UDP payload and returns what follows it.
    ///
    /// Every bit of the header must be exactly what the other end's [`header`](Self::header) writes
    /// for `vni` and one of the two families; only the address that it sends from is not looked at.
    /// The inner bytes are not looked at either, but for the version where nothing else tells it.
    ///
    /// # Errors
    ///
    /// The first check that failed, in the order of [`DecodeError`]'s variants.
    #[inline]
    pub fn decode(self, vni: Vni, datagram: &[u8]) -> Result<Decoded<'_>, DecodeError> {
        match self {
            Self::VxlanGpe => gpe::decode(vni, datagram),
            Self::Vxlan { own, .. } => vxlan::decode(vni, own, datagram),
            Self::IpUdp => ip_udp::decode(datagram),
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.kind(), f)
    }
}

/// The bytes a codec puts between the UDP header and the inner packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    bytes: [u8; Codec::MAX_HEADER_LEN],
    len: usize, // INVARIANT: <= Codec::MAX_HEADER_LEN
}

impl Header {
    /// Takes the `N` bytes of a header, of which there are at most [`Codec::MAX_HEADER_LEN`].
    #[inline]
    fn new<const N: usize>(header: [u8; N]) -> Self {
        const { assert!(N <= Codec::MAX_HEADER_LEN) };
        let mut bytes = [0; Codec::MAX_HEADER_LEN];
        bytes[..N].copy_from_slice(&header);
        Self { bytes, len: N }
    }

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
    /// The frame carries neither IPv4 nor IPv6.
    EtherType,
    /// The frame is not for this end of the tunnel.
    DestinationMac,
}

impl DecodeError {
    /// Every variant, in the order of the checks.
    pub const ALL: [Self; 8] = [
        Self::TooShort,
        Self::Version,
        Self::Flags,
        Self::Reserved,
        Self::NextProtocol,
        Self::Vni,
        Self::EtherType,
        Self::DestinationMac,
    ];

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
            Self::EtherType => "ethertype",
            Self::DestinationMac => "destination_mac",
        }
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Error for DecodeError {}
