//! Live captures: packets are copied beside the data path into rings that somebody else empties.
//!
//! Each worker has a ring of its own for each capture, of fixed size, which it alone fills: without
//! a lock, an allocation or a wait. When a ring is full the record is lost and counted. Who empties
//! the rings looks at them from time to time; nobody is woken.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Instant;

use overlay_proto::InnerPacket;
use rtrb::{Consumer, Producer, RingBuffer};

use super::flows::FlowTap;
use super::outer::Outer;
use super::tap::{Decision, Observation, Tap};
use super::underlay::{SENDERS, bucket};
use crate::engine::{DropReason, Peer};

/// Bytes of one ring: some 20 ms of full packets at line rate of 1 Gbit/s, and one capture of eight
/// workers stays at 16 MiB.
const RING_LEN: usize = 2 << 20;

/// Captures at once.
pub(super) const MAX_CAPTURES: usize = 4;

/// What is captured.
#[derive(Clone, Debug)]
pub struct CaptureFilter {
    /// Only packets from or to this pod.
    pub pod: Option<IpAddr>,
    /// Only packets from or to this peer.
    pub peer: Option<String>,
    /// Only packets that are dropped.
    pub drops: bool,
    /// Keep one packet in `sample` of what is left.
    pub sample: u32,
    /// Bytes that are kept of a packet.
    pub snap_len: usize,
}

/// Where a packet was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CaptureSide {
    /// Among the pods.
    Inner,
    /// On the underlay.
    Outer,
}

/// What became of a captured packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CaptureVerdict {
    /// It goes to a peer.
    Forward,
    /// It goes to a pod.
    Deliver,
    /// It is dropped, and its sender gets an ICMP error.
    Reply(DropReason),
    /// It is dropped.
    Drop(DropReason),
    /// It is an ICMP error of ours.
    Answer,
}

/// One captured packet.
#[derive(Clone, Copy, Debug)]
pub struct CaptureRecord<'a> {
    /// Nanoseconds since 1970.
    pub time_ns: u64,
    /// Where it was seen.
    pub side: CaptureSide,
    /// Whether it goes from a pod to the wire.
    pub egress: bool,
    /// What became of it.
    pub verdict: CaptureVerdict,
    /// The peer that it goes to or comes from; empty if there is none.
    pub peer: &'a str,
    /// Its length.
    pub original_len: usize,
    /// What was kept of it.
    pub bytes: &'a [u8],
}

/// A running capture, in the hands of whoever reads it; it ends when this is dropped.
#[derive(Debug)]
pub struct Capture {
    rings: Vec<Consumer<u8>>,
    counts: Arc<Counts>,
    record: Vec<u8>,
    /// Says that the capture runs, as long as it is there.
    alive: Arc<()>,
}

#[derive(Debug, Default)]
struct Counts {
    seen: AtomicU64,
    lost: AtomicU64,
}

/// A worker's end of a capture.
pub(super) struct CaptureTap {
    filter: CaptureFilter,
    local_end: LocalEnd,
    /// A moment of both clocks, from which times are told.
    epoch: (Instant, u64),
    counts: Arc<Counts>,
    state: RefCell<State>,
}

struct State {
    ring: Producer<u8>,
    time_ns: u64,
    skipped: u32,
}

/// The node's own end of what is sent and received.
#[derive(Clone, Copy, Debug)]
pub(super) struct LocalEnd {
    pub(super) address: IpAddr,
    pub(super) source_ports: [u16; SENDERS],
}

impl Default for LocalEnd {
    fn default() -> Self {
        Self { address: Ipv4Addr::UNSPECIFIED.into(), source_ports: [0; SENDERS] }
    }
}

/// Everybody who looks at a worker's packets: captures, and whoever counts flows.
#[derive(Default)]
pub(super) struct Taps {
    captures: Vec<CaptureTap>,
    flows: Option<FlowTap>,
}

/// Opens a capture for so many workers: the reader's end, and each worker's.
pub(super) fn open(
    filter: &CaptureFilter,
    workers: usize,
    epoch: (Instant, u64),
) -> (Capture, Vec<CaptureTap>) {
    let counts = Arc::new(Counts::default());
    let (taps, rings) = (0..workers)
        .map(|_| {
            let (ring, consumer) = RingBuffer::new(RING_LEN);
            let tap = CaptureTap {
                filter: filter.clone(),
                local_end: LocalEnd::default(),
                epoch,
                counts: Arc::clone(&counts),
                state: RefCell::new(State { ring, time_ns: 0, skipped: 0 }),
            };
            (tap, consumer)
        })
        .unzip();
    (Capture { rings, counts, record: Vec::new(), alive: Arc::new(()) }, taps)
}

impl Taps {
    pub(super) fn add(&mut self, tap: CaptureTap) {
        self.captures.push(tap);
    }

    /// Shows packets to this one from now on, and no more to the one before it.
    pub(super) fn watch_flows(&mut self, tap: FlowTap) {
        self.flows = Some(tap);
    }

    /// Sets the moment of what is seen next and forgets those who look no more; says whether any is
    /// left. While nobody looks this is two comparisons and nothing else.
    pub(super) fn prepare(&mut self, now: Instant) -> Option<&dyn Tap> {
        if self.captures.is_empty() && self.flows.is_none() {
            return None;
        }
        self.captures.retain(|tap| !tap.state.borrow().ring.is_abandoned());
        for tap in &self.captures {
            let since = now.saturating_duration_since(tap.epoch.0).as_nanos();
            let since = u64::try_from(since).unwrap_or(u64::MAX);
            tap.state.borrow_mut().time_ns = tap.epoch.1.saturating_add(since);
        }
        self.flows = self.flows.take().filter(|flows| !flows.is_abandoned());
        match &self.flows {
            Some(flows) => {
                flows.prepare(now);
                // Nothing stands between the packets and the one that always looks.
                Some(if self.captures.is_empty() { flows as &dyn Tap } else { self as &dyn Tap })
            }
            None => (!self.captures.is_empty()).then_some(self as &dyn Tap),
        }
    }

    /// Follows a change of sockets.
    pub(super) fn rebind(&mut self, local_end: LocalEnd) {
        self.captures.iter_mut().for_each(|tap| tap.local_end = local_end);
    }
}

impl Tap for Taps {
    fn observe(&self, observation: &Observation<'_>) {
        self.captures.iter().for_each(|tap| tap.observe(observation));
        if let Some(flows) = &self.flows {
            flows.observe(observation);
        }
    }
}

/// The fixed part of a record.
const HEADER_LEN: usize = 24;

mod verdict {
    pub(super) const FORWARD: u8 = 0;
    pub(super) const DELIVER: u8 = 1;
    pub(super) const REPLY: u8 = 2;
    pub(super) const DROP: u8 = 3;
    pub(super) const ANSWER: u8 = 4;
}

impl CaptureTap {
    /// Tells where the node's ends are.
    pub(super) fn show(&mut self, local_end: LocalEnd) {
        self.local_end = local_end;
    }

    fn note(&self, about: &About<'_>, parts: [&[u8]; 2]) {
        let state = &mut *self.state.borrow_mut();
        state.skipped += 1;
        if state.skipped < self.filter.sample {
            return;
        }
        state.skipped = 0;
        self.counts.seen.fetch_add(1, Ordering::Relaxed);
        let name = about.peer.map_or(&[][..], |peer| peer.name().as_bytes());
        let name = &name[..name.len().min(usize::from(u8::MAX))];
        let original_len = parts[0].len() + parts[1].len();
        let first = &parts[0][..parts[0].len().min(self.filter.snap_len)];
        let second = &parts[1][..parts[1].len().min(self.filter.snap_len - first.len())];
        let len = HEADER_LEN + name.len() + first.len() + second.len();
        let Ok(mut chunk) = state.ring.write_chunk(len) else {
            self.counts.lost.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let (kind, reason) = match about.verdict {
            CaptureVerdict::Forward => (verdict::FORWARD, 0),
            CaptureVerdict::Deliver => (verdict::DELIVER, 0),
            CaptureVerdict::Reply(reason) => (verdict::REPLY, reason.index()),
            CaptureVerdict::Drop(reason) => (verdict::DROP, reason.index()),
            CaptureVerdict::Answer => (verdict::ANSWER, 0),
        };
        let mut header = [0; HEADER_LEN];
        header[0..4].copy_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_ne_bytes());
        let original_len = u32::try_from(original_len).unwrap_or(u32::MAX);
        header[4..8].copy_from_slice(&original_len.to_ne_bytes());
        header[8..16].copy_from_slice(&state.time_ns.to_ne_bytes());
        header[16] = u8::from(about.side == CaptureSide::Outer);
        header[17] = u8::from(about.egress);
        header[18] = kind;
        header[19] = u8::try_from(reason).unwrap_or(u8::MAX);
        header[20] = u8::try_from(name.len()).unwrap_or(u8::MAX);
        let (mut near, mut far) = chunk.as_mut_slices();
        for mut part in [&header[..], name, first, second] {
            let here = part.len().min(near.len());
            near[..here].copy_from_slice(&part[..here]);
            near = &mut near[here..];
            part = &part[here..];
            far[..part.len()].copy_from_slice(part);
            far = &mut far[part.len()..];
        }
        chunk.commit_all();
    }

    /// Whether the filter lets a packet pass.
    fn wants(&self, about: &About<'_>, inner: Option<&[u8]>) -> bool {
        let dropped = matches!(about.verdict, CaptureVerdict::Reply(_) | CaptureVerdict::Drop(_));
        if self.filter.drops && !dropped {
            return false;
        }
        if let Some(name) = &self.filter.peer
            && about.peer.is_none_or(|peer| peer.name() != *name)
        {
            return false;
        }
        match (self.filter.pod, inner.map(InnerPacket::parse)) {
            (None, _) => true,
            (Some(pod), Some(Ok(packet))) => packet.source() == pod || packet.destination() == pod,
            (Some(_), Some(Err(_)) | None) => false,
        }
    }
}

/// What is known of a packet besides its bytes.
struct About<'a> {
    side: CaptureSide,
    egress: bool,
    verdict: CaptureVerdict,
    peer: Option<&'a Peer>,
}

impl Tap for CaptureTap {
    fn observe(&self, observation: &Observation<'_>) {
        match *observation {
            Observation::Egress { packet, peer, decision } => {
                let verdict = match decision {
                    Decision::Forward { .. } | Decision::Seal { .. } => CaptureVerdict::Forward,
                    Decision::Reply { reason, .. } => CaptureVerdict::Reply(reason),
                    Decision::Drop(reason) => CaptureVerdict::Drop(reason),
                };
                let mut about = About { side: CaptureSide::Inner, egress: true, verdict, peer };
                if self.wants(&about, Some(packet)) {
                    self.note(&about, [packet, &[]]);
                    if let Decision::Reply { reply, .. } = decision {
                        about.verdict = CaptureVerdict::Answer;
                        about.egress = false;
                        self.note(&about, [reply, &[]]);
                    }
                }
            }
            Observation::Sent { peer, endpoint, sealed, ecn, flow_hash, datagram, result } => {
                let verdict = match result {
                    Ok(()) => CaptureVerdict::Forward,
                    Err(reason) => CaptureVerdict::Drop(reason),
                };
                let about =
                    About { side: CaptureSide::Outer, egress: true, verdict, peer: Some(peer) };
                let inner = datagram.get(peer.codec.header_len()..).filter(|_| !sealed);
                if self.wants(&about, inner) {
                    let port = self.local_end.source_ports[bucket(flow_hash)];
                    let source = SocketAddr::new(self.local_end.address, port);
                    let outer = Outer::new(source, endpoint, ecn, datagram);
                    self.note(&about, [outer.as_slice(), datagram]);
                }
            }
            Observation::Ingress { source, port, ecn, datagram, peer, sealed, outcome } => {
                let verdict = match outcome {
                    Ok(_) => CaptureVerdict::Deliver,
                    Err(reason) => CaptureVerdict::Drop(reason),
                };
                let mut about = About { side: CaptureSide::Outer, egress: false, verdict, peer };
                let inner = match outcome {
                    Ok(inner) => Some(inner),
                    Err(_) if sealed => None,
                    Err(_) => peer.and_then(|peer| datagram.get(peer.codec.header_len()..)),
                };
                if self.wants(&about, inner) {
                    let local = SocketAddr::new(self.local_end.address, port);
                    let outer = Outer::new(source, local, ecn, datagram);
                    self.note(&about, [outer.as_slice(), datagram]);
                    if let Ok(inner) = outcome {
                        about.side = CaptureSide::Inner;
                        self.note(&about, [inner, &[]]);
                    }
                }
            }
            Observation::Lost { packet, reason } => {
                let verdict = CaptureVerdict::Drop(reason);
                let about = About { side: CaptureSide::Inner, egress: false, verdict, peer: None };
                if self.wants(&about, Some(packet)) {
                    self.note(&about, [packet, &[]]);
                }
            }
        }
    }
}

impl Capture {
    /// Takes the oldest record that is there, if it is not younger than `limit_ns`, in nanoseconds
    /// since 1970. Workers write at different moments what they have seen at one: who waits
    /// a little gets all in order.
    pub fn take(&mut self, limit_ns: u64) -> Option<CaptureRecord<'_>> {
        let oldest = self
            .rings
            .iter_mut()
            .enumerate()
            .filter_map(|(index, ring)| Some((head(ring)?, index)))
            .min_by_key(|((time, _), index)| (*time, *index));
        let ((_, len), index) = oldest.filter(|((time, _), _)| *time <= limit_ns)?;
        let chunk = self.rings[index].read_chunk(len).ok()?;
        let (near, far) = chunk.as_slices();
        self.record.clear();
        self.record.extend_from_slice(near);
        self.record.extend_from_slice(far);
        chunk.commit_all();
        read(&self.record)
    }

    /// Records that were made so far, and those of them that were lost because the rings were full.
    pub fn counts(&self) -> (u64, u64) {
        (self.counts.seen.load(Ordering::Relaxed), self.counts.lost.load(Ordering::Relaxed))
    }

    /// What is there as long as the capture is.
    pub(super) fn sign(&self) -> Weak<()> {
        Arc::downgrade(&self.alive)
    }

    /// Whether the workers are gone.
    pub fn has_ended(&self) -> bool {
        self.rings.iter().all(Consumer::is_abandoned)
    }
}

/// Time and length of the first record of a ring.
fn head(ring: &mut Consumer<u8>) -> Option<(u64, usize)> {
    let chunk = ring.read_chunk(HEADER_LEN).ok()?;
    let (near, far) = chunk.as_slices();
    let mut header = [0; HEADER_LEN];
    header[..near.len()].copy_from_slice(near);
    header[near.len()..].copy_from_slice(far);
    let len = u32::from_ne_bytes(*header.first_chunk()?);
    Some((u64::from_ne_bytes(*header[8..].first_chunk()?), len as usize))
}

fn read(record: &[u8]) -> Option<CaptureRecord<'_>> {
    let reason = *DropReason::ALL.get(usize::from(*record.get(19)?))?;
    let name_end = HEADER_LEN + usize::from(*record.get(20)?);
    Some(CaptureRecord {
        time_ns: u64::from_ne_bytes(*record.get(8..)?.first_chunk()?),
        side: if record[16] == 0 { CaptureSide::Inner } else { CaptureSide::Outer },
        egress: record[17] != 0,
        verdict: match record[18] {
            verdict::FORWARD => CaptureVerdict::Forward,
            verdict::DELIVER => CaptureVerdict::Deliver,
            verdict::REPLY => CaptureVerdict::Reply(reason),
            verdict::DROP => CaptureVerdict::Drop(reason),
            _ => CaptureVerdict::Answer,
        },
        peer: std::str::from_utf8(record.get(HEADER_LEN..name_end)?).unwrap_or_default(),
        original_len: u32::from_ne_bytes(*record.get(4..)?.first_chunk()?) as usize,
        bytes: record.get(name_end..)?,
    })
}
