//! The header of handshake datagrams: a well-formed IKEv2 header of a private exchange.
//!
//! It owns the four bytes of RFC 3948's non-ESP marker and the 28 of RFC 7296 §3.1, so that stock
//! decoders name what they see. What follows is the business of whoever has keys.

use core::error::Error;
use core::fmt;

/// What no ESP datagram begins with (RFC 3948 §2.2).
pub const MARKER: [u8; 4] = [0; 4];

/// Marker and IKEv2 header.
pub const HEADER_LEN: usize = MARKER.len() + 28;

/// What a node is called in a handshake: the first bytes of its public key's hash.
pub type KeyId = [u8; 8];

/// IKEv2, major version 2, minor version 0.
const VERSION: u8 = 0x20;
/// The first exchange type for private use (RFC 7296 §3.1).
const EXCHANGE: u8 = 240;
/// No payload of IKEv2's kinds follows.
const NO_NEXT_PAYLOAD: u8 = 0;
/// I: from whoever began.
const FLAG_INITIATOR: u8 = 0x08;
/// R: an answer.
const FLAG_RESPONSE: u8 = 0x20;

const NEXT_PAYLOAD_AT: usize = 20;
const VERSION_AT: usize = 21;
const EXCHANGE_AT: usize = 22;
const FLAGS_AT: usize = 23;

/// Which message of a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Message {
    /// The first: somebody wants a session.
    Init,
    /// The answer to it.
    Response,
    /// The answer to one that is older than one seen before.
    Stale,
}

impl Message {
    /// Every message.
    pub const ALL: [Self; 3] = [Self::Init, Self::Response, Self::Stale];

    const fn number(self) -> u32 {
        match self {
            Self::Init => 1,
            Self::Response => 2,
            Self::Stale => 3,
        }
    }

    const fn flags(self) -> u8 {
        match self {
            Self::Init => FLAG_INITIATOR,
            Self::Response | Self::Stale => FLAG_RESPONSE,
        }
    }
}

/// What all handshake datagrams begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Who began.
    pub initiator: KeyId,
    /// With whom.
    pub responder: KeyId,
    /// Which message.
    pub message: Message,
}

impl Header {
    /// Returns the header of a datagram of `datagram_len` bytes, marker included.
    #[must_use]
    pub fn encode(self, datagram_len: usize) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        let length = datagram_len.saturating_sub(MARKER.len());
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        bytes[4..12].copy_from_slice(&self.initiator);
        bytes[12..20].copy_from_slice(&self.responder);
        bytes[NEXT_PAYLOAD_AT] = NO_NEXT_PAYLOAD;
        bytes[VERSION_AT] = VERSION;
        bytes[EXCHANGE_AT] = EXCHANGE;
        bytes[FLAGS_AT] = self.message.flags();
        bytes[24..28].copy_from_slice(&self.message.number().to_be_bytes());
        bytes[28..].copy_from_slice(&length.to_be_bytes());
        bytes
    }

    /// Checks the header of `datagram` and returns it with what follows.
    ///
    /// # Errors
    ///
    /// The first check that failed, in the order of [`HandshakeError`]'s variants.
    pub fn decode(datagram: &[u8]) -> Result<(Self, &[u8]), HandshakeError> {
        let Some((bytes, body)) = datagram.split_first_chunk::<HEADER_LEN>() else {
            return Err(HandshakeError::TooShort);
        };
        let (marker, rest) = bytes.split_at(MARKER.len());
        if marker != MARKER {
            return Err(HandshakeError::Marker);
        }
        let Some((initiator, rest)) = rest.split_first_chunk() else {
            return Err(HandshakeError::TooShort);
        };
        let Some((responder, rest)) = rest.split_first_chunk() else {
            return Err(HandshakeError::TooShort);
        };
        let [next, version, exchange, flags, a, b, c, d, e, f, g, h] = *rest else {
            return Err(HandshakeError::TooShort);
        };
        if version != VERSION {
            return Err(HandshakeError::Version);
        }
        if exchange != EXCHANGE {
            return Err(HandshakeError::Exchange);
        }
        let number = u32::from_be_bytes([a, b, c, d]);
        let Some(message) = Message::ALL.into_iter().find(|message| message.number() == number)
        else {
            return Err(HandshakeError::Message);
        };
        if flags != message.flags() {
            return Err(HandshakeError::Flags);
        }
        if next != NO_NEXT_PAYLOAD {
            return Err(HandshakeError::NextPayload);
        }
        let length = u32::from_be_bytes([e, f, g, h]);
        if u32::try_from(datagram.len() - MARKER.len()) != Ok(length) {
            return Err(HandshakeError::Length);
        }
        Ok((Self { initiator: *initiator, responder: *responder, message }, body))
    }
}

/// Why a datagram is no handshake of ours: one variant per check, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HandshakeError {
    /// Shorter than the header.
    TooShort,
    /// The non-ESP marker is missing.
    Marker,
    /// Another version of IKE.
    Version,
    /// Another exchange than ours.
    Exchange,
    /// No message of ours.
    Message,
    /// The flags are not that message's.
    Flags,
    /// A payload of IKEv2 follows.
    NextPayload,
    /// The length is not the datagram's.
    Length,
}

impl HandshakeError {
    /// Every variant, in the order of the checks.
    pub const ALL: [Self; 8] = [
        Self::TooShort,
        Self::Marker,
        Self::Version,
        Self::Exchange,
        Self::Message,
        Self::Flags,
        Self::NextPayload,
        Self::Length,
    ];
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::TooShort => "shorter than the header",
            Self::Marker => "no non-ESP marker",
            Self::Version => "not IKEv2's version",
            Self::Exchange => "not the exchange of Culvert",
            Self::Message => "not a message of Culvert",
            Self::Flags => "the flags are not the message's",
            Self::NextPayload => "a payload of IKEv2 follows",
            Self::Length => "the length is not the datagram's",
        })
    }
}

impl Error for HandshakeError {}
