//! The way onto the wire: trains are filled and sent, and what the kernel refuses is dealt with.
//!
//! Packets toward several peers come mixed, so several trains are filled at once, at most one for
//! each peer and source port. Two packets of one flow have both in common: they never change
//! places.

use std::io::{self, IoSlice};

use super::io_error::{Class, classify};
use super::path_claim::notice_of;
use super::port::UnderlayPort;
use super::round::{Env, Notice};
use super::tap::Observation;
use super::train::{Contents, Key, Train};
use crate::engine::DropReason;
use crate::platform::udp::{MAX_SEND_SEGMENTS, Transmit};

/// Trains that are filled at once. Each has a buffer of the longest sending call, of which mixed
/// traffic uses [`LONG`] bytes: those of all fit a second-level cache.
const OPEN: usize = 8;

/// A train of this many bytes does not wait for more while another is being filled: one call for so
/// many is cheap, and if they waited, they would no longer be in the cache when the kernel copies
/// them.
const LONG: usize = 16 << 10;

/// How often a train is offered to the kernel while ICMP errors come: each of them takes one
/// sending call with it, and those that can come between two calls in a row are few. Forged ones
/// must not cost a packet however fast they come, and a call that fails that way costs less than a
/// microsecond.
const MAX_ATTEMPTS: usize = 64;

/// The same where there is no report that would say so: then the error is most likely about this
/// train. But another worker may have taken the report, so that reports are looked for three times.
const ATTEMPTS: usize = 6;

/// ICMP errors that are looked at after failed calls; a socket keeps some twenty.
const MAX_REPORTS: usize = 32;

pub(super) struct Outbox {
    trains: [Train; OPEN],
    /// The train that took a datagram last.
    newest: usize,
    /// The train that is sent next to make room.
    next_out: usize,
    /// Datagrams in one sending call: one where the kernel cannot cut trains apart.
    max_segments: usize,
    /// Datagrams that it was given, modulo what fits.
    made: usize,
}

impl Outbox {
    pub(super) fn new() -> Self {
        Self {
            trains: std::array::from_fn(|_| Train::new()),
            newest: 0,
            next_out: 0,
            max_segments: MAX_SEND_SEGMENTS,
            made: 0,
        }
    }

    /// How many datagrams it was given so far, modulo what fits.
    pub(super) fn made(&self) -> usize {
        self.made
    }

    /// Sends each datagram by itself from now on.
    pub(super) fn without_trains(&mut self) {
        self.max_segments = 1;
    }

    pub(super) fn sends_trains(&self) -> bool {
        self.max_segments > 1
    }

    /// Takes the datagram made of `parts`; what it must not overtake and cannot join is sent first.
    pub(super) fn push<T, U: UnderlayPort>(
        &mut self,
        env: &mut Env<'_, T, U>,
        key: &Key,
        parts: [&[u8]; 2],
    ) {
        let [first, second] = parts;
        let write = |out: &mut [u8]| {
            let (start, end) = out.split_at_mut(first.len());
            start.copy_from_slice(first);
            end.copy_from_slice(second);
            Ok(())
        };
        self.fill(env, key, first.len() + second.len(), None, write);
    }

    /// Takes the datagram of `len` bytes that `write` makes, as [`push`](Self::push) does; it
    /// carries a packet of `inner_len` bytes, if that must be told.
    #[inline]
    pub(super) fn fill<T, U: UnderlayPort>(
        &mut self,
        env: &mut Env<'_, T, U>,
        key: &Key,
        len: usize,
        inner_len: Option<u16>,
        write: impl FnOnce(&mut [u8]) -> Result<(), DropReason>,
    ) {
        self.made = self.made.wrapping_add(1);
        if !self.trains[self.newest].is_ahead_of(key) {
            self.turn_to(env, key);
        }
        let train = &mut self.trains[self.newest];
        let mut fits = train.fits(key, len, self.max_segments);
        if !fits {
            train.send(env, &mut self.max_segments);
            fits = train.fits(key, len, self.max_segments);
        }
        let written = if fits { write(train.room(len)) } else { Err(DropReason::TooBig) };
        match written {
            Ok(()) => train.add(key, len, inner_len),
            Err(reason) => env.count_drops(reason, 1, None),
        }
        if train.is_full(self.max_segments) {
            train.send(env, &mut self.max_segments);
        }
    }

    /// Sends what waits.
    pub(super) fn flush<T, U: UnderlayPort>(&mut self, env: &mut Env<'_, T, U>) {
        for train in &mut self.trains {
            train.send(env, &mut self.max_segments);
        }
    }

    /// Makes that train the newest which a datagram with `key` must go into: the one that it must
    /// not overtake, or an empty one.
    #[inline(never)]
    fn turn_to<T, U: UnderlayPort>(&mut self, env: &mut Env<'_, T, U>, key: &Key) {
        let newest = &mut self.trains[self.newest];
        if newest.len() >= LONG {
            newest.send(env, &mut self.max_segments);
        }
        if let Some(ahead) = self.trains.iter().position(|train| train.is_ahead_of(key)) {
            self.newest = ahead;
        } else if self.trains[self.newest].is_empty() {
            // Its buffer is in the cache.
        } else if let Some(empty) = self.trains.iter().position(Train::is_empty) {
            self.newest = empty;
        } else {
            self.newest = self.next_out;
            self.next_out = (self.next_out + 1) % OPEN;
            self.trains[self.newest].send(env, &mut self.max_segments);
        }
    }
}

impl Train {
    /// Leaves, if it has datagrams. Once the kernel has refused to cut one apart, none is longer
    /// than one datagram.
    fn send<T, U: UnderlayPort>(&mut self, env: &mut Env<'_, T, U>, max_segments: &mut usize) {
        let Some((key, contents)) = self.contents() else { return };
        if send(env, key, contents) == Segmentation::Refused && *max_segments > 1 {
            *max_segments = 1;
            env.counters.add_degraded();
            tracing::warn!("the kernel refuses to segment datagrams; sending one by one");
        }
        self.clear();
    }
}

#[derive(PartialEq, Eq)]
enum Segmentation {
    Fine,
    Refused,
}

/// Sends datagrams.
fn send<T, U: UnderlayPort>(
    env: &mut Env<'_, T, U>,
    key: &Key,
    contents: Contents<'_>,
) -> Segmentation {
    let count = contents.count();
    let Err(error) = send_once(env, key, contents) else {
        let peer = env.table.peer(key.peer);
        let octets = contents.inner_octets(peer.codec.header_len());
        peer.counters.add_egress(count as u64, octets);
        show(env, key, contents, Ok(()));
        return Segmentation::Fine;
    };
    let class = classify(&error);
    let segmentation = refuses_segmentation(&error);
    if count > 1 && (segmentation || class == Class::TooBig) {
        for datagram in contents.datagrams() {
            send(env, key, datagram);
        }
        return if segmentation { Segmentation::Refused } else { Segmentation::Fine };
    }
    let reason = match class {
        Class::Empty | Class::Full => DropReason::UnderlayFull,
        Class::TooBig => {
            // The device has become narrower. The table will know soon, and then the engine tells
            // senders.
            env.notices.send(Notice::RouteTooNarrow(key.endpoint.ip()));
            DropReason::TooBig
        }
        Class::Unsupported | Class::Gone | Class::Refused => {
            tracing::debug!(%error, peer = %key.endpoint, "the underlay refused a datagram");
            DropReason::UnderlayRefused
        }
    };
    env.count_drops(reason, count as u64, None);
    show(env, key, contents, Err(reason));
    Segmentation::Fine
}

fn show<T, U>(
    env: &Env<'_, T, U>,
    key: &Key,
    contents: Contents<'_>,
    result: Result<(), DropReason>,
) {
    if let Some(tap) = env.tap
        && (result.is_err() || tap.wants_datagrams())
    {
        let Key { peer, endpoint, ecn, flow_hash, sealed } = *key;
        let peer = env.table.peer(peer);
        for Contents { bytes: datagram, .. } in contents.datagrams() {
            tap.observe(&Observation::Sent {
                peer,
                endpoint,
                sealed,
                ecn,
                flow_hash,
                datagram,
                result,
            });
        }
    }
}

/// Sends again what ICMP errors about other datagrams kept from leaving.
///
/// The kernel reports such an error by a sending call that fails, once for each. A second call
/// right behind it fails only if another error has come in that moment. Taking reports makes the
/// kernel fail one too, as long as it has more of them; so between two looks there are two calls.
fn send_once<T, U: UnderlayPort>(
    env: &mut Env<'_, T, U>,
    key: &Key,
    contents: Contents<'_>,
) -> io::Result<()> {
    let Contents { bytes, segment_len, .. } = contents;
    let transmit = Transmit {
        destination: key.endpoint,
        ecn: key.ecn,
        segment_size: (bytes.len() > segment_len)
            .then(|| u16::try_from(segment_len).unwrap_or(u16::MAX)),
        parts: &[IoSlice::new(bytes)],
    };
    let (mut attempts, mut unexplained) = (0, 0);
    loop {
        let result = env.underlay.send(key.flow_hash, &transmit);
        match &result {
            Err(error) if may_be_about_another(error) => {}
            Ok(()) if attempts > 0 => {
                take_reports(env, key.flow_hash);
                return result;
            }
            Ok(()) | Err(_) => return result,
        }
        attempts += 1;
        if attempts % 2 == 0 && take_reports(env, key.flow_hash) {
            unexplained = 0;
        } else {
            unexplained += 1;
        }
        if unexplained == ATTEMPTS || attempts == MAX_ATTEMPTS {
            return result;
        }
    }
}

/// Takes the ICMP errors that wait where the flow leaves, up to a number; says whether there was
/// one.
#[inline(never)]
fn take_reports<T, U: UnderlayPort>(env: &mut Env<'_, T, U>, flow_hash: u32) -> bool {
    let mut taken = 0;
    while taken < MAX_REPORTS
        && let Some(report) = env.underlay.report(flow_hash)
    {
        taken += 1;
        if let Some(notice) = notice_of(&report, env.table) {
            env.notices.send(notice);
        }
    }
    taken > 0
}

/// Whether an error of a sending call may come from an ICMP error about a datagram that left
/// before.
fn may_be_about_another(error: &io::Error) -> bool {
    match classify(error) {
        _ if refuses_segmentation(error) => false,
        Class::TooBig | Class::Refused | Class::Unsupported => true,
        Class::Empty | Class::Full | Class::Gone => false,
    }
}

/// Whether the kernel will not cut a train apart. EIO: the way out does not finish checksums, which
/// that needs (udp_send_skb). No ICMP error is put into these words, so that nobody can talk us out
/// of segmentation.
fn refuses_segmentation(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EIO))
}
