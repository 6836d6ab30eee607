//! What must become of each packet, worked out the slow way from the operator's view of the table.
//!
//! It shares nothing with the engine but the names of the reasons.

use std::collections::BTreeMap;
use std::net::IpAddr;

use culvert_dataplane::engine::DropReason;
use overlay_proto::{DecodeError, InnerError};

use crate::cluster::Version;
use crate::packet::{Read, addresses, fragments, lies_beyond, set_ecn};

/// Header, UDP and outer IP.
const GPE: u16 = 8 + 8;

const NOT_ECT: u8 = 0b00;
const ECT_1: u8 = 0b01;
const ECT_0: u8 = 0b10;
const CE: u8 = 0b11;

/// One node's view at one moment.
pub(crate) struct View<'a> {
    pub(crate) me: usize,
    pub(crate) version: &'a Version,
    pub(crate) vni: u32,
    pub(crate) v6_underlay: bool,
    /// Underlay MTU toward each node, as its control last read it.
    pub(crate) path_mtu: &'a BTreeMap<usize, u16>,
}

/// What must become of a packet that the worker reads from the TUN queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Egress {
    /// Each packet in one datagram, or in several with a fragment each.
    Forward {
        to: usize,
        datagrams: Vec<Vec<Vec<u8>>>,
    },
    Drop(DropReason),
    /// Dropped, and its sender is told: the MTU, or that nobody has the address.
    Reply(DropReason, Option<u16>),
}

impl View<'_> {
    /// Longest inner packet toward `node`.
    fn mtu(&self, node: usize) -> u16 {
        let outer_ip = if self.v6_underlay { 40 } else { 20 };
        self.path_mtu.get(&node).copied().unwrap_or(1500) - GPE - outer_ip
    }

    pub(crate) fn egress(&self, read: &Read) -> Egress {
        let (source, destination) = addresses(&read.packets[0]);
        if destination.is_multicast() {
            return Egress::Drop(DropReason::Multicast);
        }
        if !self.may_send(self.me, source) {
            return Egress::Drop(DropReason::ForeignSource);
        }
        let Some(to) = self.version.owner(destination) else {
            return self.reply(source, DropReason::NoOwner, None);
        };
        if to == self.me {
            return Egress::Drop(DropReason::OwnSubnet);
        }
        let longest = read.packets.iter().map(Vec::len).max().unwrap();
        // IPv6 knows no MTU below 1280.
        let mtu = self.mtu(to).max(if source.is_ipv6() { 1280 } else { 0 });
        if longest > usize::from(mtu) {
            if read.dont_fragment {
                return self.reply(source, DropReason::TooBig, Some(mtu));
            }
            if read.packets.iter().any(|packet| lies_beyond(packet)) {
                return Egress::Drop(DropReason::TooBig);
            }
        }
        let datagrams = |packet: &Vec<u8>| {
            let pieces = fragments(packet, mtu.into());
            pieces.iter().map(|piece| self.datagram(piece)).collect()
        };
        Egress::Forward { to, datagrams: read.packets.iter().map(datagrams).collect() }
    }

    /// A node sends what its pods send, and what it sends itself from its own address.
    fn may_send(&self, node: usize, source: IpAddr) -> bool {
        match self.version.owner(source) {
            Some(owner) => owner == node,
            None => self.version.entry(node).is_some_and(|entry| entry.address == source),
        }
    }

    /// A reply needs an address of this node's to come from.
    fn reply(&self, source: IpAddr, reason: DropReason, mtu: Option<u16>) -> Egress {
        let has_router = self.version.entry(self.me).is_some_and(|entry| {
            entry.subnets.iter().any(|net| net.addr().is_ipv4() == source.is_ipv4())
        });
        if has_router { Egress::Reply(reason, mtu) } else { Egress::Drop(reason) }
    }

    /// A packet as it must stand on the wire.
    pub(crate) fn datagram(&self, packet: &[u8]) -> Vec<u8> {
        let next = if packet[0] >> 4 == 4 { 1 } else { 2 };
        let [_, v0, v1, v2] = self.vni.to_be_bytes();
        [&[0x0c, 0, 0, next, v0, v1, v2, 0], packet].concat()
    }

    /// What must be delivered for a datagram of the node `sender` (`None` for a stranger), or why
    /// nothing is.
    pub(crate) fn ingress(
        &self,
        sender: Option<usize>,
        outer_ecn: u8,
        datagram: &[u8],
    ) -> Result<Vec<u8>, DropReason> {
        let known = |node: &usize| *node != self.me && self.version.entry(*node).is_some();
        let sender = sender.filter(known).ok_or(DropReason::UnknownPeer)?;
        let next = self.header(datagram).map_err(DropReason::Header)?;
        let mut packet = inner(next, &datagram[8..]).map_err(DropReason::Inner)?;
        let (source, destination) = addresses(&packet);
        if !self.may_send(sender, source) {
            return Err(DropReason::SpoofedSource);
        }
        if self.version.owner(destination) != Some(self.me) {
            return Err(DropReason::NotOurDestination);
        }
        let own = if packet[0] >> 4 == 4 { packet[1] & 3 } else { (packet[1] >> 4) & 3 };
        // RFC 6040 §4.2, figure 4.
        let mark = match (own, outer_ecn) {
            (NOT_ECT, CE) => return Err(DropReason::Congestion),
            (ECT_0 | ECT_1, CE) => CE,
            (ECT_0, ECT_1) => ECT_1,
            (own, _) => own,
        };
        if mark != own {
            set_ecn(&mut packet, mark);
        }
        Ok(packet)
    }

    /// Checks the overlay header and returns the number of the protocol behind it.
    fn header(&self, datagram: &[u8]) -> Result<u8, DecodeError> {
        let [flags, r1, r2, next, v0, v1, v2, r3, ..] = *datagram else {
            return Err(DecodeError::TooShort);
        };
        if flags & 0x30 != 0 {
            Err(DecodeError::Version)
        } else if flags & 0x0f != 0x0c {
            Err(DecodeError::Flags)
        } else if flags & 0xc0 != 0 || [r1, r2, r3] != [0; 3] {
            Err(DecodeError::Reserved)
        } else if !matches!(next, 1 | 2) {
            Err(DecodeError::NextProtocol)
        } else if u32::from_be_bytes([0, v0, v1, v2]) != self.vni {
            Err(DecodeError::Vni)
        } else {
            Ok(next)
        }
    }
}

/// Takes the one whole packet at the start of `bytes`.
fn inner(next: u8, bytes: &[u8]) -> Result<Vec<u8>, InnerError> {
    let first = bytes.first().ok_or(InnerError::TooShort)?;
    let expected = if next == 1 { 4 } else { 6 };
    let len = match first >> 4 {
        4 | 6 if first >> 4 != expected => return Err(InnerError::FamilyMismatch),
        4 if bytes.len() < 20 => return Err(InnerError::TooShort),
        6 if bytes.len() < 40 => return Err(InnerError::TooShort),
        4 => {
            let header = usize::from(first & 0x0f) * 4;
            let total = usize::from(u16::from_be_bytes([bytes[2], bytes[3]]));
            if header < 20 {
                return Err(InnerError::HeaderLength);
            }
            if total < header {
                return Err(InnerError::TotalLength);
            }
            total
        }
        6 => {
            let payload = usize::from(u16::from_be_bytes([bytes[4], bytes[5]]));
            if payload == 0 && bytes[6] == 0 {
                return Err(InnerError::Jumbogram);
            }
            40 + payload
        }
        _ => return Err(InnerError::Version),
    };
    bytes.get(..len).map(<[u8]>::to_vec).ok_or(InnerError::Truncated)
}
