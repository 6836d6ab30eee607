//! What nodes say to each other inside the tunnel: who may say it, and to whom.

use std::net::IpAddr;

use ipnet::IpNet;
use overlay_proto::{DecodeError, InnerPacket, oam};

use super::{DropReason, Engine, Owner, Peer, PeerIndex, Table};

/// The address of a node's bridge in its `subnet`: the first.
pub fn router_of(subnet: &IpNet) -> IpAddr {
    match subnet {
        IpNet::V4(net) => u32::from(net.network()).wrapping_add(1).to_be_bytes().into(),
        IpNet::V6(net) => u128::from(net.network()).wrapping_add(1).to_be_bytes().into(),
    }
}

impl Peer {
    fn has_router(&self, address: IpAddr) -> bool {
        self.subnets().iter().any(|subnet| router_of(subnet) == address)
    }
}

impl Engine {
    /// Decides about a datagram of the peer `sender` whose header was refused for its flags: what a
    /// node says to another comes from its bridge to ours.
    ///
    /// # Errors
    ///
    /// Why the datagram must be dropped.
    pub(crate) fn handle_oam<'p>(
        &self,
        table: &Table,
        sender: PeerIndex,
        datagram: &'p [u8],
    ) -> Result<InnerPacket<'p>, DropReason> {
        let peer = table.peer(sender);
        let decoded = peer.codec.decode_oam(peer.vni, datagram)?;
        let packet = InnerPacket::parse_as(decoded.family, decoded.inner)?;
        if !oam::is_oam(&packet) {
            return Err(DropReason::Header(DecodeError::Flags));
        }
        let is_senders = table.owner(packet.source()) == Some(Owner::Peer(sender));
        if !is_senders || !peer.has_router(packet.source()) {
            return Err(DropReason::SpoofedSource);
        }
        if !table.local().routers.contains(&packet.destination()) {
            return Err(DropReason::NotOurDestination);
        }
        Ok(packet)
    }

    /// Whether a packet of the peer `sender`, which may be delivered otherwise, goes from bridge to
    /// bridge.
    pub(crate) fn is_between_bridges(
        &self,
        table: &Table,
        sender: PeerIndex,
        packet: &InnerPacket<'_>,
    ) -> bool {
        table.local().routers.contains(&packet.destination())
            && table.peer(sender).has_router(packet.source())
    }
}
