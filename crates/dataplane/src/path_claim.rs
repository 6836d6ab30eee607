//! Claims of the network that a path carries less than its route says, and which of them can be
//! true.

use std::net::IpAddr;

use overlay_proto::Family;
use overlay_proto::esp::{self, Spi};

use super::outer::Outer;
use super::round::Notice;
use crate::engine::{Keyed, Peer, Seal, Table};
use crate::platform::udp::{Report, ReportKind};

/// Somebody says that a packet of ours is too long for the way to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathClaim {
    /// The peer.
    pub peer: IpAddr,
    /// What the path is said to carry: underlay packets of so many bytes.
    pub mtu: u16,
}

/// What control should know of a report, if it can be true.
pub(super) fn notice_of(report: &Report, table: &Table) -> Option<Notice> {
    match report.kind {
        ReportKind::TooBig(_) => PathClaim::of(report, table).map(Notice::PathClaim),
        ReportKind::PortUnreachable => {
            let peer = table.peer(table.sender(report.destination.ip())?);
            let sealed = match &peer.seal {
                Seal::Keyed(keyed) => Some(keyed.endpoint),
                Seal::Plain | Seal::NoKey => None,
            };
            let ends = [Some(peer.endpoint), sealed];
            ends.contains(&Some(report.destination)).then_some(Notice::Unreachable(peer.address()))
        }
        ReportKind::Other => None,
    }
}

impl PathClaim {
    /// What `report` claims, unless that cannot be: the quoted datagram must be one that this table
    /// sends to a peer, longer than what the path is said to carry and no longer than what this
    /// node sends there.
    pub(super) fn of(report: &Report, table: &Table) -> Option<Self> {
        let ReportKind::TooBig(mtu) = report.kind else { return None };
        let peer = table.peer(table.sender(report.destination.ip())?);
        if let Seal::Keyed(keyed) = &peer.seal
            && report.destination == keyed.endpoint
        {
            return Self::of_sealed(mtu, report, peer, keyed);
        }
        let (family, inner) = [Family::V4, Family::V6].into_iter().find_map(|family| {
            let header = peer.codec.header(peer.vni, family);
            Some((family, report.quote().strip_prefix(header.as_slice())?))
        })?;
        let inner_len = inner_len(inner)?;
        let packet_len = inner_len + peer.codec.overhead(Family::of(peer.address())).get();
        let mtu = u16::try_from(mtu).ok()?;
        let can_be = report.destination == peer.endpoint
            && mtu < packet_len
            && peer.mtu_for(family).fits(usize::from(inner_len));
        can_be.then_some(Self { peer: peer.address(), mtu })
    }

    /// The same of a sealed datagram: it must be of the session that serves. How long it was it
    /// does not tell.
    fn of_sealed(mtu: u32, report: &Report, peer: &Peer, keyed: &Keyed) -> Option<Self> {
        let (spi, _) = report.quote().split_first_chunk::<4>()?;
        let slot = Spi::from_bits(u32::from_be_bytes(*spi))?.slot();
        let outgoing = keyed.link.outgoing();
        let mtu = u16::try_from(mtu).ok()?;
        let longest = peer.mtu_for(Family::V6).max(peer.mtu_for(Family::V4)).get();
        let longest = Outer::len_on(Family::of(peer.address())) + esp::datagram_len(longest.into());
        let can_be = outgoing.as_ref().is_some_and(|outgoing| outgoing.slot() == slot)
            && usize::from(mtu) < longest;
        can_be.then_some(Self { peer: peer.address(), mtu })
    }
}

/// The length that the begin of an inner packet says it has.
fn inner_len(packet: &[u8]) -> Option<u16> {
    match packet.first()? >> 4 {
        4 => Some(u16::from_be_bytes(*packet.get(2..)?.first_chunk()?)),
        6 => u16::from_be_bytes(*packet.get(4..)?.first_chunk()?).checked_add(40),
        _ => None,
    }
}
