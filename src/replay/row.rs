//! What became of one packet of a capture.

use std::fmt::{self, Write as _};

use culvert_dataplane::engine::DropReason;
use overlay_proto::InnerPacket;
use serde::Serialize;

use crate::pcap::NoPacket;

/// Which way a packet goes through the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Direction {
    /// From a pod to the wire.
    Egress,
    /// From the wire to a pod.
    Ingress,
}

impl Direction {
    /// The word for it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Egress => "egress",
            Self::Ingress => "ingress",
        }
    }
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is sent to a peer.
    Forward,
    /// It is delivered to a pod.
    Deliver,
    /// It is dropped, and its sender gets an ICMP error.
    Reply(DropReason),
    /// It is dropped.
    Drop(DropReason),
    /// It never reaches the node's data path.
    Skip(Skip),
}

impl Verdict {
    /// Every word for a verdict.
    pub(crate) const WORDS: [&str; 5] = ["forward", "deliver", "reply", "drop", "skip"];

    /// The word for it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Deliver => "deliver",
            Self::Reply(_) => "reply",
            Self::Drop(_) => "drop",
            Self::Skip(_) => "skip",
        }
    }

    /// Why, if there is a reason.
    pub(crate) fn reason(self) -> Option<Reason> {
        match self {
            Self::Forward | Self::Deliver => None,
            Self::Reply(reason) | Self::Drop(reason) => Some(Reason::Drop(reason)),
            Self::Skip(skip) => Some(Reason::Skip(skip)),
        }
    }
}

/// Why a frame is no packet of the node's data path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Skip {
    /// There is no IP packet in it.
    NoPacket(NoPacket),
    /// A datagram that this node has sent itself.
    OwnDatagram,
    /// It came from another node or this one's data path already, on its way to a pod.
    Delivered,
    /// A fragment of a datagram to the tunnel: the kernel would put it together first.
    OuterFragment,
    /// It is to be taken as ingress but is no UDP datagram.
    NotUdp,
    /// A UDP length that the kernel refuses.
    UdpLength,
    /// It came to the port of what is sealed, and is a handshake, or nobody here has its key.
    Sealed,
    /// It was sealed and carries nothing.
    Dummy,
}

/// A reason of either kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The data path's.
    Drop(DropReason),
    /// The replay's.
    Skip(Skip),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Drop(reason) => f.write_str(reason.as_str()),
            Self::Skip(Skip::NoPacket(reason)) => reason.fmt(f),
            Self::Skip(Skip::OwnDatagram) => f.write_str("own_datagram"),
            Self::Skip(Skip::Delivered) => f.write_str("delivered"),
            Self::Skip(Skip::OuterFragment) => f.write_str("outer_fragment"),
            Self::Skip(Skip::NotUdp) => f.write_str("not_udp"),
            Self::Skip(Skip::UdpLength) => f.write_str("udp_length"),
            Self::Skip(Skip::Sealed) => f.write_str("sealed"),
            Self::Skip(Skip::Dummy) => f.write_str("dummy"),
        }
    }
}

impl Serialize for Reason {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What is told of one packet.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// Its place in the capture, counted from 1.
    pub packet: u64,
    /// When it was captured, in nanoseconds since 1970.
    pub time_ns: u64,
    /// Which way it goes; `None` if it goes none.
    pub direction: Option<Direction>,
    /// What becomes of it.
    pub verdict: Verdict,
    /// The peer that it goes to or comes from; empty if there is none.
    pub peer: String,
    /// Datagrams that it is on the wire.
    pub datagrams: usize,
    /// Bytes that these have, IP headers included.
    pub wire_bytes: usize,
    /// Bytes of the IP packet that was captured: the inner one of egress, the outer one of ingress.
    pub packet_bytes: usize,
    /// Bytes of the frame that the capture has, if it was cut off there.
    pub captured: Option<usize>,
    /// Addresses and ports of the inner packet; empty if it has none.
    pub flow: String,
}

impl Row {
    /// Sets addresses, ports and protocol from the inner packet.
    pub(super) fn describe(&mut self, inner: &[u8]) {
        self.flow.clear();
        let Ok(packet) = InnerPacket::parse(inner) else { return };
        let protocol = match packet.protocol() {
            1 => "icmp",
            6 => "tcp",
            17 => "udp",
            58 => "icmpv6",
            132 => "sctp",
            _ => "ip",
        };
        let (source, destination) = (packet.source(), packet.destination());
        // Writing to a string cannot fail.
        let _ = match packet.ports() {
            Some((from, to)) => {
                write!(self.flow, "{protocol} {source} {from} > {destination} {to}")
            }
            None => write!(self.flow, "{protocol} {source} > {destination}"),
        };
    }

    /// The JSON object of the row.
    pub(super) fn json(&self) -> Json<'_> {
        Json {
            schema: 1,
            packet: self.packet,
            time_ns: self.time_ns,
            direction: self.direction,
            verdict: self.verdict.as_str(),
            reason: self.verdict.reason(),
            peer: (!self.peer.is_empty()).then_some(&self.peer),
            datagrams: self.datagrams,
            wire_bytes: self.wire_bytes,
            packet_bytes: self.packet_bytes,
            truncated_to: self.captured,
            flow: (!self.flow.is_empty()).then_some(&self.flow),
        }
    }
}

/// A row as programs read it.
#[derive(Debug, Serialize)]
pub(super) struct Json<'a> {
    /// Grows when a program that reads it would have to change.
    schema: u32,
    packet: u64,
    time_ns: u64,
    direction: Option<Direction>,
    verdict: &'static str,
    reason: Option<Reason>,
    peer: Option<&'a str>,
    datagrams: usize,
    wire_bytes: usize,
    packet_bytes: usize,
    truncated_to: Option<usize>,
    flow: Option<&'a str>,
}

/// The row as a line of an expectation: every field that it has.
impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(direction) = self.direction {
            write!(f, "{} ", direction.as_str())?;
        }
        f.write_str(self.verdict.as_str())?;
        if let Some(reason) = self.verdict.reason() {
            write!(f, " reason={reason}")?;
        }
        if !self.peer.is_empty() {
            write!(f, " peer={}", self.peer)?;
        }
        if self.datagrams > 1 {
            write!(f, " datagrams={}", self.datagrams)?;
        }
        if self.wire_bytes > 0 {
            write!(f, " wire={}", self.wire_bytes)?;
        }
        if let Some(captured) = self.captured {
            write!(f, " truncated={captured}")?;
        }
        Ok(())
    }
}
