//! Pod to wire: packets read from a TUN queue leave as trains of datagrams.
//!
//! A packet is read, decided about, cut apart if it is a super-packet, and put into a train (see
//! [`Outbox`]) before the next is read, so that one buffer serves all and stays in the cache.

mod fragment;

use std::sync::Arc;
use std::time::Instant;

use culvert_seal::session::PeerLink;
use overlay_proto::{Codec, InnerPacket, ecn, icmp};

use super::io_error::{Class, classify};
use super::offload::split::{self, SplitPlan};
use super::offload::{Gso, PartialChecksum, VnetHeader};
use super::outbox::Outbox;
use super::port::{TunPort, UnderlayPort};
use super::round::{Env, Round, send_reply};
use super::sealed::{HeldPackets, SealedWorker, Sealer};
use super::tap::{Decision, Observation, intended, source_of};
use super::train::Key;
use crate::engine::{DropReason, EgressVerdict, Engine, Keyed, Peer, PeerIndex, Seal};
use crate::platform::tun::{MAX_READ_LEN, VNET_HEADER_LEN};

/// Packets and bytes read in one round, so that the other direction gets its turn.
const ROUND: usize = 64;
const ROUND_BYTES: usize = 256 << 10;

/// Datagrams that are made in one round before no more is read: twice what so many bytes come to
/// in segments of 536. A pod chooses how short they are (packet(7), PACKET_VNET_HDR), and a
/// super-packet may stand for 65,000.
const ROUND_DATAGRAMS: usize = 1024;

/// The egress half of a worker.
pub struct Egress {
    packet: Box<[u8]>,
    outbox: Outbox,
    reply: Box<[u8; icmp::MAX_LEN]>,
    sealer: Option<Sealer>,
}

impl Egress {
    /// Makes the buffers.
    pub fn new() -> Self {
        Self {
            packet: vec![0; MAX_READ_LEN].into(),
            outbox: Outbox::new(),
            reply: Box::new([0; icmp::MAX_LEN]),
            sealer: None,
        }
    }

    /// Seals what is for peers that seal, from now on. Without, that is only shown.
    pub fn seal_as(&mut self, worker: SealedWorker) {
        self.sealer = Some(Sealer::new(worker));
    }

    /// When a packet will have waited for a session for long enough, or a little before. Nothing if
    /// none waits.
    pub fn next_end(&self) -> Option<Instant> {
        self.sealer.as_ref()?.next_end()
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
        self.look_after_held(engine, env);
        let made = self.outbox.made();
        while outcome == Round::More
            && packets < ROUND
            && octets < ROUND_BYTES
            && self.outbox.made().wrapping_sub(made) < ROUND_DATAGRAMS
        {
            match env.tun.recv(&mut self.packet) {
                Ok(len) => {
                    packets += 1;
                    octets += len;
                    if let Err(halt) = self.forward(engine, env, len) {
                        self.halt(engine, env, len, halt);
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

    /// Sends what has waited for a session that stands now, and drops what has waited for too long.
    fn look_after_held<T: TunPort, U: UnderlayPort>(
        &mut self,
        engine: &mut Engine,
        env: &mut Env<'_, T, U>,
    ) {
        let Some(sealer) = &mut self.sealer else { return };
        sealer.begin(env.now);
        for packets in sealer.take_ready() {
            self.release(engine, env, packets);
        }
        let late = self.sealer.as_mut().map(|sealer| sealer.take_late(env.now));
        for packet in late.into_iter().flatten() {
            let len = self.put(&packet);
            self.give_up(engine, env, len);
        }
    }

    /// Sends packets that have waited, in their order, as if they were read now.
    fn release<T: TunPort, U: UnderlayPort>(
        &mut self,
        engine: &mut Engine,
        env: &mut Env<'_, T, U>,
        mut packets: HeldPackets,
    ) {
        while let Some((until, packet)) = packets.pop() {
            let len = self.put(&packet);
            match (self.forward(engine, env, len), &mut self.sealer) {
                (Ok(()), _) => {}
                // The session has ended already.
                (Err(Halt::Hold(link)), Some(sealer)) if packets.are_for(&link) => {
                    packets.unpop(until, packet);
                    return sealer.put_back(packets);
                }
                (Err(halt), _) => self.halt(engine, env, len, halt),
            }
        }
    }

    fn put(&mut self, packet: &[u8]) -> usize {
        self.packet[..packet.len()].copy_from_slice(packet);
        packet.len()
    }

    /// Decides about the packet in the buffer, `len` bytes with its virtio-net header, and puts
    /// what goes to a peer into the outbox.
    fn forward<T: TunPort, U: UnderlayPort>(
        &mut self,
        engine: &mut Engine,
        env: &mut Env<'_, T, U>,
        len: usize,
    ) -> Result<(), Halt> {
        let (header, bytes) = header_of(&self.packet[..len])?;
        let packet = InnerPacket::parse(bytes)?;
        let plan = plan_of(&header, &packet)?;
        let packet_len = plan.as_ref().map_or(packet.len(), SplitPlan::packet_len);
        let packets = count_of(plan.as_ref());
        let peer = match engine.handle_tun_packet(env.table, &packet, packet_len, env.now) {
            EgressVerdict::Forward(peer) => peer,
            EgressVerdict::Fragment(peer) => return self.fragment(env, len, peer),
            verdict @ (EgressVerdict::Reply(_) | EgressVerdict::Drop(_)) => {
                return Err(refuse(env, verdict, &packet, packets, &mut self.reply).into());
            }
        };
        let to = env.table.peer(peer);
        let mut key = key_of(to, peer, &packet);
        let family = packet.family();
        let (inner_len, transport_offset) = (packet.len(), packet.transport_offset());
        let bytes = &mut self.packet[VNET_HEADER_LEN..VNET_HEADER_LEN + inner_len];
        let partial = header.partial.filter(|_| plan.is_none());
        if let Seal::Keyed(keyed) = &to.seal {
            let Some(sealer) = &self.sealer else {
                rehearse(env, to, keyed, bytes, packets, key.flow_hash);
                return Ok(());
            };
            let session = sealer.session(keyed, &key, packets, packet_len);
            if let Some(session) = session.map_err(Halt::Hold)? {
                finish(partial, transport_offset, bytes)?;
                show(env, to, bytes, packets, key.flow_hash);
                (key.endpoint, key.sealed) = (session.endpoint, true);
                session.send(&mut self.outbox, env, &key, family, plan.as_ref(), bytes);
                return Ok(());
            }
        }
        finish(partial, transport_offset, bytes)?;
        show(env, to, bytes, packets, key.flow_hash);
        let overlay = to.codec.header(to.vni, family);
        match plan {
            None => self.outbox.push(env, &key, [overlay.as_slice(), bytes]),
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

    /// Deals with the packet in the buffer, which goes no further, or not now.
    fn halt<T: TunPort, U>(
        &mut self,
        engine: &mut Engine,
        env: &mut Env<'_, T, U>,
        len: usize,
        halt: Halt,
    ) {
        match (halt, &mut self.sealer) {
            (Halt::Stop(stop), _) => self.stop(env, len, stop),
            (Halt::Hold(link), Some(sealer)) => {
                if !sealer.hold(&link, &self.packet[..len], env.now) {
                    self.give_up(engine, env, len);
                }
            }
            (Halt::Hold(_), None) => self.give_up(engine, env, len),
        }
    }

    /// Drops the packet in the buffer, for which there is no session.
    fn give_up<T: TunPort, U>(&mut self, engine: &mut Engine, env: &mut Env<'_, T, U>, len: usize) {
        // It was read and cut before.
        let stop = header_of(&self.packet[..len]).and_then(|(header, bytes)| {
            let packet = InnerPacket::parse(bytes)?;
            let packets = count_of(plan_of(&header, &packet)?.as_ref());
            let verdict = engine.give_up(env.table, &packet, env.now);
            Ok(refuse(env, verdict, &packet, packets, &mut self.reply))
        });
        let stop = stop.unwrap_or_else(|reason| Stop { reason, packets: 1, reply_len: None });
        self.stop(env, len, stop);
    }

    /// Counts the packet in the buffer, which goes no further.
    fn stop<T, U>(&self, env: &Env<'_, T, U>, len: usize, stop: Stop) {
        let Stop { reason, packets, reply_len } = stop;
        let packet = self.packet.get(VNET_HEADER_LEN..len).unwrap_or_default();
        env.count_drops(reason, packets as u64, source_of(packet));
        if let Some(tap) = env.tap {
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

/// The virtio-net header of what was read, and what is behind it.
#[inline]
fn header_of(bytes: &[u8]) -> Result<(VnetHeader, &[u8]), DropReason> {
    let (header, bytes) =
        bytes.split_first_chunk::<VNET_HEADER_LEN>().ok_or(DropReason::VnetHeader)?;
    let header = VnetHeader::decode(header).map_err(|_| DropReason::VnetHeader)?;
    Ok((header, bytes))
}

/// What the datagrams of a packet for this peer have in common, if they leave in plain.
#[inline]
fn key_of(to: &Peer, peer: PeerIndex, packet: &InnerPacket<'_>) -> Key {
    Key {
        peer,
        endpoint: to.endpoint,
        ecn: ecn::encapsulate(packet.ecn()),
        flow_hash: to.paths.lead(packet.flow_hash()),
        sealed: false,
    }
}

/// How to cut a packet apart, if it is a super-packet.
#[inline]
fn plan_of(header: &VnetHeader, packet: &InnerPacket<'_>) -> Result<Option<SplitPlan>, DropReason> {
    match header.gso {
        Gso::None => Ok(None),
        Gso::Tcp4 | Gso::Tcp6 | Gso::Udp => {
            SplitPlan::new(header, packet).map(Some).map_err(|_| DropReason::VnetHeader)
        }
    }
}

/// How many packets it stands for.
#[inline]
fn count_of(plan: Option<&SplitPlan>) -> usize {
    plan.map_or(1, SplitPlan::count)
}

/// Finishes the checksum of a packet that is none of several, if it is unfinished.
#[inline]
fn finish(
    partial: Option<PartialChecksum>,
    transport_offset: usize,
    packet: &mut [u8],
) -> Result<(), DropReason> {
    let Some(partial) = partial else { return Ok(()) };
    // A pod that writes virtio-net headers of its own (packet(7), PACKET_VNET_HDR) chooses the
    // place. Addresses were decided about; they must not change now.
    if usize::from(partial.start) < transport_offset {
        return Err(DropReason::VnetHeader);
    }
    split::finish_checksum(partial, packet).map_err(|_| DropReason::VnetHeader)
}

/// Why what was read is not on its way.
enum Halt {
    /// It goes no further.
    Stop(Stop),
    /// It has to wait for a session with this peer.
    Hold(Arc<PeerLink>),
}

/// Why what was read goes no further, how many packets it stands for (a super-packet is several),
/// and how long the answer to it is, if it gets one.
struct Stop {
    reason: DropReason,
    packets: usize,
    reply_len: Option<usize>,
}

impl<E: Into<DropReason>> From<E> for Halt {
    fn from(reason: E) -> Self {
        Self::Stop(Stop { reason: reason.into(), packets: 1, reply_len: None })
    }
}

impl From<Stop> for Halt {
    fn from(stop: Stop) -> Self {
        Self::Stop(stop)
    }
}

/// Tells the sender of a packet, if that is the verdict.
#[inline(never)]
fn refuse<T: TunPort, U>(
    env: &mut Env<'_, T, U>,
    verdict: EgressVerdict,
    packet: &InnerPacket<'_>,
    packets: usize,
    buffer: &mut [u8; icmp::MAX_LEN],
) -> Stop {
    match verdict {
        EgressVerdict::Reply(reply) => {
            let reply_len = reply.build(packet, buffer.as_mut_slice());
            if let Some(len) = reply_len {
                send_reply(env.tun, env.counters, &buffer[..len]);
            }
            Stop { reason: reply.reason(), packets, reply_len }
        }
        EgressVerdict::Drop(reason) => Stop { reason, packets, reply_len: None },
        EgressVerdict::Forward(_) | EgressVerdict::Fragment(_) => {
            Stop { reason: DropReason::NoSession, packets, reply_len: None }
        }
    }
}

fn show<T, U>(env: &Env<'_, T, U>, peer: &Peer, packet: &[u8], datagrams: usize, flow_hash: u32) {
    if let Some(tap) = env.tap {
        let decision = Decision::Forward { datagrams, flow_hash };
        tap.observe(&Observation::Egress { packet, peer: Some(peer), decision });
    }
}

/// Shows what would be sealed.
fn rehearse<T, U>(
    env: &Env<'_, T, U>,
    peer: &Peer,
    keyed: &Keyed,
    packet: &[u8],
    datagrams: usize,
    flow_hash: u32,
) {
    if let Some(tap) = env.tap {
        let is_ready = keyed.link.outgoing().is_some();
        let decision = Decision::Seal { datagrams, flow_hash, is_ready };
        tap.observe(&Observation::Egress { packet, peer: Some(peer), decision });
    }
}

impl Default for Egress {
    fn default() -> Self {
        Self::new()
    }
}
