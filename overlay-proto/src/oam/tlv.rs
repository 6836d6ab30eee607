//! What Culvert adds to STAMP: TLVs (RFC 8972 §4) of the types for private use.

/// Type, flags and length of a TLV.
pub(super) const HEADER_LEN: usize = 4;

/// Bytes that only make a question longer (RFC 8972 §4.1).
pub(super) const PADDING: u8 = 1;
/// [`Route`], of a type for private use (RFC 8972 §5.1).
pub(super) const ROUTE: u8 = 252;
/// [`Digest`].
pub(super) const DIGEST: u8 = 253;
/// A question about a packet, or the answer to it.
pub(super) const TRACE: u8 = 254;

/// U: the sender sets it, and who knows the type clears it in the answer (RFC 8972 §4).
pub(super) const UNRECOGNIZED: u8 = 0x80;

/// The longest text that a trace carries, so that no answer is longer than the smallest MTU.
pub const MAX_TRACE_LEN: usize = 200;

/// By which paths a question and its answer go, and what only who has seen the question knows.
///
/// ```text
/// +------+-------------+--------------+------------------+
/// | path | answer path | reserved (2) | nonce (8)        |
/// +------+-------------+--------------+------------------+
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// By which of its source ports the question left, counted from 0.
    pub path: u8,
    /// By which of its own the answer is to leave.
    pub answer_path: u8,
    /// A number that nobody can guess.
    pub nonce: u64,
}

impl Route {
    pub(super) const LEN: usize = 12;

    pub(super) fn encode(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        [bytes[0], bytes[1]] = [self.path, self.answer_path];
        bytes[4..].copy_from_slice(&self.nonce.to_be_bytes());
        bytes
    }

    pub(super) fn decode(value: &[u8]) -> Option<Self> {
        let [path, answer_path, _, _, nonce @ ..] = <[u8; Self::LEN]>::try_from(value).ok()?;
        Some(Self { path, answer_path, nonce: u64::from_be_bytes(nonce) })
    }
}

/// How the node that sends it is, in a few bytes.
///
/// ```text
/// +----------------+-------------+-------+----------------+------------+
/// | table hash (4) | version (3) | flags | peers lost (2) | MTU (2)    |
/// +----------------+-------------+-------+----------------+------------+
/// | drops a second (4)           | reserved (4)                        |
/// +------------------------------+-------------------------------------+
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest {
    /// What the node's table has in common with others of the same entries.
    pub table: u32,
    /// The version of Culvert: major, minor, patch.
    pub version: [u8; 3],
    /// Whether its packets flow.
    pub is_ready: bool,
    /// Peers that do not answer it.
    pub peers_lost: u16,
    /// MTU of its overlay.
    pub mtu: u16,
    /// Packets that it has dropped in the last second.
    pub drops: u32,
}

impl Digest {
    pub(super) const LEN: usize = 20;

    pub(super) fn encode(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..4].copy_from_slice(&self.table.to_be_bytes());
        bytes[4..7].copy_from_slice(&self.version);
        bytes[7] = u8::from(self.is_ready);
        bytes[8..10].copy_from_slice(&self.peers_lost.to_be_bytes());
        bytes[10..12].copy_from_slice(&self.mtu.to_be_bytes());
        bytes[12..16].copy_from_slice(&self.drops.to_be_bytes());
        bytes
    }

    pub(super) fn decode(value: &[u8]) -> Option<Self> {
        let [t0, t1, t2, t3, v0, v1, v2, flags, l0, l1, m0, m1, d0, d1, d2, d3, ..] =
            <[u8; Self::LEN]>::try_from(value).ok()?;
        Some(Self {
            table: u32::from_be_bytes([t0, t1, t2, t3]),
            version: [v0, v1, v2],
            is_ready: flags & 1 != 0,
            peers_lost: u16::from_be_bytes([l0, l1]),
            mtu: u16::from_be_bytes([m0, m1]),
            drops: u32::from_be_bytes([d0, d1, d2, d3]),
        })
    }
}

/// Writes TLVs one after the other.
pub(super) struct Writer<'o> {
    pub(super) room: &'o mut [u8],
    pub(super) flags: u8,
}

impl Writer<'_> {
    pub(super) fn push(&mut self, kind: u8, value: &[u8]) -> Option<()> {
        let room = core::mem::take(&mut self.room);
        let (tlv, rest) = room.split_at_mut_checked(HEADER_LEN + value.len())?;
        let (header, place) = tlv.split_first_chunk_mut::<HEADER_LEN>()?;
        let [high, low] = u16::try_from(value.len()).ok()?.to_be_bytes();
        *header = [self.flags, kind, high, low];
        place.copy_from_slice(value);
        self.room = rest;
        Some(())
    }

    /// Fills what is left with a TLV that says nothing.
    pub(super) fn pad(self) -> Option<()> {
        let Self { room, flags } = self;
        if room.is_empty() {
            return Some(());
        }
        let (header, rest) = room.split_first_chunk_mut::<HEADER_LEN>()?;
        let [high, low] = u16::try_from(rest.len()).ok()?.to_be_bytes();
        *header = [flags, PADDING, high, low];
        rest.fill(0);
        Some(())
    }
}

/// Takes the first TLV of `bytes`: its type, its value, and the rest. `None` if it is cut short.
pub(super) fn take(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let ([_flags, kind, high, low], rest) = bytes.split_first_chunk::<HEADER_LEN>()?;
    let (value, rest) = rest.split_at_checked(u16::from_be_bytes([*high, *low]).into())?;
    Some((*kind, value, rest))
}
