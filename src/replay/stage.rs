//! Where a batch of packets is played, and what is seen of it put together.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::{Duration, Instant};

use culvert_dataplane::engine::{Owner, Peer, Table};
use culvert_dataplane::platform::clock;
use culvert_dataplane::platform::tun::Offload;
use culvert_dataplane::{Decision, Observation, Outer, Rehearsal, SealedWorker, Tap, bucket};
use overlay_proto::{CodecKind, Family, InnerPacket};

use super::classify::{Seen, Tunnel, classify};
use super::keys::Sessions;
use super::row::{Direction, Row, Skip, Verdict};
use crate::pcap::{Frame, network_layer};

/// Most packets that are played at once: as many as a worker reads in one round.
const BATCH: usize = 64;

/// Longest time between the first and the last packet of a batch. What is further apart a worker
/// would not find together; the limit on ICMP errors counts in this unit.
const BATCH_NS: u64 = 1_000_000;

/// Longest packet that IP can say: an IPv6 header and 64 KiB.
const MAX_PACKET_LEN: usize = 40 + u16::MAX as usize;

/// The first source port of what a replayed node sends; each flow bucket has its own after it. A
/// daemon's are of the kernel's choice.
const FIRST_SOURCE_PORT: u16 = 49152;

/// How packets are to be taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReplayOptions {
    pub(super) offload: Offload,
    pub(super) direction: Option<Direction>,
    /// Whether long TCP packets are what a kernel left to be cut.
    pub(super) super_packets: bool,
    /// Whether flows are described, which costs time.
    pub(super) flows: bool,
    /// Whether resulting packets are kept.
    pub(super) results: bool,
}

/// What packets of a batch have in common: which way they go, and what is spoken on the port that
/// they came to.
type Kind = (Direction, Heard);

/// What is spoken on the port that a datagram came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    Plain(Option<CodecKind>),
    /// Each datagram is a batch of its own: of one that carries nothing nothing is seen.
    Sealed,
}

/// A node that packets are played to.
pub(super) struct Stage<'t> {
    table: &'t Table,
    /// The table by which what is sealed is opened.
    sealed_table: Option<Table>,
    tunnel: Tunnel,
    options: ReplayOptions,
    rehearsal: Rehearsal,
    notes: Notes,
    started: Instant,
    first_ns: Option<u64>,
    /// Time of the newest packet, which never goes back.
    now_ns: u64,
    /// Kind and time of the first packet of the batch.
    batch: Option<(Kind, u64)>,
    packets: u64,
    padded: Vec<u8>,
}

impl<'t> Stage<'t> {
    pub(super) fn new(
        table: &'t Table,
        tunnel: Tunnel,
        sessions: Option<Sessions>,
        options: ReplayOptions,
    ) -> Self {
        let started = clock::now();
        let mut rehearsal = Rehearsal::new(options.offload, started);
        let sealed_table = sessions.map(|Sessions { shared, table, .. }| {
            rehearsal.open_as(SealedWorker::opening(shared, started));
            table
        });
        let local = SocketAddr::new(tunnel.address, tunnel.ports.first().copied().unwrap_or(0));
        Self {
            table,
            sealed_table,
            notes: Notes(RefCell::new(Recorder::new(local, options))),
            tunnel,
            options,
            rehearsal,
            started,
            first_ns: None,
            now_ns: 0,
            batch: None,
            packets: 0,
            padded: Vec::new(),
        }
    }

    /// Whether a packet is on its way to a pod of this node. No pod's packet to another of the same
    /// node comes to the TUN device, so it is what somebody has recorded behind the data path.
    fn is_delivered(&self, packet: &[u8]) -> bool {
        let Ok(packet) = InnerPacket::parse(packet) else { return false };
        let is_answer = self.table.local().routers.contains(&packet.source());
        let from = self.table.owner(packet.source());
        self.options.direction.is_none()
            && self.table.owner(packet.destination()) == Some(Owner::Local)
            && (is_answer || matches!(from, Some(Owner::Peer(_))))
    }

    /// Takes the next frame of the capture; plays the batch before it, if it does not continue that
    /// one, and shows each row of it.
    pub(super) fn take<E>(
        &mut self,
        frame: &Frame<'_>,
        show: impl FnMut(&Row, Results<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let missing = frame.original_len - frame.bytes.len();
        let mut padded = std::mem::take(&mut self.padded);
        let packet = network_layer(frame.link, frame.bytes).map(|packet| {
            if missing == 0 {
                return packet;
            }
            // What was cut off is taken for zeros: no verdict depends on a packet's content.
            padded.clear();
            padded.extend_from_slice(packet);
            padded.resize((packet.len() + missing).clamp(packet.len(), MAX_PACKET_LEN), 0);
            &padded[..]
        });
        let seen = packet
            .map_err(Skip::NoPacket)
            .and_then(|packet| classify(&self.tunnel, packet, self.options.direction))
            .and_then(|seen| match seen {
                // With zeros in it, it would be taken for one that somebody has changed.
                Seen::Ingress { sealed: true, .. } if missing > 0 => Err(Skip::Sealed),
                Seen::Egress(packet) if self.is_delivered(packet) => Err(Skip::Delivered),
                Seen::Ingress { .. } | Seen::Egress(_) => Ok(seen),
            });
        let kind = match &seen {
            Ok(Seen::Egress(_)) => Some((Direction::Egress, Heard::Plain(None))),
            Ok(Seen::Ingress { sealed: true, .. }) => Some((Direction::Ingress, Heard::Sealed)),
            Ok(Seen::Ingress { port, .. }) => {
                let codec = self.table.local().codec_on(*port);
                Some((Direction::Ingress, Heard::Plain(codec)))
            }
            Err(_) => None,
        };
        if !self.continues(kind, frame.timestamp_ns) {
            self.play(show)?;
        }
        self.packets += 1;
        self.now_ns = self.now_ns.max(frame.timestamp_ns);
        if let (Some(kind), None) = (kind, self.batch) {
            self.batch = Some((kind, self.now_ns));
            match kind.1 {
                Heard::Plain(codec) => self.rehearsal.hear(codec.unwrap_or_default()),
                Heard::Sealed => self.rehearsal.hear_sealed(),
            }
        }
        let row = {
            let recorder = self.notes.0.get_mut();
            let (index, row) = recorder.turn();
            row.packet = self.packets;
            row.time_ns = frame.timestamp_ns;
            row.captured = (missing > 0).then_some(frame.bytes.len());
            row.direction = kind.map(|(direction, _)| direction);
            row.packet_bytes = packet.map_or(0, <[u8]>::len);
            index
        };
        match seen {
            Ok(Seen::Egress(packet)) => {
                let count = if self.options.super_packets {
                    self.rehearsal.pod_sends_super_packet(self.table, packet)
                } else {
                    self.rehearsal.pod_sends(packet);
                    1
                };
                let recorder = self.notes.0.get_mut();
                recorder.rows[row].packet_bytes = packet.len();
                recorder.played.extend(std::iter::repeat_n(row, count));
            }
            Ok(Seen::Ingress { source, port: _, sealed, ecn, datagram, packet_len }) => {
                self.rehearsal.arrives(source, ecn, datagram);
                let recorder = self.notes.0.get_mut();
                let row_at = &mut recorder.rows[row];
                // What carries something is seen, and then it is another.
                row_at.verdict = if sealed { Verdict::Skip(Skip::Dummy) } else { Verdict::Deliver };
                row_at.datagrams = 1;
                row_at.wire_bytes = packet_len;
                row_at.packet_bytes = packet_len;
                recorder.played.push_back(row);
            }
            Err(skip) => self.notes.0.get_mut().rows[row].verdict = Verdict::Skip(skip),
        }
        self.padded = padded;
        Ok(())
    }

    /// Whether a packet belongs into the batch that is being put together.
    fn continues(&mut self, kind: Option<Kind>, timestamp_ns: u64) -> bool {
        let full = self.notes.0.get_mut().used >= BATCH;
        let apart = self.batch.is_some_and(|(of, begin)| {
            kind.is_some_and(|kind| kind != of || kind.1 == Heard::Sealed)
                || timestamp_ns.saturating_sub(begin) >= BATCH_NS
        });
        !(full || apart)
    }

    /// Plays the batch, and shows each row with its results.
    pub(super) fn play<E>(
        &mut self,
        mut show: impl FnMut(&Row, Results<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let first = *self.first_ns.get_or_insert(self.now_ns);
        let now = self.started + Duration::from_nanos(self.now_ns - first);
        let table = match (&self.sealed_table, self.batch.take()) {
            (Some(table), Some(((_, Heard::Sealed), _))) => table,
            (Some(_) | None, _) => self.table,
        };
        self.rehearsal.run(table, &self.notes, now);
        let recorder = self.notes.0.get_mut();
        // Datagrams wait for their train, so that results come in another order than packets.
        recorder.results.sort_by_key(|result| result.row);
        let mut results = &recorder.results[..];
        for (index, row) in recorder.rows[..recorder.used].iter().enumerate() {
            let count = results.iter().take_while(|result| result.row == index).count();
            let (own, rest) = results.split_at(count);
            results = rest;
            show(row, Results { list: own, bytes: &recorder.bytes })?;
        }
        recorder.used = 0;
        recorder.results.clear();
        recorder.bytes.clear();
        recorder.played.clear();
        recorder.sent.clear();
        Ok(())
    }
}

/// Where a resulting packet would be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// Among the pods.
    Inner,
    /// On the underlay.
    Outer,
}

/// One resulting packet.
#[derive(Clone, Debug)]
struct Outcome {
    row: usize,
    side: Side,
    place: Range<usize>,
}

/// The resulting packets of one row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Results<'a> {
    list: &'a [Outcome],
    bytes: &'a [u8],
}

impl<'a> Results<'a> {
    pub(super) fn iter(self) -> impl Iterator<Item = (Side, &'a [u8])> {
        self.list.iter().map(move |outcome| (outcome.side, &self.bytes[outcome.place.clone()]))
    }
}

/// What is seen while a batch is played.
struct Notes(RefCell<Recorder>);

/// A row some of whose datagrams have not been sent.
struct Waiting {
    row: usize,
    datagrams: usize,
    /// Peer and source port: what has both in common is sent in order.
    lane: (SocketAddr, usize),
}

struct Recorder {
    local: SocketAddr,
    options: ReplayOptions,
    rows: Vec<Row>,
    used: usize,
    /// The rows whose packets were put in, in order: each is seen once.
    played: VecDeque<usize>,
    /// The rows whose datagrams wait to be sent, in order.
    sent: Vec<Waiting>,
    results: Vec<Outcome>,
    bytes: Vec<u8>,
}

impl Recorder {
    fn new(local: SocketAddr, options: ReplayOptions) -> Self {
        Self {
            local,
            options,
            rows: Vec::new(),
            used: 0,
            played: VecDeque::new(),
            sent: Vec::new(),
            results: Vec::new(),
            bytes: Vec::new(),
        }
    }

    /// An empty row; its strings keep their memory.
    fn turn(&mut self) -> (usize, &mut Row) {
        let index = self.used;
        self.used += 1;
        if index == self.rows.len() {
            self.rows.push(Row {
                packet: 0,
                time_ns: 0,
                direction: None,
                verdict: Verdict::Forward,
                peer: String::new(),
                datagrams: 0,
                wire_bytes: 0,
                packet_bytes: 0,
                captured: None,
                flow: String::new(),
            });
        }
        let row = &mut self.rows[index];
        row.verdict = Verdict::Forward;
        row.peer.clear();
        row.flow.clear();
        (row.datagrams, row.wire_bytes) = (0, 0);
        (index, row)
    }

    fn keep(&mut self, row: usize, side: Side, parts: &[&[u8]]) {
        if self.options.results {
            let start = self.bytes.len();
            parts.iter().for_each(|part| self.bytes.extend_from_slice(part));
            self.results.push(Outcome { row, side, place: start..self.bytes.len() });
        }
    }

    fn meet(&mut self, row: usize, peer: Option<&Peer>, inner: &[u8]) {
        let row = &mut self.rows[row];
        row.peer.clear();
        row.peer.push_str(peer.map_or("", |peer| peer.name()));
        if self.options.flows {
            row.describe(inner);
        }
    }
}

impl Tap for Notes {
    fn observe(&self, observation: &Observation<'_>) {
        let recorder = &mut *self.0.borrow_mut();
        match *observation {
            Observation::Egress { packet, peer, decision } => {
                let Some(row) = recorder.played.pop_front() else { return };
                recorder.meet(row, peer, packet);
                match decision {
                    Decision::Forward { datagrams, flow_hash } => {
                        let lane = peer.map(|peer| (peer.endpoint, bucket(flow_hash)));
                        let waiting = lane.map(|lane| Waiting { row, datagrams, lane });
                        recorder.sent.extend(waiting);
                    }
                    // Nobody has keys here.
                    Decision::Seal { .. } => {}
                    Decision::Reply { reason, reply } => {
                        recorder.rows[row].verdict = Verdict::Reply(reason);
                        recorder.keep(row, Side::Inner, &[packet]);
                        recorder.keep(row, Side::Inner, &[reply]);
                    }
                    Decision::Drop(reason) => {
                        recorder.rows[row].verdict = Verdict::Drop(reason);
                        recorder.keep(row, Side::Inner, &[packet]);
                    }
                }
            }
            Observation::Sent { peer, ecn, flow_hash, datagram, result, .. } => {
                let lane = (peer.endpoint, bucket(flow_hash));
                let first = recorder.sent.iter().position(|waiting| waiting.lane == lane);
                let Some(first) = first else { return };
                let waiting = &mut recorder.sent[first];
                let row = waiting.row;
                waiting.datagrams -= 1;
                if waiting.datagrams == 0 {
                    recorder.sent.remove(first);
                }
                let to = &mut recorder.rows[row];
                to.datagrams += 1;
                to.wire_bytes += Outer::len_on(Family::of(peer.address())) + datagram.len();
                if let Err(reason) = result {
                    to.verdict = Verdict::Drop(reason);
                }
                if recorder.options.results {
                    let port = u16::try_from(bucket(flow_hash)).unwrap_or_default();
                    let source = SocketAddr::new(
                        recorder.local.ip(),
                        FIRST_SOURCE_PORT.saturating_add(port),
                    );
                    let outer = Outer::new(source, peer.endpoint, ecn, datagram);
                    recorder.keep(row, Side::Outer, &[outer.as_slice(), datagram]);
                }
            }
            Observation::Ingress { source, port, ecn, datagram, peer, sealed, outcome } => {
                let Some(row) = recorder.played.pop_front() else { return };
                match outcome {
                    Ok(inner) => {
                        recorder.rows[row].verdict = Verdict::Deliver;
                        recorder.meet(row, peer, inner);
                        recorder.keep(row, Side::Inner, &[inner]);
                    }
                    Err(reason) => {
                        let peers = peer.filter(|_| !sealed);
                        let header_len = peers.map_or(usize::MAX, |peer| peer.codec.header_len());
                        recorder.meet(row, peer, datagram.get(header_len..).unwrap_or_default());
                        recorder.rows[row].verdict = Verdict::Drop(reason);
                        if recorder.options.results {
                            let local = SocketAddr::new(recorder.local.ip(), port);
                            let outer = Outer::new(source, local, ecn, datagram);
                            recorder.keep(row, Side::Outer, &[outer.as_slice(), datagram]);
                        }
                    }
                }
            }
            // The device in memory takes everything.
            Observation::Lost { .. } => {}
        }
    }
}
