//! Where others look at single packets as the data path decides about them.
//!
//! The data path tells a [`Tap`], if there is one, what it sees, and waits for nothing. It is
//! called by the thread that moves the packets, in the order in which it decides; a tap must
//! neither block nor keep what it is shown. Without one the cost is a test for `None` for each
//! packet.

use std::net::{IpAddr, SocketAddr};

use overlay_proto::{Ecn, InnerPacket};

use crate::engine::{DropReason, Owner, Peer, Table};

/// Somebody who looks.
pub trait Tap {
    /// Is shown one thing.
    fn observe(&self, observation: &Observation<'_>);

    /// Whether it looks at datagrams as they are on the wire, which takes a look at each datagram
    /// of a train and a copy of each that is opened. Without, it is not shown what the underlay
    /// took, and of what is opened the length alone: the bytes are zero.
    fn wants_datagrams(&self) -> bool {
        true
    }
}

/// What there is to see.
#[derive(Clone, Copy, Debug)]
pub enum Observation<'a> {
    /// A packet that came from the pods' side was decided about. Exactly one for each packet read;
    /// of one that waits for a session, when it has waited.
    Egress {
        /// The packet from its IP header on; a super-packet whole, with its checksum unfinished.
        packet: &'a [u8],
        /// The peer that owns its destination, as far as that was found out.
        peer: Option<&'a Peer>,
        /// What becomes of it.
        decision: Decision<'a>,
    },
    /// A datagram was handed to the underlay. Those of one packet follow its
    /// [`Observation::Egress`], though not at once; those toward one peer that leave by one source
    /// port do in the order of their packets.
    Sent {
        /// Whom it is for.
        peer: &'a Peer,
        /// Where it goes.
        endpoint: SocketAddr,
        /// Whether it is sealed, and not the peer's codec.
        sealed: bool,
        /// The outer mark.
        ecn: Ecn,
        /// Which source port it leaves by.
        flow_hash: u32,
        /// The UDP payload.
        datagram: &'a [u8],
        /// Whether the underlay took it, or why not.
        result: Result<(), DropReason>,
    },
    /// A datagram from the underlay was decided about. Exactly one for each datagram received,
    /// unless it carries no packet: handshakes, and what only says that a peer lives.
    Ingress {
        /// Its outer source.
        source: SocketAddr,
        /// The port of this node that it came to.
        port: u16,
        /// The outer mark.
        ecn: Ecn,
        /// The UDP payload.
        datagram: &'a [u8],
        /// The peer that sent it, if the outer source is one, or whose session it is of.
        peer: Option<&'a Peer>,
        /// Whether it came to the port for what is sealed.
        sealed: bool,
        /// The inner packet as it is delivered, or why it is not.
        outcome: Result<&'a [u8], DropReason>,
    },
    /// A packet that was to be delivered was refused by the TUN device.
    Lost {
        /// The inner packet.
        packet: &'a [u8],
        /// Why.
        reason: DropReason,
    },
}

/// What becomes of a packet of a pod.
#[derive(Clone, Copy, Debug)]
pub enum Decision<'a> {
    /// It goes to the peer in so many datagrams.
    Forward {
        /// More than one for a super-packet, or one that is fragmented.
        datagrams: usize,
        /// Which source port they leave by.
        flow_hash: u32,
    },
    /// It would be sealed and go to the peer, but there is nobody who has keys: a rehearsal.
    Seal {
        /// More than one for a super-packet, or one that is fragmented.
        datagrams: usize,
        /// Which source port they leave by.
        flow_hash: u32,
        /// Whether there is a session, so that it would not have to wait for one.
        is_ready: bool,
    },
    /// It is dropped, and its sender gets this ICMP error.
    Reply {
        /// Why.
        reason: DropReason,
        /// The error from its IP header on.
        reply: &'a [u8],
    },
    /// It is dropped.
    Drop(DropReason),
}

/// Whom `packet` is from, if that can be read.
pub(super) fn source_of(packet: &[u8]) -> Option<IpAddr> {
    Some(InnerPacket::parse(packet).ok()?.source())
}

/// The peer that owns the destination of `packet`, which was not sent there.
pub(super) fn intended<'t>(table: &'t Table, packet: &[u8]) -> Option<&'t Peer> {
    match table.owner(InnerPacket::parse(packet).ok()?.destination())? {
        Owner::Peer(peer) => Some(table.peer(peer)),
        Owner::Local => None,
    }
}
