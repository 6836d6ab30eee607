//! Pod to wire: which peer a packet goes to, or what becomes of it instead.

use std::time::Instant;

use overlay_proto::InnerPacket;

use super::reply::Message;
use super::{DropReason, Engine, Owner, PeerIndex, Reply, Seal, Table};

/// What to do with a packet that pods or this node sent into the overlay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EgressVerdict {
    /// Send it to this peer of the table.
    Forward(PeerIndex),
    /// Send it to this peer in fragments that are no longer than the path to it carries.
    Fragment(PeerIndex),
    /// Drop it and tell its sender.
    Reply(Reply),
    /// Drop it.
    Drop(DropReason),
}

impl Engine {
    /// Decides about a packet read from the TUN device. Of a super-packet, `packet_len` is the
    /// length of the longest packet that it will be cut into; otherwise it is the packet's own.
    pub fn handle_tun_packet(
        &mut self,
        table: &Table,
        packet: &InnerPacket<'_>,
        packet_len: usize,
        now: Instant,
    ) -> EgressVerdict {
        let destination = packet.destination();
        if destination.is_multicast() {
            return EgressVerdict::Drop(DropReason::Multicast);
        }
        let is_ours = match table.owner(packet.source()) {
            Some(owner) => owner == Owner::Local,
            // What this node itself answers other nodes' pods with.
            None => packet.source() == table.local().address,
        };
        if !is_ours {
            return EgressVerdict::Drop(DropReason::ForeignSource);
        }
        let (reason, message) = match table.owner(destination) {
            Some(Owner::Local) => return EgressVerdict::Drop(DropReason::OwnSubnet),
            Some(Owner::Peer(index)) => {
                let peer = table.peer(index);
                let mtu = peer.mtu_for(packet.family());
                if matches!(peer.seal, Seal::NoKey) {
                    (DropReason::NoKey, Message::Prohibited)
                } else if mtu.fits(packet_len) {
                    return EgressVerdict::Forward(index);
                } else if !packet.dont_fragment() {
                    return EgressVerdict::Fragment(index);
                } else {
                    (DropReason::TooBig, Message::TooBig(mtu))
                }
            }
            None => (DropReason::NoOwner, Message::NoRoute),
        };
        self.answer(table, packet, reason, message, now)
    }

    /// What becomes of a packet that must be sealed and has waited for a session in vain.
    pub fn give_up(
        &mut self,
        table: &Table,
        packet: &InnerPacket<'_>,
        now: Instant,
    ) -> EgressVerdict {
        self.answer(table, packet, DropReason::NoSession, Message::NoSession, now)
    }

    /// Drops a packet and tells its sender, if that may be.
    fn answer(
        &mut self,
        table: &Table,
        packet: &InnerPacket<'_>,
        reason: DropReason,
        message: Message,
        now: Instant,
    ) -> EgressVerdict {
        match table.local().router_address(packet.family()) {
            Some(source) if self.replies.take(now) => {
                EgressVerdict::Reply(Reply { source, message })
            }
            Some(_) | None => EgressVerdict::Drop(reason),
        }
    }
}
