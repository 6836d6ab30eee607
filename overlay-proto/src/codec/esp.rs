//! ESP in UDP: the datagrams of sealed mode, as bytes.
//!
//! It owns the layout of RFC 4303 inside RFC 3948, what Culvert makes of it (`docs/wire-format.md`,
//! "ESP"), and the arithmetic of its padding. It has no keys: whoever has them seals and opens what
//! is between header and tag.
//!
//! ```text
//! 0  SPI = slot (20 bits) << 12 | lane (12 bits)     4  sequence
//! 8  IV = lane (16 bits) | 0 (16 bits) | sequence
//! 16 sealed: inner packet | pad 1, 2, 3 | pad length | next header
//!    tag (16 bytes)
//! ```

pub mod handshake;
mod spi;

use core::error::Error;
use core::fmt;

pub use spi::{Lane, Slot, Spi};

use crate::{Family, Mtu};

/// The UDP port of ESP in UDP (RFC 3948), by which decoders know it.
pub const PORT: u16 = 4500;

/// SPI, sequence and IV.
pub const HEADER_LEN: usize = 16;

/// What authenticates a datagram: all 16 bytes of GCM's and Poly1305's tag.
pub const TAG_LEN: usize = 16;

/// The longest trailer: three bytes of padding, their number, and what the packet is.
pub const MAX_TRAILER_LEN: usize = 5;

/// How many bytes at the begin of a datagram are authenticated but not sealed: SPI and sequence.
pub const AAD_LEN: usize = 8;

/// The shortest datagram: a dummy, which is nothing but padding.
pub const MIN_LEN: usize = HEADER_LEN + ALIGNMENT + TAG_LEN;

/// Length of a UDP header (RFC 768).
const UDP_HEADER_LEN: usize = 8;

/// What is sealed ends on a multiple of this (RFC 4303 §2.4).
const ALIGNMENT: usize = 4;

/// Pad length and next header.
const TRAILER_MIN_LEN: usize = 2;

/// What a trailer of each length is before its last byte: the padding of RFC 4303 §2.4 and its
/// length.
const PADDING: [&[u8]; ALIGNMENT] = [&[0], &[1, 1], &[1, 2, 2], &[1, 2, 3, 3]];

/// What a datagram carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Payload {
    /// An IP packet of this family.
    Packet(Family),
    /// Nothing: the datagram only says that its sender lives (RFC 4303 §2.6).
    Dummy,
}

impl Payload {
    /// The next header field's value (IANA protocol numbers).
    const fn number(self) -> u8 {
        match self {
            Self::Packet(Family::V4) => 4,
            Self::Packet(Family::V6) => 41,
            Self::Dummy => 59,
        }
    }

    const fn from_number(number: u8) -> Option<Self> {
        match number {
            4 => Some(Self::Packet(Family::V4)),
            41 => Some(Self::Packet(Family::V6)),
            59 => Some(Self::Dummy),
            _ => None,
        }
    }
}

/// What stands in front of the sealed bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Whose session it is, and which of its lanes.
    pub spi: Spi,
    /// The place within the lane, from 1.
    pub sequence: u32,
}

impl Header {
    /// Returns the header as it stands on the wire.
    #[inline]
    #[must_use]
    pub fn encode(self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[..4].copy_from_slice(&self.spi.get().to_be_bytes());
        bytes[4..8].copy_from_slice(&self.sequence.to_be_bytes());
        bytes[8..].copy_from_slice(&self.iv());
        bytes
    }

    /// Returns the IV: the part of the nonce that differs from datagram to datagram.
    ///
    /// It has the lane, so that one key serves all lanes of a direction.
    #[inline]
    #[must_use]
    pub fn iv(self) -> [u8; 8] {
        let lane = u64::from(self.spi.lane().get()) << 48;
        (lane | u64::from(self.sequence)).to_be_bytes()
    }
}

/// A datagram whose header passed every check; nothing in it is authenticated yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// Its header.
    pub header: Header,
    /// How many sealed bytes lie between header and tag.
    pub sealed_len: usize,
}

/// Checks what can be checked of a datagram without a key.
///
/// # Errors
///
/// The first check that failed, in the order of [`EspError`]'s variants.
#[inline]
pub fn decode(datagram: &[u8]) -> Result<Decoded, EspError> {
    let Some((header, rest)) = datagram.split_first_chunk::<HEADER_LEN>() else {
        return Err(EspError::TooShort);
    };
    let sealed_len = match rest.len().checked_sub(TAG_LEN) {
        Some(len) if len >= ALIGNMENT => len,
        Some(_) | None => return Err(EspError::TooShort),
    };
    if !sealed_len.is_multiple_of(ALIGNMENT) {
        return Err(EspError::Unaligned);
    }
    let [a, b, c, d, e, f, g, h, iv @ ..] = *header;
    let Some(spi) = Spi::from_bits(u32::from_be_bytes([a, b, c, d])) else {
        return Err(EspError::Slot);
    };
    let header = Header { spi, sequence: u32::from_be_bytes([e, f, g, h]) };
    if header.sequence == 0 {
        return Err(EspError::Sequence);
    }
    if header.iv() != iv {
        return Err(EspError::Iv);
    }
    Ok(Decoded { header, sealed_len })
}

/// Returns the padding that an inner packet of `inner_len` bytes gets: 0 to 3 bytes.
const fn pad_len(inner_len: usize) -> usize {
    (ALIGNMENT - (inner_len + TRAILER_MIN_LEN) % ALIGNMENT) % ALIGNMENT
}

/// Returns how long the trailer of an inner packet of `inner_len` bytes is.
#[inline]
#[must_use]
pub const fn trailer_len(inner_len: usize) -> usize {
    pad_len(inner_len) + TRAILER_MIN_LEN
}

/// Returns how long the datagram of an inner packet of `inner_len` bytes is, UDP header excluded.
#[inline]
#[must_use]
pub const fn datagram_len(inner_len: usize) -> usize {
    HEADER_LEN + inner_len + trailer_len(inner_len) + TAG_LEN
}

/// What follows an inner packet and is sealed with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trailer {
    bytes: [u8; MAX_TRAILER_LEN],
    len: usize, // INVARIANT: <= MAX_TRAILER_LEN
}

impl Trailer {
    /// The trailer of `inner_len` bytes of `payload`; a dummy has none.
    #[inline]
    #[must_use]
    pub fn new(payload: Payload, inner_len: usize) -> Self {
        let padding = PADDING[pad_len(inner_len)];
        let mut bytes = [0; MAX_TRAILER_LEN];
        bytes[..padding.len()].copy_from_slice(padding);
        bytes[padding.len()] = payload.number();
        Self { bytes, len: padding.len() + 1 }
    }

    /// Returns the trailer as it is sealed.
    #[inline]
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&self.bytes)
    }
}

/// Takes the trailer off what was sealed: what is carried, and how many bytes of it.
///
/// # Errors
///
/// The trailer is not the one that [`Trailer::new`] makes.
#[inline]
pub fn open_trailer(opened: &[u8]) -> Result<(Payload, usize), TrailerError> {
    let Some((rest, [pad_len, next])) = opened.split_last_chunk::<TRAILER_MIN_LEN>() else {
        return Err(TrailerError::Padding);
    };
    let Some(payload) = Payload::from_number(*next) else {
        return Err(TrailerError::NextHeader);
    };
    let padding = PADDING.get(usize::from(*pad_len)).and_then(|padding| padding.split_last());
    let Some(inner) = padding.and_then(|(_, padding)| rest.strip_suffix(padding)) else {
        return Err(TrailerError::Padding);
    };
    match payload {
        Payload::Dummy if !inner.is_empty() => Err(TrailerError::DummyWithData),
        Payload::Dummy | Payload::Packet(_) => Ok((payload, inner.len())),
    }
}

/// Returns the longest inner packet whose datagram an underlay of `underlay` carries whole.
///
/// The outer IP header has no options: 1438 on 1500 bytes of IPv4, 1418 of IPv6. `None` if less
/// than [`Mtu::MIN`] is left.
#[must_use]
pub fn mtu(underlay: Mtu, family: Family) -> Option<Mtu> {
    let outer = family.header_len() + UDP_HEADER_LEN;
    let sealed = usize::from(underlay.get()).checked_sub(outer + HEADER_LEN + TAG_LEN)?;
    let inner = (sealed - sealed % ALIGNMENT).checked_sub(TRAILER_MIN_LEN)?;
    Mtu::new(u32::try_from(inner).ok()?).ok()
}

/// Why a datagram was refused before anything was opened: one variant per check, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EspError {
    /// Shorter than header, four sealed bytes and tag.
    TooShort,
    /// The sealed bytes do not end on a multiple of four.
    Unaligned,
    /// The slot is 0, which nobody has.
    Slot,
    /// The sequence is 0, which nobody sends.
    Sequence,
    /// The IV is not that of lane and sequence.
    Iv,
}

impl EspError {
    /// Every variant, in the order of the checks.
    pub const ALL: [Self; 5] =
        [Self::TooShort, Self::Unaligned, Self::Slot, Self::Sequence, Self::Iv];
}

impl fmt::Display for EspError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::TooShort => "shorter than any ESP datagram",
            Self::Unaligned => "the sealed bytes do not end on a multiple of four",
            Self::Slot => "slot 0, which nobody has",
            Self::Sequence => "sequence 0, which nobody sends",
            Self::Iv => "the IV is not that of lane and sequence",
        })
    }
}

impl Error for EspError {}

/// Why the end of what was opened was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TrailerError {
    /// The next header is neither IPv4, IPv6 nor "none".
    NextHeader,
    /// The padding is longer than needed, or not 1, 2, 3.
    Padding,
    /// A dummy that carries something.
    DummyWithData,
}

impl TrailerError {
    /// Every variant.
    pub const ALL: [Self; 3] = [Self::NextHeader, Self::Padding, Self::DummyWithData];
}

impl fmt::Display for TrailerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::NextHeader => "neither IPv4, IPv6 nor a dummy",
            Self::Padding => "the padding is not 1, 2, 3 up to a multiple of four",
            Self::DummyWithData => "a dummy with data",
        })
    }
}

impl Error for TrailerError {}

/// What a datagram on the port of sealed mode is, by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It begins with the non-ESP marker: a handshake.
    Handshake,
    /// Anything else.
    Esp,
}

impl Kind {
    /// Tells by the marker (RFC 3948 §2.2).
    #[inline]
    #[must_use]
    pub fn of(datagram: &[u8]) -> Self {
        if datagram.starts_with(&handshake::MARKER) { Self::Handshake } else { Self::Esp }
    }
}
