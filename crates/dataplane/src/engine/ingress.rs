//! Wire to pod: the checks between a datagram and a pod, in the order of `docs/wire-format.md`.

use overlay_proto::{Codec, Ecn, Family, InnerPacket, Vni, ecn};

use super::{DropReason, Engine, Owner, PeerIndex, Table};

/// A packet that may be delivered.
#[derive(Debug)]
pub struct Delivery<'p> {
    /// The inner packet.
    pub packet: InnerPacket<'p>,
    /// The mark that the inner packet must get first, if it differs from the one it has.
    pub mark: Option<Ecn>,
}

impl Engine {
    /// Decides about one datagram of the peer `sender`, whom the caller has looked up by its outer
    /// source (see [`Table::sender`]) and reads by what it is heard in (see [`Peer::heard_in`]);
    /// `outer_ecn` is the outer header's mark.
    ///
    /// [`Peer::heard_in`]: super::Peer::heard_in
    ///
    /// # Errors
    ///
    /// Why the datagram must be dropped.
    pub fn handle_udp_datagram<'p>(
        &self,
        table: &Table,
        sender: PeerIndex,
        (codec, vni): (Codec, Vni),
        outer_ecn: Ecn,
        datagram: &'p [u8],
    ) -> Result<Delivery<'p>, DropReason> {
        let decoded = codec.decode(vni, datagram)?;
        self.handle_inner(table, sender, outer_ecn, decoded.family, decoded.inner)
    }

    /// Decides about what was in a datagram of the peer `sender`: behind its header, or sealed.
    ///
    /// # Errors
    ///
    /// Why it must be dropped.
    pub fn handle_inner<'p>(
        &self,
        table: &Table,
        sender: PeerIndex,
        outer_ecn: Ecn,
        family: Family,
        inner: &'p [u8],
    ) -> Result<Delivery<'p>, DropReason> {
        let peer = table.peer(sender);
        let packet = InnerPacket::parse_as(family, inner)?;
        // The owner by longest match must be the sender: that the source is somewhere inside one of
        // the sender's subnets would not do if another node owned a longer prefix of it.
        let is_senders = match table.owner(packet.source()) {
            Some(owner) => owner == Owner::Peer(sender),
            // What the node itself answers pods with, where they reach it without masquerade.
            None => packet.source() == peer.address(),
        };
        if !is_senders {
            return Err(DropReason::SpoofedSource);
        }
        if table.owner(packet.destination()) != Some(Owner::Local) {
            return Err(DropReason::NotOurDestination);
        }
        let inner_ecn = packet.ecn();
        let mark = ecn::decapsulate(inner_ecn, outer_ecn).map_err(|_| DropReason::Congestion)?;
        Ok(Delivery { packet, mark: (mark != inner_ecn).then_some(mark) })
    }
}
