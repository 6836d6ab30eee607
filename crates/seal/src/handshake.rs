//! Handshake datagrams: what is around the two messages of Noise, and what is within.
//!
//! ```text
//! INIT    header (32) | first message of Noise          | pair MAC (16)
//! RESP    header (32) | second message of Noise         | pair MAC (16)
//! STALE   header (32) | newest stamp (8) | refused (8)  | pair MAC (16)
//! ```

mod offer;
mod pair;

pub(crate) use offer::{Answer, Offer};
pub use pair::{MAC_LEN, Pair, Pairs};

use overlay_proto::Vni;
use overlay_proto::esp::handshake::{HEADER_LEN, Header, Message};

use crate::noise::{PAYLOAD_LEN, PostQuantum};

/// Length of what a STALE says.
const STALE_LEN: usize = 16;

/// Length of the longest handshake datagram.
pub const MAX_LEN: usize = HEADER_LEN + PostQuantum::Require.first_len() + MAC_LEN;

const _: () = assert!(MAX_LEN == 1312 && PAYLOAD_LEN == 16);

/// What both ends hash first, so that a handshake is of one network and between two keys.
pub(crate) fn prologue(vni: Vni, header: &Header) -> Vec<u8> {
    let vni = vni.get().to_be_bytes();
    [b"culvert sealed 1", &vni[..], &header.initiator, &header.responder].concat()
}

/// A datagram in the making.
pub(crate) struct Draft {
    header: Header,
    pub(crate) bytes: Vec<u8>,
}

impl Draft {
    pub(crate) fn new(header: Header) -> Self {
        let mut bytes = Vec::with_capacity(MAX_LEN);
        bytes.resize(HEADER_LEN, 0);
        Self { header, bytes }
    }

    pub(crate) fn finish(self, pair: &Pair) -> Vec<u8> {
        let Self { header, mut bytes } = self;
        let len = bytes.len() + MAC_LEN;
        bytes[..HEADER_LEN].copy_from_slice(&header.encode(len));
        let mac = pair.mac(&bytes);
        bytes.extend_from_slice(&mac);
        bytes
    }
}

/// The answer to an INIT that is older than another: whoever sent it has a clock that is behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stale {
    /// The newest stamp that was seen.
    pub(crate) newest: u64,
    /// The one that was refused. Says which INIT is meant.
    pub(crate) refused: u64,
}

impl Stale {
    pub(crate) fn write(self, draft: &mut Draft) {
        draft.bytes.extend_from_slice(&self.newest.to_be_bytes());
        draft.bytes.extend_from_slice(&self.refused.to_be_bytes());
    }

    pub(crate) fn read(body: &[u8]) -> Option<Self> {
        let (newest, refused) = body.split_first_chunk::<8>()?;
        let refused: [u8; 8] = refused.try_into().ok()?;
        Some(Self { newest: u64::from_be_bytes(*newest), refused: u64::from_be_bytes(refused) })
    }
}

/// Whether a datagram of a message may have this length, header and MAC included.
pub(crate) fn is_length_of(message: Message, post_quantum: PostQuantum, len: usize) -> bool {
    let body = match message {
        Message::Init => post_quantum.first_len(),
        Message::Response => post_quantum.second_len(),
        Message::Stale => STALE_LEN,
    };
    len == HEADER_LEN + body + MAC_LEN
}
