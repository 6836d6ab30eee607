//! Datagrams toward one peer on their way into one sending call.
//!
//! A train takes datagrams that agree in peer, flow bucket, mark and length (the last may be
//! shorter); the kernel sends it whole. The datagrams are put together here, end to end: that copy
//! stays within the cache, and the kernel copies one piece faster than the hundred that headers and
//! payloads would be. Where packets are sealed, sealing is the copy.

use std::net::SocketAddr;

use arrayvec::ArrayVec;
use overlay_proto::{Ecn, Mtu};

use super::underlay;
use crate::engine::PeerIndex;
use crate::platform::udp::{MAX_SEND_LEN, MAX_SEND_SEGMENTS};

/// Longest super-packet that a pod should send, so that it leaves in one call, where the devices
/// have this MTU and no codec in use has a longer header than `header_len` bytes.
///
/// A call carries [`MAX_SEND_LEN`] bytes, so many full datagrams and no more; the super-packet's
/// last few segments would cost a call of their own. The kernel keeps a TCP super-packet's payload
/// some 320 bytes below this limit (`sk_dst_gso_max_size`) and sends whole segments of the MTU less
/// 40 to 72 bytes (IPv6, and TCP with timestamps), so that one segment more than fits is never
/// reached.
pub fn super_packet_limit(mtu: Mtu, header_len: usize) -> u32 {
    const LONGEST_HEADERS: usize = 40 + 32;
    /// `GSO_LEGACY_MAX_SIZE`, the kernel's limit unless told otherwise.
    const KERNEL_LIMIT: usize = 1 << 16;
    let mtu = usize::from(mtu.get());
    let segments = (MAX_SEND_LEN / (mtu + header_len)).min(MAX_SEND_SEGMENTS);
    let limit = ((segments + 1) * (mtu - LONGEST_HEADERS)).min(KERNEL_LIMIT);
    u32::try_from(limit).unwrap_or(u32::MAX)
}

/// What all datagrams of a train have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct Key {
    pub(super) peer: PeerIndex,
    pub(super) endpoint: SocketAddr,
    pub(super) ecn: Ecn,
    pub(super) flow_hash: u32,
    /// Whether the datagrams are sealed, and so go to another port.
    pub(super) sealed: bool,
}

impl Key {
    /// Whether datagrams with these keys leave by one port toward one peer, as those of one flow
    /// do: then the first of them must not be sent after the second.
    fn shares_lane(&self, other: &Self) -> bool {
        self.peer == other.peer
            && underlay::bucket(self.flow_hash) == underlay::bucket(other.flow_hash)
    }
}

pub(super) struct Train {
    key: Option<Key>,
    bytes: Box<[u8]>,
    len: usize,
    count: usize,
    /// Length of each datagram but the last.
    segment_len: usize,
    /// A shorter datagram has ended the train.
    closed: bool,
    /// Length of the packet within each datagram, if they are sealed: padding hides it.
    inner_lens: ArrayVec<u16, MAX_SEND_SEGMENTS>,
}

impl Train {
    pub(super) fn new() -> Self {
        Self {
            key: None,
            bytes: vec![0; MAX_SEND_LEN].into(),
            len: 0,
            count: 0,
            segment_len: 0,
            closed: false,
            inner_lens: ArrayVec::new(),
        }
    }

    /// Whether a datagram of `len` bytes fits. An empty train takes any that is no longer than a
    /// sending call; others want the peer and source port of those before (see
    /// [`is_ahead_of`](Self::is_ahead_of)).
    #[inline]
    pub(super) fn fits(&self, key: &Key, len: usize, max_segments: usize) -> bool {
        match &self.key {
            Some(own) => {
                debug_assert!(own.shares_lane(key), "the outbox looks for the train first");
                own.ecn == key.ecn
                    && own.sealed == key.sealed
                    && !self.is_full(max_segments)
                    && self.len + len <= MAX_SEND_LEN
                    && len <= self.segment_len
            }
            None => len <= MAX_SEND_LEN,
        }
    }

    /// Where the next datagram is to be written, of `len` bytes, which fit.
    #[inline]
    pub(super) fn room(&mut self, len: usize) -> &mut [u8] {
        &mut self.bytes[self.len..self.len + len]
    }

    /// Takes what was written there. `inner_len` is the length of the packet within, where the
    /// datagram does not tell.
    #[inline]
    pub(super) fn add(&mut self, key: &Key, len: usize, inner_len: Option<u16>) {
        if self.key.is_none() {
            self.key = Some(*key);
            self.segment_len = len;
        }
        self.closed = len < self.segment_len;
        self.len += len;
        if let Some(inner_len) = inner_len {
            self.inner_lens.push(inner_len);
        }
        self.count += 1;
    }

    /// Whether it has datagrams that one with this key must not overtake.
    pub(super) fn is_ahead_of(&self, key: &Key) -> bool {
        self.key.as_ref().is_some_and(|own| own.shares_lane(key))
    }

    /// Whether it has no datagrams.
    pub(super) fn is_empty(&self) -> bool {
        self.key.is_none()
    }

    /// Bytes that it has.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Whether no datagram like the ones it has would fit.
    pub(super) fn is_full(&self, max_segments: usize) -> bool {
        self.closed || self.count >= max_segments || self.len + self.segment_len > MAX_SEND_LEN
    }

    /// What it carries, unless it is empty.
    pub(super) fn contents(&self) -> Option<(&Key, Contents<'_>)> {
        let contents = Contents {
            bytes: &self.bytes[..self.len],
            segment_len: self.segment_len,
            inner_lens: &self.inner_lens,
        };
        self.key.as_ref().map(|key| (key, contents))
    }

    pub(super) fn clear(&mut self) {
        self.key = None;
        self.len = 0;
        self.count = 0;
        self.closed = false;
        self.inner_lens.clear();
    }
}

/// Datagrams of one train.
#[derive(Clone, Copy)]
pub(super) struct Contents<'t> {
    /// The datagrams end to end.
    pub(super) bytes: &'t [u8],
    /// Length of each but the last.
    pub(super) segment_len: usize,
    /// Length of the packet within each, of those that are sealed.
    inner_lens: &'t [u16],
}

impl<'t> Contents<'t> {
    pub(super) fn count(&self) -> usize {
        self.bytes.len().div_ceil(self.segment_len)
    }

    /// Bytes of the packets within, where each that is not sealed has a header of `header_len`.
    pub(super) fn inner_octets(&self, header_len: usize) -> u64 {
        if self.inner_lens.is_empty() {
            (self.bytes.len() - self.count() * header_len) as u64
        } else {
            self.inner_lens.iter().copied().map(u64::from).sum()
        }
    }

    /// Each datagram by itself.
    pub(super) fn datagrams(&self) -> impl Iterator<Item = Self> + use<'t> {
        let Self { bytes, segment_len, inner_lens } = *self;
        bytes.chunks(segment_len).enumerate().map(move |(index, bytes)| Self {
            bytes,
            segment_len,
            inner_lens: inner_lens.get(index..=index).unwrap_or_default(),
        })
    }
}
