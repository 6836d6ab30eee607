//! One worker without threads or devices: packets go in, and a tap sees what becomes of them.
//!
//! The same code as in the daemon runs over devices in memory, with a table and a clock of the
//! caller's choice. What it sends and writes is seen by the tap only.

use std::net::SocketAddr;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use overlay_proto::{CodecKind, Ecn, Family, Fragment, InnerPacket, checksum};

use super::memory::{MemoryTrain, MemoryTun, MemoryUnderlay};
use super::offload::split::SplitPlan;
use super::offload::{Gso, PartialChecksum, VnetHeader};
use super::sealed::SealedWorker;
use super::{Egress, Env, Ingress, Notices, Round, Tap, WorkerCounters};
use crate::engine::{Engine, Owner, Table};
use crate::platform::tun::Offload;
use crate::platform::udp::{MAX_SEND_LEN, MAX_SEND_SEGMENTS};

const TCP: u8 = 0x06;
/// Place of the checksum in the TCP header (RFC 9293 §3.1).
const TCP_CHECKSUM: u16 = 16;

/// A worker in memory.
pub struct Rehearsal {
    offload: Offload,
    engine: Engine,
    egress: Egress,
    ingress: Ingress,
    tun: MemoryTun,
    underlay: MemoryUnderlay,
    counters: WorkerCounters,
    notices: Notices,
    /// Datagrams that arrive as one train.
    train: BytesMut,
    /// Whether datagrams arrive at the port for what is sealed.
    hears_sealed: bool,
    train_of: Option<(SocketAddr, Ecn, usize)>,
    /// A packet in the making.
    packet: Vec<u8>,
}

impl Rehearsal {
    /// Starts at `now`, with a kernel that grants `offload`.
    pub fn new(offload: Offload, now: Instant) -> Self {
        let mut egress = Egress::new();
        if offload == Offload::None {
            egress.without_trains();
        }
        Self {
            offload,
            engine: Engine::new(now),
            egress,
            ingress: Ingress::new(offload),
            tun: MemoryTun::default(),
            underlay: MemoryUnderlay::default(),
            counters: WorkerCounters::default(),
            // Nobody listens: what control would do about a notice does not happen here.
            notices: Notices::new().0,
            train: BytesMut::new(),
            hears_sealed: false,
            train_of: None,
            packet: Vec::new(),
        }
    }

    /// Puts a packet of a pod where the worker reads.
    pub fn pod_sends(&mut self, packet: &[u8]) {
        self.queue(&VnetHeader::default(), packet);
    }

    /// Puts a TCP packet of a pod where the worker reads. One that is too long for the path to its
    /// destination is taken for what the pod's kernel left to be cut: with offloads it is read as
    /// one super-packet, without as the packets that the kernel would have made of it. Returns how
    /// many packets the worker will read.
    pub fn pod_sends_super_packet(&mut self, table: &Table, packet: &[u8]) -> usize {
        let Some(header) = super_packet(table, packet) else {
            self.pod_sends(packet);
            return 1;
        };
        let mut bytes = std::mem::take(&mut self.packet);
        bytes.clear();
        bytes.extend_from_slice(packet);
        begin_checksum(&header, &mut bytes);
        let count = match self.offload {
            Offload::None => self.queue_segments(&header, &bytes),
            Offload::Tcp | Offload::TcpUdp => {
                self.queue(&header, &bytes);
                1
            }
        };
        self.packet = bytes;
        count
    }

    /// Datagrams that arrive from now on, until the next [`run`](Self::run), are of this codec.
    pub fn hear(&mut self, codec: CodecKind) {
        self.underlay.codec = codec;
        self.hears_sealed = false;
    }

    /// The same of what is sealed, which is opened if it is [known](Self::open_as) by what.
    pub fn hear_sealed(&mut self) {
        self.hears_sealed = true;
    }

    /// Opens what is sealed by the sessions of `worker`, from now on.
    pub fn open_as(&mut self, worker: SealedWorker) {
        self.ingress.open_as(worker);
    }

    /// Lets a datagram arrive; with offloads, those that go together arrive as one train.
    pub fn arrives(&mut self, source: SocketAddr, ecn: Ecn, datagram: &[u8]) {
        if let Some((of, mark, size)) = self.train_of {
            let len = self.train.len();
            let joins = self.offload != Offload::None
                && (of, mark) == (source, ecn)
                && !datagram.is_empty()
                && datagram.len() <= size
                && len.is_multiple_of(size)
                && len / size < MAX_SEND_SEGMENTS
                && len + datagram.len() <= MAX_SEND_LEN;
            if !joins {
                self.end_train();
            }
        }
        if self.train_of.is_none() {
            self.train_of = Some((source, ecn, datagram.len()));
        }
        self.train.extend_from_slice(datagram);
    }

    /// Lets the worker handle all of it at `now`.
    pub fn run(&mut self, table: &Table, tap: &dyn Tap, now: Instant) {
        self.end_train();
        let mut env = Env {
            tap: Some(tap),
            ..Env::new(&mut self.tun, &mut self.underlay, table, &self.counters, &self.notices, now)
        };
        while self.egress.round(&mut self.engine, &mut env) == Round::More {}
        while !(env.underlay.incoming.is_empty() && env.underlay.sealed.is_empty()) {
            self.ingress.round(&self.engine, &mut env, 0);
        }
        self.tun.written.clear();
        self.underlay.sent.clear();
    }

    fn queue(&mut self, header: &VnetHeader, packet: &[u8]) {
        let mut bytes = BytesMut::with_capacity(packet.len() + 16);
        bytes.extend_from_slice(&header.encode());
        bytes.extend_from_slice(packet);
        self.tun.incoming.push_back(bytes.freeze());
    }

    /// Queues the packets that a super-packet stands for.
    fn queue_segments(&mut self, header: &VnetHeader, bytes: &[u8]) -> usize {
        let plan =
            InnerPacket::parse(bytes).ok().and_then(|packet| SplitPlan::new(header, &packet).ok());
        let Some(plan) = plan else {
            self.pod_sends(bytes);
            return 1;
        };
        let mut segment = Vec::new();
        for index in 0..plan.count() {
            segment.clear();
            segment.resize(plan.header_len(), 0);
            plan.write_header(bytes, index, &mut segment);
            segment.extend_from_slice(&bytes[plan.payload(index)]);
            self.pod_sends(&segment);
        }
        plan.count()
    }

    fn end_train(&mut self) {
        if let Some((peer, ecn, size)) = self.train_of.take() {
            let bytes: Bytes = self.train.split().freeze();
            let segment_size =
                (bytes.len() > size).then(|| u16::try_from(size).unwrap_or(u16::MAX));
            let train = MemoryTrain { peer, bucket: 0, ecn, segment_size, bytes };
            let to = if self.hears_sealed {
                &mut self.underlay.sealed
            } else {
                &mut self.underlay.incoming
            };
            to.push_back(train);
        }
    }
}

/// The virtio-net header of `packet`, if it is a super-packet on its way to a peer.
fn super_packet(table: &Table, packet: &[u8]) -> Option<VnetHeader> {
    let packet = InnerPacket::parse(packet).ok()?;
    let upper = packet.upper_layer();
    let mtu = match table.owner(packet.destination())? {
        Owner::Peer(peer) => table.peer(peer).mtu_for(packet.family()),
        Owner::Local => return None,
    };
    if mtu.fits(packet.len()) || upper.protocol != TCP || upper.fragment != Fragment::Whole {
        return None;
    }
    let words = packet.bytes().get(upper.offset + 12)? >> 4;
    let header_len = upper.offset + usize::from(words) * 4;
    let gso_size = u16::try_from(usize::from(mtu.get()).checked_sub(header_len)?).ok()?;
    let header = VnetHeader {
        partial: Some(PartialChecksum {
            start: u16::try_from(upper.offset).ok()?,
            offset: TCP_CHECKSUM,
        }),
        gso: match packet.family() {
            Family::V4 => Gso::Tcp4,
            Family::V6 => Gso::Tcp6,
        },
        header_len: u16::try_from(header_len).ok()?,
        gso_size,
        ..VnetHeader::default()
    };
    (gso_size > 0 && SplitPlan::new(&header, &packet).is_ok()).then_some(header)
}

/// Puts into the checksum field what the kernel leaves there: the sum of the pseudo-header. What
/// the capture has there depends on where it was made.
fn begin_checksum(header: &VnetHeader, bytes: &mut [u8]) {
    let Some(partial) = header.partial else { return };
    let Ok(packet) = InnerPacket::parse(bytes) else { return };
    let start = usize::from(partial.start);
    let len = u32::try_from(packet.len() - start).unwrap_or(u32::MAX);
    let sum = checksum::pseudo_header(packet.source(), packet.destination(), TCP, len).fold();
    let at = start + usize::from(partial.offset);
    bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}
