//! Pod to wire: packets read from a TUN queue leave as trains of datagrams.
//!
//! A packet is read, decided about, cut apart if it is a super-packet, and put into a train (see
//! [`Outbox`]) before the next is read, so that one buffer serves all and stays in the cache.

use overlay_proto::{Codec, InnerPacket, ecn, icmp};

use super::io_error::{Class, classify};
use super::offload::split::{self, SplitPlan};
use super::offload::{Gso, VnetHeader};
use super::outbox::Outbox;
use super::port::{TunPort, UnderlayPort};
use super::round::{Env, Round, send_reply};
use super::tap::{Decision, Observation, intended};
use super::train::Key;
use crate::engine::{DropReason, EgressVerdict, Engine, Peer};
use crate::platform::tun::{MAX_READ_LEN, VNET_HEADER_LEN};

/// Packets and bytes read in one round, so that the other direction gets its turn.
const ROUND: usize = 64;
const ROUND_BYTES: usize = 256 << 10;

/// The egress half of a worker.
pub struct Egress {
    packet: Box<[u8]>,
    outbox: Outbox,
    reply: Box<[u8; icmp::MAX_LEN]>,
}

impl Egress {
    /// Makes the buffers.
    pub fn new() -> Self {
        Self {
            packet: vec![0; MAX_READ_LEN].into(),
            outbox: Outbox::new(),
            reply: Box::new([0; icmp::MAX_LEN]),
        }
    }

    /// Sends each datagram by itself from now on.
    pub fn without_trains(&mut self) {
        self.outbox.without_trains();
    }

    /// Whether the kernel is trusted to cut trains apart.
    pub fn sends_trains(&self) -> bool {
        self.outbox.sends_trains()
    }

    /// Reads what is there, up to a limit, and sends it.
    pub fn round<T: TunPort, U: UnderlayPort>(
        &mut self,
        engine: &mut Engine,
        env: &mut Env<'_, T, U>,
    ) -> Round {
        let mut outcome = Round::More;
        let (mut packets, mut octets) = (0, 0);
        while outcome == Round::More && packets < ROUND && octets < ROUND_BYTES {
            match env.tun.recv(&mut self.packet) {
                Ok(len) => {
                    packets += 1;
                    octets += len;
                    if let Err(stop) = self.forward(engine, env, len) {
                        self.stop(env, len, stop);
                    }
                }
                Err(error) => match classify(&error) {
                    Class::Empty => outcome = Round::Idle,
                    Class::Gone => outcome = Round::Gone,
                    Class::Full | Class::TooBig | Class::Unsupported | Class::Refused => {
                        outcome = Round::Idle;
                        tracing::debug!(%error, "reading from the TUN device failed");
                    }
                },
            }
        }
        env.octets += octets;
        self.outbox.flush(env);
        outcome
    }

    /// Decides about the packet in the buffer, `len` bytes with its virtio-net header, and puts
    /// what goes to a peer into the outbox.
    fn forward<T: TunPort, U: UnderlayPort>(
        &mut self,
        engine: &mut Engine,
        env: &mut Env<'_, T, U>,
        len: usize,
    ) -> Result<(), Stop> {
        let bytes = &mut self.packet[..len];
        let (header, bytes) =
            bytes.split_first_chunk_mut::<VNET_HEADER_LEN>().ok_or(DropReason::VnetHeader)?;
        let header = VnetHeader::decode(header).map_err(|_| DropReason::VnetHeader)?;
        let packet = InnerPacket::parse(bytes)?;
        let plan = match header.gso {
            Gso::None => None,
            Gso::Tcp4 | Gso::Tcp6 | Gso::Udp => {
                Some(SplitPlan::new(&header, &packet).map_err(|_| DropReason::VnetHeader)?)
            }
        };
        let packet_len = plan.as_ref().map_or(packet.len(), SplitPlan::packet_len);
        let packets = plan.as_ref().map_or(1, SplitPlan::count) as u64;
        let peer = match engine.handle_tun_packet(env.table, &packet, packet_len, env.now) {
            EgressVerdict::Forward(peer) => peer,
            EgressVerdict::Reply(reply) => {
                let reply_len = reply.build(&packet, self.reply.as_mut_slice());
                if let Some(len) = reply_len {
                    send_reply(env.tun, env.counters, &self.reply[..len]);
                }
                return Err(Stop { reason: reply.reason(), packets, reply_len });
            }
            EgressVerdict::Drop(reason) => {
                return Err(Stop { reason, packets, reply_len: None });
            }
        };
        let to = env.table.peer(peer);
        let key = Key {
            peer,
            endpoint: to.endpoint,
            ecn: ecn::encapsulate(packet.ecn()),
            flow_hash: packet.flow_hash(),
        };
        let overlay = to.codec.header(to.vni, packet.family());
        let (inner_len, transport_offset) = (packet.len(), packet.transport_offset());
        let bytes = &mut bytes[..inner_len];
        match plan {
            None => {
                if let Some(partial) = header.partial {
                    // A pod that writes virtio-net headers of its own (packet(7), PACKET_VNET_HDR)
                    // chooses the place. Addresses were decided about; they must not change now.
                    if usize::from(partial.start) < transport_offset {
                        return Err(DropReason::VnetHeader.into());
                    }
                    split::finish_checksum(partial, bytes).map_err(|_| DropReason::VnetHeader)?;
                }
                show(env, to, bytes, 1, key.flow_hash);
                self.outbox.push(env, &key, [overlay.as_slice(), bytes]);
            }
            Some(plan) => {
                show(env, to, bytes, plan.count(), key.flow_hash);
                let mut space = [0; Codec::MAX_HEADER_LEN + split::MAX_HEADER_LEN];
                let overlay = overlay.as_slice();
                let headers = &mut space[..overlay.len() + plan.header_len()];
                headers[..overlay.len()].copy_from_slice(overlay);
                for index in 0..plan.count() {
                    plan.write_header(bytes, index, &mut headers[overlay.len()..]);
                    let payload = &bytes[plan.payload(index)];
                    self.outbox.push(env, &key, [headers, payload]);
                }
            }
        }
        Ok(())
    }

    /// Counts the packet in the buffer, which goes no further.
    fn stop<T, U>(&self, env: &Env<'_, T, U>, len: usize, stop: Stop) {
        let Stop { reason, packets, reply_len } = stop;
        env.counters.drops.add(reason, packets);
        if let Some(tap) = env.tap {
            let packet = self.packet.get(VNET_HEADER_LEN..len).unwrap_or_default();
            let decision = match reply_len {
                Some(len) => Decision::Reply { reason, reply: &self.reply[..len] },
                None => Decision::Drop(reason),
            };
            tap.observe(&Observation::Egress {
                packet,
                peer: intended(env.table, packet),
                decision,
            });
        }
    }
}

/// Why what was read goes no further, how many packets it stands for (a super-packet is several),
/// and how long the answer to it is, if it gets one.
struct Stop {
    reason: DropReason,
    packets: u64,
    reply_len: Option<usize>,
}

impl<E: Into<DropReason>> From<E> for Stop {
    fn from(reason: E) -> Self {
        Self { reason: reason.into(), packets: 1, reply_len: None }
    }
}

fn show<T, U>(env: &Env<'_, T, U>, peer: &Peer, packet: &[u8], datagrams: usize, flow_hash: u32) {
    if let Some(tap) = env.tap {
        let decision = Decision::Forward { datagrams, flow_hash };
        tap.observe(&Observation::Egress { packet, peer: Some(peer), decision });
    }
}

impl Default for Egress {
    fn default() -> Self {
        Self::new()
    }
}
