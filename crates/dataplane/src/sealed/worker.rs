//! A worker's part of sealed mode: where it finds sessions, and how it asks for them.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Instant;

use arc_swap::Guard;
use culvert_seal::mesh::Shared;
use culvert_seal::session::{Incoming, LANES_PER_WORKER, PeerLink};
use overlay_proto::esp::{Lane, Slot};

use super::Request;
use crate::underlay::{SENDERS, bucket};

const _: () = assert!(SENDERS == LANES_PER_WORKER as usize, "a lane takes one path");

/// Workers that have lanes of their own. Those beyond share some: sequences are given out once,
/// whoever asks, but what they send may arrive in another order.
const WORKERS: usize = (Lane::COUNT / LANES_PER_WORKER) as usize;

/// What a worker has of sealed mode. Made by [`Keeper::worker`](super::Keeper::worker).
#[derive(Clone, Debug)]
pub struct SealedWorker {
    pub(super) shared: Arc<Shared>,
    pub(super) requests: SyncSender<Request>,
    /// What times of [`PeerLink`]s are counted from.
    pub(super) started: Instant,
    /// Goes up whenever a session begins to serve.
    pub(super) generation: Arc<AtomicU64>,
    pub(super) worker: usize,
}

impl SealedWorker {
    /// A worker that opens with the sessions in `shared`, and whom nobody makes others for.
    pub fn opening(shared: Arc<Shared>, started: Instant) -> Self {
        let (requests, _nobody) = sync_channel(0);
        Self { shared, requests, started, generation: Arc::default(), worker: 0 }
    }

    /// The lane of this worker's flows with this hash.
    #[inline]
    pub(crate) fn lane(&self, flow_hash: u32) -> Lane {
        const FIRST: Lane = match Lane::new(0) {
            Some(lane) => lane,
            None => unreachable!(),
        };
        let number = (self.worker % WORKERS) * SENDERS + bucket(flow_hash);
        u16::try_from(number).ok().and_then(Lane::new).unwrap_or(FIRST)
    }

    /// What times of [`PeerLink`]s are counted from.
    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    /// As [`PeerLink`]s have times.
    pub(crate) fn ms(&self, now: Instant) -> u64 {
        let age = now.saturating_duration_since(self.started);
        age.as_secs() * 1000 + u64::from(age.subsec_millis())
    }

    /// What opens datagrams of this slot.
    #[inline]
    pub(crate) fn incoming(&self, slot: Slot) -> Option<Guard<Option<Arc<Incoming>>>> {
        self.shared.slots.load(slot)
    }

    /// Changes when sessions have begun to serve.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Takes note that somebody waits for a session with the peer, which costs a look at a flag if
    /// that is known.
    #[inline]
    pub(crate) fn want(&self, link: &Arc<PeerLink>) {
        if link.activity().want() {
            self.ask(link);
        }
    }

    /// Asks for a session with the peer, whether or not somebody else has.
    #[inline(never)]
    pub(crate) fn ask(&self, link: &Arc<PeerLink>) {
        if !self.tell(Request::Want(Arc::clone(link))) {
            link.activity().forget_want();
        }
    }

    /// Whether a handshake datagram is a peer's, and if so hands it on.
    pub(crate) fn shake(&self, datagram: &[u8]) -> bool {
        let is_peers = self.shared.pairs.load().of_datagram(datagram).is_some();
        is_peers && self.tell(Request::Handshake(datagram.into()))
    }

    /// Something has arrived from a node of the table for a session that is not there.
    pub(crate) fn unknown_spi(&self, source: IpAddr) {
        self.tell(Request::UnknownSpi(source));
    }

    /// Something authentic has arrived for the first time. If that cannot be told now, the machine
    /// sees it when it next looks at handshakes that go on.
    pub(crate) fn heard(&self, slot: Slot) {
        self.tell(Request::Heard(slot));
    }

    fn tell(&self, request: Request) -> bool {
        self.requests.try_send(request).is_ok()
    }
}
