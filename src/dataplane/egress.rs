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
use super::train::Key;
use crate::engine::{DropReason, EgressVerdict, Engine};
use crate::platform::tun::{MAX_READ_LEN, VNET_HEADER_LEN};

/// Packets and bytes read in one round, so that the other direction gets its turn.
const ROUND: usize = 64;
const ROUND_BYTES: usize = 128 << 10;

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
                    if let Err(reason) = self.forward(engine, env, len) {
                        env.counters.drops.add(reason, 1);
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
        self.outbox.flush(env);
        outcome
    }

    /// Decides about the packet in the buffer, `len` bytes with its virtio-net header, and puts what
    /// goes to a peer into the outbox.
    fn forward<T: TunPort, U: UnderlayPort>(
        &mut self,
        engine: &mut Engine,
        env: &mut Env<'_, T, U>,
        len: usize,
    ) -> Result<(), DropReason> {
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
        let peer = match engine.handle_tun_packet(env.table, &packet, packet_len, env.now) {
            EgressVerdict::Forward(peer) => peer,
            EgressVerdict::Reply(reply) => {
                if let Some(len) = reply.build(&packet, self.reply.as_mut_slice()) {
                    send_reply(env.tun, env.counters, &self.reply[..len]);
                }
                return Err(reply.reason());
            }
            EgressVerdict::Drop(reason) => return Err(reason),
        };
        let to = env.table.peer(peer);
        let key = Key {
            peer,
            endpoint: to.endpoint,
            ecn: ecn::encapsulate(packet.ecn()),
            flow_hash: packet.flow_hash(),
        };
        let overlay = to.codec.header(to.vni, packet.family());
        let inner_len = packet.len();
        let bytes = &mut bytes[..inner_len];
        match plan {
            None => {
                if let Some(partial) = header.partial {
                    split::finish_checksum(partial, bytes).map_err(|_| DropReason::VnetHeader)?;
                }
                self.outbox.push(env, &key, [overlay.as_slice(), bytes]);
            }
            Some(plan) => {
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
}

impl Default for Egress {
    fn default() -> Self {
        Self::new()
    }
}
