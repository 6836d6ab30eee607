//! What tells one flow from another.

use std::net::IpAddr;

use overlay_proto::InnerPacket;

use crate::engine::DropReason;
use crate::tap::{Decision, Observation};

/// What packets of a flow have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// Whether they go from a pod to the wire.
    pub egress: bool,
    /// What becomes of them.
    pub verdict: FlowVerdict,
    /// Whose they are; nothing where the packet cannot be read, as while it is sealed.
    pub inner: Option<Tuple>,
    /// The underlay address that they go to or come from, of a peer or of a stranger; nothing if
    /// they go no further than this node.
    pub outer: Option<IpAddr>,
}

/// What becomes of packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FlowVerdict {
    /// They go to a peer.
    Forward,
    /// They go to a pod.
    Deliver,
    /// They are dropped, and their sender gets an ICMP error.
    Reply(DropReason),
    /// They are dropped.
    Drop(DropReason),
}

/// Addresses, protocol and ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// Where the packets come from.
    pub source: IpAddr,
    /// Where they go.
    pub destination: IpAddr,
    /// The protocol's number.
    pub protocol: u8,
    /// The source port; 0 where there is none, as in a later fragment.
    pub source_port: u16,
    /// The destination port; likewise.
    pub destination_port: u16,
}

/// What a tap is shown, as far as it makes a flow.
pub(super) struct Seen<'a> {
    egress: bool,
    verdict: FlowVerdict,
    inner: Option<&'a [u8]>,
    outer: Option<IpAddr>,
    /// How many packets of the wire it stands for.
    pub(super) packets: usize,
    /// Bytes of the inner packet, or of the datagram where there is none.
    pub(super) len: usize,
}

impl<'a> Seen<'a> {
    /// What counts; nothing if it was shown before, as the datagrams of a packet.
    pub(super) fn of(observation: &Observation<'a>) -> Option<Self> {
        match *observation {
            Observation::Egress { packet, peer, decision } => {
                let (verdict, packets) = match decision {
                    Decision::Forward { datagrams, .. } | Decision::Seal { datagrams, .. } => {
                        (FlowVerdict::Forward, datagrams)
                    }
                    Decision::Reply { reason, .. } => (FlowVerdict::Reply(reason), 1),
                    Decision::Drop(reason) => (FlowVerdict::Drop(reason), 1),
                };
                let outer = peer.map(|peer| peer.address());
                let (inner, len) = (Some(packet), packet.len());
                Some(Self { egress: true, verdict, inner, outer, packets, len })
            }
            Observation::Sent { result: Ok(()), .. } => None,
            Observation::Sent { peer, sealed, datagram, result: Err(reason), .. } => Some(Self {
                egress: true,
                verdict: FlowVerdict::Drop(reason),
                inner: datagram.get(peer.codec.header_len()..).filter(|_| !sealed),
                outer: Some(peer.address()),
                packets: 1,
                len: datagram.len(),
            }),
            Observation::Ingress { source, datagram, peer, sealed, outcome, .. } => {
                let (verdict, inner) = match outcome {
                    Ok(inner) => (FlowVerdict::Deliver, Some(inner)),
                    Err(reason) => {
                        let header_len = peer.map(|peer| peer.codec.header_len());
                        let inner = header_len.and_then(|len| datagram.get(len..));
                        (FlowVerdict::Drop(reason), inner.filter(|_| !sealed))
                    }
                };
                Some(Self {
                    egress: false,
                    verdict,
                    inner,
                    outer: Some(source.ip()),
                    packets: 1,
                    len: inner.map_or(datagram.len(), <[u8]>::len),
                })
            }
            Observation::Lost { packet, reason } => Some(Self {
                egress: false,
                verdict: FlowVerdict::Drop(reason),
                inner: Some(packet),
                outer: None,
                packets: 1,
                len: packet.len(),
            }),
        }
    }

    pub(super) fn is_dropped(&self) -> bool {
        matches!(self.verdict, FlowVerdict::Reply(_) | FlowVerdict::Drop(_))
    }

    /// Reads the packet.
    pub(super) fn key(&self) -> FlowKey {
        let packet = self.inner.and_then(|inner| InnerPacket::parse(inner).ok());
        let tuple = |packet: InnerPacket<'_>| {
            let (source_port, destination_port) = packet.ports().unwrap_or_default();
            Tuple {
                source: packet.source(),
                destination: packet.destination(),
                protocol: packet.protocol(),
                source_port,
                destination_port,
            }
        };
        let Self { egress, verdict, outer, .. } = *self;
        FlowKey { egress, verdict, inner: packet.map(tuple), outer }
    }
}
