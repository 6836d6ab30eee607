//! What opens what comes from a peer.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use overlay_proto::esp::{self, Decoded, HEADER_LEN, Lane, Payload, Slot};

use super::traffic::{TrafficKey, aad};
use super::window::Window;
use super::{LANES_PER_WORKER, PeerLink};
use crate::suite::Suite;

/// One direction of a session, from the peer.
#[derive(Debug)]
pub struct Incoming {
    key: TrafficKey,
    slot: Slot,
    lanes: u16,
    peer: Arc<PeerLink>,
    /// Those of a worker of the peer's together. Made when a lane has proved that it is in use.
    windows: Box<[OnceLock<Box<Lanes>>]>,
    heard: AtomicBool,
}

type Lanes = [OnceLock<Box<Window>>; LANES_PER_WORKER as usize];

/// Why a datagram was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The peer has no such lane.
    #[error("the peer has no such lane")]
    Lane,
    /// The datagram was opened before, or is too far behind the newest to tell.
    #[error("opened before, or too far behind the newest to tell")]
    Replayed,
    /// Whoever sealed it does not have the key, or it was changed on the way.
    #[error("sealed with another key, or changed on the way")]
    BadTag,
    /// What was sealed does not end as it should.
    #[error("what was sealed does not end as it should")]
    BadTrailer,
}

impl Incoming {
    /// A direction that comes in at `slot` on at most `lanes` lanes of `peer`.
    #[must_use]
    pub fn new(key: TrafficKey, slot: Slot, lanes: u16, peer: Arc<PeerLink>) -> Self {
        let workers = usize::from(lanes.min(Lane::COUNT).div_ceil(LANES_PER_WORKER));
        Self {
            key,
            slot,
            lanes,
            peer,
            windows: std::iter::repeat_with(OnceLock::new).take(workers).collect(),
            heard: AtomicBool::new(false),
        }
    }

    /// What it opens with.
    #[must_use]
    pub fn suite(&self) -> Suite {
        self.key.suite()
    }

    /// Where it comes in.
    #[must_use]
    pub fn slot(&self) -> Slot {
        self.slot
    }

    /// Whose it is.
    #[must_use]
    pub fn peer(&self) -> &Arc<PeerLink> {
        &self.peer
    }

    /// Opens `datagram`, of which `decoded` was read, in place; returns what it carries.
    ///
    /// # Errors
    ///
    /// Why it must be dropped. Its bytes may have changed.
    #[inline]
    pub fn open<'d>(
        &self,
        decoded: Decoded,
        datagram: &'d mut [u8],
    ) -> Result<(Payload, &'d mut [u8]), OpenError> {
        let header = decoded.header;
        let lane = header.spi.lane();
        if lane.get() >= self.lanes {
            return Err(OpenError::Lane);
        }
        if self.window(lane).is_some_and(|window| !window.is_new(header.sequence)) {
            return Err(OpenError::Replayed);
        }
        let sealed = datagram.get_mut(HEADER_LEN..).ok_or(OpenError::BadTag)?;
        let (opened, tag) =
            sealed.split_at_mut_checked(decoded.sealed_len).ok_or(OpenError::BadTag)?;
        let opened = self
            .key
            .key()
            .open_in_place_separate_tag(self.key.nonce(header), aad(header), tag, opened)
            .map_err(|_| OpenError::BadTag)?;
        if !self.window_made(lane).is_some_and(|window| window.commit(header.sequence)) {
            return Err(OpenError::Replayed);
        }
        let (payload, len) = esp::open_trailer(opened).map_err(|_| OpenError::BadTrailer)?;
        Ok((payload, opened.get_mut(..len).ok_or(OpenError::BadTrailer)?))
    }

    /// Takes note that something authentic has come; says whether it is the first.
    #[inline]
    pub fn hear(&self) -> bool {
        !self.heard.load(Ordering::Relaxed) && !self.heard.swap(true, Ordering::Relaxed)
    }

    /// Whether anything authentic has come.
    #[must_use]
    pub fn is_heard(&self) -> bool {
        self.heard.load(Ordering::Relaxed)
    }

    #[inline]
    fn window(&self, lane: Lane) -> Option<&Window> {
        let (worker, lane) = place(lane);
        self.windows.get(worker)?.get()?.get(lane)?.get().map(|window| &**window)
    }

    #[inline]
    fn window_made(&self, lane: Lane) -> Option<&Window> {
        let (worker, lane) = place(lane);
        let lanes = self.windows.get(worker)?;
        let lanes = lanes.get_or_init(|| Box::new([const { OnceLock::new() }; _]));
        lanes.get(lane).map(|window| &**window.get_or_init(|| Box::new(Window::new())))
    }
}

fn place(lane: Lane) -> (usize, usize) {
    let (lane, each) = (usize::from(lane.get()), usize::from(LANES_PER_WORKER));
    (lane / each, lane % each)
}
