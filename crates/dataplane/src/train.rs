//! Datagrams toward one peer on their way into one sending call.
//!
//! A train takes datagrams that agree in peer, flow bucket, mark and length (the last may be
//! shorter); the kernel sends it whole. The datagrams are put together here, end to end: that copy
//! stays within the cache, and the kernel copies one piece faster than the hundred that headers and
//! payloads would be.

use std::net::SocketAddr;

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
        }
    }

    /// Takes the datagram made of `parts` if it fits; says whether it did. An empty train takes any
    /// that is no longer than a sending call; others want the peer and source port of those before
    /// (see [`is_ahead_of`](Self::is_ahead_of)).
    pub(super) fn push(&mut self, key: &Key, parts: [&[u8]; 2], max_segments: usize) -> bool {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        match &self.key {
            Some(own) => {
                debug_assert!(own.shares_lane(key), "the outbox looks for the train first");
                let fits = own.ecn == key.ecn
                    && !self.is_full(max_segments)
                    && self.len + len <= MAX_SEND_LEN
                    && len <= self.segment_len;
                if !fits {
                    return false;
                }
                self.closed = len < self.segment_len;
            }
            None if len > MAX_SEND_LEN => return false,
            None => {
                self.key = Some(*key);
                self.segment_len = len;
            }
        }
        for part in parts {
            self.bytes[self.len..self.len + part.len()].copy_from_slice(part);
            self.len += part.len();
        }
        self.count += 1;
        true
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

    /// What it carries, unless it is empty: the datagrams end to end, and the length of each but
    /// the last.
    pub(super) fn contents(&self) -> Option<(&Key, &[u8], usize)> {
        self.key.as_ref().map(|key| (key, &self.bytes[..self.len], self.segment_len))
    }

    pub(super) fn clear(&mut self) {
        self.key = None;
        self.len = 0;
        self.count = 0;
        self.closed = false;
    }
}
