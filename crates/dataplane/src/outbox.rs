//! The way onto the wire: trains are sent, and what the kernel refuses is dealt with.

use std::io::{self, IoSlice};

use super::io_error::{Class, classify};
use super::port::UnderlayPort;
use super::round::{Env, Notice};
use super::tap::Sight;
use super::train::{Key, Train};
use crate::engine::DropReason;
use crate::platform::udp::{MAX_SEND_SEGMENTS, Transmit};

pub(super) struct Outbox {
    train: Train,
    /// Datagrams in one sending call: one where the kernel cannot cut trains apart.
    max_segments: usize,
}

impl Outbox {
    pub(super) fn new() -> Self {
        Self { train: Train::new(), max_segments: MAX_SEND_SEGMENTS }
    }

    /// Sends each datagram by itself from now on.
    pub(super) fn without_trains(&mut self) {
        self.max_segments = 1;
    }

    pub(super) fn sends_trains(&self) -> bool {
        self.max_segments > 1
    }

    /// Takes the datagram made of `parts`; what does not go together with it is sent first.
    pub(super) fn push<T, U: UnderlayPort>(
        &mut self,
        env: &mut Env<'_, T, U>,
        key: &Key,
        parts: [&[u8]; 2],
    ) {
        if !self.train.push(key, parts, self.max_segments) {
            self.flush(env);
            if !self.train.push(key, parts, self.max_segments) {
                env.counters.drops.add(DropReason::TooBig, 1);
            }
        }
        if self.train.is_full(self.max_segments) {
            self.flush(env);
        }
    }

    /// Sends what waits.
    pub(super) fn flush<T, U: UnderlayPort>(&mut self, env: &mut Env<'_, T, U>) {
        if let Some((key, bytes, segment_len)) = self.train.contents()
            && send(env, key, bytes, segment_len) == Segmentation::Refused
        {
            self.max_segments = 1;
            env.counters.add_degraded();
            tracing::warn!("the kernel refuses to segment datagrams; sending one by one");
        }
        self.train.clear();
    }
}

#[derive(PartialEq, Eq)]
enum Segmentation {
    Fine,
    Refused,
}

/// Sends datagrams of `segment_len` bytes each (the last may be shorter).
fn send<T, U: UnderlayPort>(
    env: &mut Env<'_, T, U>,
    key: &Key,
    bytes: &[u8],
    segment_len: usize,
) -> Segmentation {
    let count = bytes.len().div_ceil(segment_len);
    let Err(error) = send_once(env, key, bytes, segment_len) else {
        let peer = env.table.peer(key.peer);
        let overhead = count * peer.codec.header_len();
        peer.counters.add_egress(count as u64, (bytes.len() - overhead) as u64);
        show(env, key, bytes, segment_len, Ok(()));
        return Segmentation::Fine;
    };
    let class = classify(&error);
    // EIO: the way out does not finish checksums, which segmentation needs (udp_send_skb).
    let segmentation = class == Class::Unsupported || error.raw_os_error() == Some(libc::EIO);
    if count > 1 && (segmentation || class == Class::TooBig) {
        for datagram in bytes.chunks(segment_len) {
            send(env, key, datagram, segment_len);
        }
        return if segmentation { Segmentation::Refused } else { Segmentation::Fine };
    }
    let reason = match class {
        Class::Empty | Class::Full => DropReason::UnderlayFull,
        Class::TooBig => {
            // The table will know soon, and then the engine tells senders.
            env.notices.send(Notice::PathTooNarrow(key.endpoint.ip()));
            DropReason::TooBig
        }
        Class::Unsupported | Class::Gone | Class::Refused => {
            tracing::debug!(%error, peer = %key.endpoint, "the underlay refused a datagram");
            DropReason::UnderlayRefused
        }
    };
    env.counters.drops.add(reason, count as u64);
    show(env, key, bytes, segment_len, Err(reason));
    Segmentation::Fine
}

fn show<T, U>(
    env: &Env<'_, T, U>,
    key: &Key,
    bytes: &[u8],
    segment_len: usize,
    result: Result<(), DropReason>,
) {
    if let Some(tap) = env.tap {
        let Key { ecn, flow_hash, peer, .. } = *key;
        let peer = env.table.peer(peer);
        for datagram in bytes.chunks(segment_len) {
            tap.see(&Sight::Sent { peer, ecn, flow_hash, datagram, result });
        }
    }
}

fn send_once<T, U: UnderlayPort>(
    env: &mut Env<'_, T, U>,
    key: &Key,
    bytes: &[u8],
    segment_len: usize,
) -> io::Result<()> {
    let transmit = Transmit {
        destination: key.endpoint,
        ecn: key.ecn,
        segment_size: (bytes.len() > segment_len)
            .then(|| u16::try_from(segment_len).unwrap_or(u16::MAX)),
        parts: &[IoSlice::new(bytes)],
    };
    env.underlay.send(key.flow_hash, &transmit)
}
