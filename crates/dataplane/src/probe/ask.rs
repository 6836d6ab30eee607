//! The asking half: from a packet between bridges to a datagram on a path.

use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::time::Instant;

use overlay_proto::esp::{self, Payload};
use overlay_proto::oam::echo::Echo;
use overlay_proto::oam::{self, Ends, Question};
use overlay_proto::{Ecn, Family, Header, Mtu};

use crate::engine::{Keyed, Peer, Seal, hash_of};
use crate::platform::udp::Transmit;
use crate::sealed::SealedWorker;
use crate::underlay::SENDERS;

/// A question to a peer.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// Its underlay address.
    pub peer: IpAddr,
    /// From which bridge to which.
    pub ends: Ends,
    /// By which source port, counted from 0.
    pub path: u8,
    /// What is asked.
    pub what: What<'a>,
}

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub enum What<'a> {
    /// A question of STAMP.
    Stamp {
        /// The question.
        question: Question,
        /// How long the underlay packet is to be, with its IP header; as short as can be if not
        /// set.
        outer_len: Option<u16>,
        /// A question about a packet that goes with it.
        trace: Option<&'a [u8]>,
    },
    /// ICMP echo.
    Echo(Echo),
    /// The answer to a peer's question about a packet.
    Answer {
        /// The answer.
        answer: oam::Answer,
        /// What it says of the packet.
        trace: &'a [u8],
    },
}

/// Why a question was not sent.
#[derive(Debug)]
pub enum Unsent {
    /// It is longer than the device carries.
    TooLong,
    /// The peer is spoken to sealed, and there is no session; one has been asked for.
    NoSession,
    /// The peer is not in the table, may not be spoken to, or has no way to be asked so.
    NoWay,
    /// The kernel refuses.
    Refused(io::Error),
}

/// How a packet between bridges gets to a peer.
pub(crate) struct Way<'a> {
    pub(crate) peer: &'a Peer,
    pub(crate) path: u8,
    /// What it is sealed with, on a node that seals.
    pub(crate) worker: Option<&'a SealedWorker>,
    pub(crate) now: Instant,
}

impl<'a> Way<'a> {
    /// What packets are sealed with, where they are.
    fn keyed(&self) -> Option<&'a Keyed> {
        match &self.peer.seal {
            Seal::Keyed(keyed) if !keyed.may_leave_plain() => Some(keyed),
            Seal::Keyed(_) | Seal::Plain | Seal::NoKey => None,
        }
    }

    /// The length of the inner packet that makes an underlay packet of `outer_len` bytes.
    fn inner_len(&self, outer_len: u16) -> Option<usize> {
        let family = Family::of(self.peer.address());
        let underlay = Mtu::new(outer_len.into()).ok()?;
        let inner = match self.keyed() {
            Some(_) => esp::mtu(underlay, family)?,
            None => underlay.shrink(self.peer.codec.overhead(family))?,
        };
        Some(inner.get().into())
    }
}

/// Longest underlay packet that is ever asked for.
const MAX_DATAGRAM_LEN: usize = u16::MAX as usize;

impl Ask<'_> {
    /// Sends it to its peer, by what `transmit` does with a flow hash and a train.
    pub(crate) fn send(
        &self,
        way: &Way<'_>,
        transmit: &mut dyn FnMut(u32, &Transmit<'_>) -> io::Result<()>,
    ) -> Result<(), Unsent> {
        let family = self.ends.family().ok_or(Unsent::NoWay)?;
        let mut packet = Vec::new();
        let len = match self.what {
            What::Stamp { question, outer_len, trace } => {
                let least = Question::packet_len(family, trace);
                let len = match outer_len {
                    Some(outer_len) => way.inner_len(outer_len).ok_or(Unsent::NoWay)?.max(least),
                    None => least,
                };
                packet.resize(len, 0);
                question.write(self.ends, trace, len, &mut packet)
            }
            What::Echo(echo) => {
                packet.resize(Echo::packet_len(family), 0);
                echo.write(self.ends, &mut packet)
            }
            What::Answer { answer, trace } => {
                packet.resize(oam::MAX_LEN, 0);
                answer.write(self.ends, Some(trace), &mut packet)
            }
        };
        let packet = len.and_then(|len| packet.get(..len)).ok_or(Unsent::NoWay)?;
        match self.what {
            What::Stamp { .. } | What::Answer { .. } => send(way, family, packet, transmit),
            // As if it were a pod's.
            What::Echo(_) => {
                let header = way.peer.codec.header(way.peer.vni, family);
                send_with(way, family, packet, Some(header), transmit)
            }
        }
    }
}

/// Sends what one node says to another, behind a header that no pod can have.
pub(crate) fn send(
    way: &Way<'_>,
    family: Family,
    packet: &[u8],
    transmit: &mut dyn FnMut(u32, &Transmit<'_>) -> io::Result<()>,
) -> Result<(), Unsent> {
    send_with(way, family, packet, way.peer.codec.oam_header(way.peer.vni, family), transmit)
}

/// Sends in the session with the peer, or where there is none behind `header`.
fn send_with(
    way: &Way<'_>,
    family: Family,
    packet: &[u8],
    header: Option<Header>,
    transmit: &mut dyn FnMut(u32, &Transmit<'_>) -> io::Result<()>,
) -> Result<(), Unsent> {
    match way.keyed() {
        Some(keyed) => send_sealed(way, keyed, family, packet, transmit),
        None => {
            let header = header.ok_or(Unsent::NoWay)?;
            send_behind(way, header.as_slice(), packet, transmit)
        }
    }
}

fn send_behind(
    way: &Way<'_>,
    header: &[u8],
    packet: &[u8],
    transmit: &mut dyn FnMut(u32, &Transmit<'_>) -> io::Result<()>,
) -> Result<(), Unsent> {
    if matches!(way.peer.seal, Seal::NoKey) {
        return Err(Unsent::NoWay);
    }
    let parts = [IoSlice::new(header), IoSlice::new(packet)];
    finish(way, way.peer.endpoint, &parts, transmit)
}

fn send_sealed(
    way: &Way<'_>,
    keyed: &Keyed,
    family: Family,
    packet: &[u8],
    transmit: &mut dyn FnMut(u32, &Transmit<'_>) -> io::Result<()>,
) -> Result<(), Unsent> {
    let worker = way.worker.ok_or(Unsent::NoWay)?;
    let outgoing = keyed.link.outgoing();
    let ticket = outgoing.as_ref().and_then(|outgoing| {
        let lane = worker.lane(flow_hash(way.path));
        let ticket = outgoing.take(lane, 1, packet.len(), way.now).ok()?.next()?;
        Some((outgoing, ticket))
    });
    let Some((outgoing, ticket)) = ticket else {
        worker.want(&keyed.link);
        return Err(Unsent::NoSession);
    };
    keyed.link.activity().note_sent(worker.ms(way.now));
    let mut datagram = vec![0; esp::datagram_len(packet.len()).min(MAX_DATAGRAM_LEN)];
    let sealed = outgoing.seal(ticket, Payload::Packet(family), packet, &mut datagram);
    sealed.map_err(|_| Unsent::NoSession)?;
    finish(way, keyed.endpoint, &[IoSlice::new(&datagram)], transmit)
}

fn finish(
    way: &Way<'_>,
    destination: std::net::SocketAddr,
    parts: &[IoSlice<'_>],
    transmit: &mut dyn FnMut(u32, &Transmit<'_>) -> io::Result<()>,
) -> Result<(), Unsent> {
    let train = Transmit { destination, ecn: Ecn::NotEct, segment_size: None, parts };
    transmit(flow_hash(way.path), &train).map_err(|error| match error.raw_os_error() {
        Some(libc::EMSGSIZE) => Unsent::TooLong,
        _ => Unsent::Refused(error),
    })
}

/// A hash that leads by the path; other numbers than those of paths are taken round.
fn flow_hash(path: u8) -> u32 {
    const PATHS: u32 = SENDERS as u32;
    hash_of(u32::from(path) % PATHS)
}

/// What was written on the way is as long as a message can be.
const _: () = assert!(oam::MAX_LEN < MAX_DATAGRAM_LEN);
