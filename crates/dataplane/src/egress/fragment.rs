//! Packets that are longer than the path to their peer carries, and may be fragmented.
//!
//! A router fragments them (RFC 791 §3.2, RFC 1812 §5.2.6): where a node's kernel has put the
//! fragments of a pod together (conntrack, `bridge-nf-call-iptables`), its sender cannot do better,
//! and what came as fragments is never answered. Of a super-packet each packet that is too long is
//! fragmented by itself.

use overlay_proto::{Fragments, InnerPacket, Mtu};

use super::{Egress, Halt, Stop, count_of, finish, header_of, key_of, plan_of, rehearse, show};
use crate::engine::{DropReason, PeerIndex, Seal};
use crate::offload::split::SplitPlan;
use crate::platform::tun::VNET_HEADER_LEN;
use crate::port::UnderlayPort;
use crate::round::Env;

impl Egress {
    /// Puts the fragments of the packet in the buffer, `len` bytes with its virtio-net header, into
    /// the outbox.
    #[inline(never)]
    pub(super) fn fragment<T, U: UnderlayPort>(
        &mut self,
        env: &mut Env<'_, T, U>,
        len: usize,
        peer: PeerIndex,
    ) -> Result<(), Halt> {
        let (header, bytes) = header_of(&self.packet[..len])?;
        let packet = InnerPacket::parse(bytes)?;
        let plan = plan_of(&header, &packet)?;
        let to = env.table.peer(peer);
        let (family, mtu) = (packet.family(), to.mtu_for(packet.family()));
        let Some(count) = fragments_of(&packet, plan.as_ref(), mtu) else {
            let packets = count_of(plan.as_ref());
            return Err(Stop { reason: DropReason::TooBig, packets, reply_len: None }.into());
        };
        let mut key = key_of(to, peer, &packet);
        let (packet_len, transport_offset) = (packet.len(), packet.transport_offset());
        let bytes = &mut self.packet[VNET_HEADER_LEN..VNET_HEADER_LEN + packet_len];
        let mut session = None;
        if let Seal::Keyed(keyed) = &to.seal {
            let Some(sealer) = &self.sealer else {
                rehearse(env, to, keyed, bytes, count, key.flow_hash);
                return Ok(());
            };
            session = sealer.session(keyed, &key, count, mtu.get().into()).map_err(Halt::Hold)?;
        }
        if let Some(session) = &session {
            (key.endpoint, key.sealed) = (session.endpoint, true);
        }
        finish(header.partial.filter(|_| plan.is_none()), transport_offset, bytes)?;
        show(env, to, bytes, count, key.flow_hash);
        let overlay = to.codec.header(to.vni, family);
        let outbox = &mut self.outbox;
        let mut send = |packet: &mut [u8]| {
            // The plan was made with a packet like it.
            let planned = InnerPacket::parse(packet).ok().and_then(|p| Fragments::new(&p, mtu));
            let Some(mut fragments) = planned else { return };
            let mut made = 0;
            while let Some(fragment) = fragments.next_in(packet) {
                made += 1;
                match &mut session {
                    Some(session) => session.seal(outbox, env, &key, family, fragment),
                    None => outbox.push(env, &key, [overlay.as_slice(), fragment]),
                }
            }
            if made > 1 {
                env.counters.add_fragmented(made);
            }
        };
        match plan {
            None => send(bytes),
            Some(plan) => plan.for_each_in_place(bytes, send),
        }
        Ok(())
    }
}

/// How many fragments leave for what was read; what fits is one. None if it cannot be fragmented.
fn fragments_of(packet: &InnerPacket<'_>, plan: Option<&SplitPlan>, mtu: Mtu) -> Option<usize> {
    let fragments = Fragments::new(packet, mtu)?;
    let Some(plan) = plan else { return Some(fragments.count_of(packet.len())) };
    let last = plan.count() - 1;
    let last_len = plan.header_len() + plan.payload(last).len();
    Some(last * fragments.count_of(plan.packet_len()) + fragments.count_of(last_len))
}
