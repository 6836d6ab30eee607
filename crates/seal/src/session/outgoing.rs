//! What seals toward a peer.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use overlay_proto::esp::{self, HEADER_LEN, Header, Lane, Payload, Slot, Spi, Trailer};

use super::traffic::{TrafficKey, aad};
use super::{LANES_PER_WORKER, limits};
use crate::suite::Suite;

/// Bytes of a block of AES; ChaCha's are counted the same.
const BLOCK_LEN: usize = 16;

/// Blocks that a worker counts by itself before it tells the others: 1 MiB.
const UNTOLD_BLOCKS: u64 = 1 << 16;

/// One direction of a session, toward the peer.
#[derive(Debug)]
pub struct Outgoing {
    key: TrafficKey,
    slot: Slot,
    workers: Box<[Worker]>,
    /// Blocks sealed by all workers, but for what each has not told yet.
    blocks: AtomicU64,
    ends: Instant,
}

/// What one worker counts, in cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Worker {
    /// The last sequence of each lane. Wider than on the wire, so that it cannot come round.
    sequences: [AtomicU64; LANES_PER_WORKER as usize],
    blocks: AtomicU64,
}

/// Why nothing more is sealed with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Spent {
    /// The lane has no sequence left.
    #[error("the lane has no sequence left")]
    Sequence,
    /// As much was sealed as may be.
    #[error("as much was sealed with the key as may be")]
    Blocks,
    /// It is too old.
    #[error("the key is too old")]
    Age,
    /// The session has no such lane.
    #[error("the session has no such lane")]
    Lane,
}

/// Why a packet was not sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// There is no room for the datagram.
    #[error("no room for the datagram")]
    NoRoom,
    /// The cryptographic library refuses.
    #[error("the cryptographic library refuses")]
    Refused,
}

/// A sequence that nobody else has, to seal one packet with.
#[derive(Debug)]
pub struct Ticket(Header);

impl Ticket {
    /// What the datagram will begin with.
    #[must_use]
    pub fn header(&self) -> Header {
        self.0
    }
}

/// Sequences that nobody else has.
#[derive(Debug)]
pub struct Tickets {
    spi: Spi,
    /// INVARIANT: both fit 32 bits.
    next: u64,
    end: u64,
}

impl Iterator for Tickets {
    type Item = Ticket;

    #[inline]
    fn next(&mut self) -> Option<Ticket> {
        if self.next == self.end {
            return None;
        }
        let sequence = u32::try_from(self.next).ok()?;
        self.next += 1;
        Some(Ticket(Header { spi: self.spi, sequence }))
    }
}

impl Outgoing {
    /// A direction with `lanes` lanes toward the peer's `slot`, made at `now`.
    #[must_use]
    pub fn new(key: TrafficKey, slot: Slot, lanes: u16, now: Instant) -> Self {
        let workers = usize::from(lanes.div_ceil(LANES_PER_WORKER).max(1));
        Self {
            key,
            slot,
            workers: std::iter::repeat_with(Worker::default).take(workers).collect(),
            blocks: AtomicU64::new(0),
            ends: now + limits::MAX_AGE,
        }
    }

    /// What it seals with.
    #[must_use]
    pub fn suite(&self) -> Suite {
        self.key.suite()
    }

    /// The slot of the peer's that it leads to.
    #[must_use]
    pub fn slot(&self) -> Slot {
        self.slot
    }

    /// Takes the next `count` sequences of a lane, to seal packets of `len` bytes each with.
    ///
    /// One worker uses a lane, so that what it seals leaves in order. That nothing is sealed twice
    /// with one sequence holds whoever asks.
    ///
    /// # Errors
    ///
    /// Why this key must not be used any more.
    #[inline]
    pub fn take(&self, lane: Lane, count: u32, len: usize, now: Instant) -> Result<Tickets, Spent> {
        let number = usize::from(lane.get());
        let lanes = usize::from(LANES_PER_WORKER);
        let worker = self.workers.get(number / lanes).ok_or(Spent::Lane)?;
        if now >= self.ends {
            return Err(Spent::Age);
        }
        if self.blocks.load(Ordering::Relaxed) >= limits::MAX_BLOCKS {
            return Err(Spent::Blocks);
        }
        let count = u64::from(count);
        let last = worker.sequences[number % lanes].fetch_add(count, Ordering::Relaxed);
        let end = last + count;
        if end >= limits::MAX_SEQUENCE {
            return Err(Spent::Sequence);
        }
        let blocks = count * (len.div_ceil(BLOCK_LEN) as u64 + 1);
        let before = worker.blocks.fetch_add(blocks, Ordering::Relaxed);
        let told = before / UNTOLD_BLOCKS;
        let now_told = (before + blocks) / UNTOLD_BLOCKS;
        if now_told > told {
            self.blocks.fetch_add((now_told - told) * UNTOLD_BLOCKS, Ordering::Relaxed);
        }
        Ok(Tickets { spi: Spi::new(self.slot, lane), next: last + 1, end: end + 1 })
    }

    /// Seals `inner` into `out`, whose first bytes become the datagram; returns how many.
    ///
    /// # Errors
    ///
    /// Why there is no datagram; the ticket is spent all the same.
    #[inline]
    #[expect(clippy::needless_pass_by_value, reason = "a ticket serves once")]
    pub fn seal(
        &self,
        ticket: Ticket,
        payload: Payload,
        inner: &[u8],
        out: &mut [u8],
    ) -> Result<usize, SealError> {
        let Ticket(header) = ticket;
        let trailer = Trailer::new(payload, inner.len());
        let trailer = trailer.as_slice();
        let len = esp::datagram_len(inner.len());
        let (start, sealed) = out
            .get_mut(..len)
            .and_then(|datagram| datagram.split_first_chunk_mut::<HEADER_LEN>())
            .ok_or(SealError::NoRoom)?;
        *start = header.encode();
        let (ciphertext, end) = sealed.split_at_mut(inner.len());
        self.key
            .key()
            .seal_out_of_place_scatter(
                self.key.nonce(header),
                aad(header),
                inner,
                ciphertext,
                trailer,
                end,
            )
            .map_err(|_| SealError::Refused)?;
        Ok(len)
    }

    /// Seals the `inner_len` bytes behind the room for a header in `datagram`, in place.
    ///
    /// # Errors
    ///
    /// As [`seal`](Self::seal).
    #[expect(clippy::needless_pass_by_value, reason = "a ticket serves once")]
    pub fn seal_in_place(
        &self,
        ticket: Ticket,
        payload: Payload,
        inner_len: usize,
        datagram: &mut [u8],
    ) -> Result<usize, SealError> {
        let Ticket(header) = ticket;
        let trailer = Trailer::new(payload, inner_len);
        let len = esp::datagram_len(inner_len);
        let (start, sealed) = datagram
            .get_mut(..len)
            .and_then(|datagram| datagram.split_first_chunk_mut::<HEADER_LEN>())
            .ok_or(SealError::NoRoom)?;
        *start = header.encode();
        let (inner, end) = sealed.split_at_mut(inner_len);
        self.key
            .key()
            .seal_in_place_scatter(
                self.key.nonce(header),
                aad(header),
                inner,
                trailer.as_slice(),
                end,
            )
            .map_err(|_| SealError::Refused)?;
        Ok(len)
    }

    /// A datagram that carries nothing, on the first lane.
    ///
    /// # Errors
    ///
    /// Why this key must not be used any more.
    pub fn dummy(&self, lane: Lane, now: Instant) -> Result<[u8; esp::MIN_LEN], Spent> {
        let mut datagram = [0; esp::MIN_LEN];
        let ticket = self.take(lane, 1, 0, now)?.next().ok_or(Spent::Sequence)?;
        match self.seal_in_place(ticket, Payload::Dummy, 0, &mut datagram) {
            Ok(_) => Ok(datagram),
            Err(SealError::NoRoom | SealError::Refused) => Err(Spent::Lane),
        }
    }

    /// Whether so much was sealed that the key should be renewed, whatever its age.
    #[must_use]
    pub fn is_worn(&self) -> bool {
        let sequences = self.workers.iter().flat_map(|worker| &worker.sequences);
        self.blocks.load(Ordering::Relaxed) >= limits::RENEW_BLOCKS
            || sequences
                .into_iter()
                .any(|last| last.load(Ordering::Relaxed) >= limits::RENEW_SEQUENCE)
    }

    /// What the workers have told.
    #[cfg(test)]
    pub(super) fn blocks(&self) -> u64 {
        self.blocks.load(Ordering::Relaxed)
    }

    /// As if the lane had sealed so many packets.
    #[cfg(test)]
    pub(super) fn skip(&self, lane: u16, packets: u64, blocks: u64) {
        self.workers[0].sequences[usize::from(lane)].fetch_add(packets, Ordering::Relaxed);
        self.blocks.fetch_add(blocks, Ordering::Relaxed);
    }
}
