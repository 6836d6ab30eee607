//! What has arrived on the port for what is sealed: sessions are found, datagrams opened, and the
//! packets within decided about; handshakes are passed on.
//!
//! Whose a packet is its session says, and not its outer source, which proves nothing. What costs
//! more than a look is limited: strangers choose how often it is asked for.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::Guard;
use culvert_seal::session::Incoming;
use overlay_proto::esp::{self, Kind, Payload, Slot};
use overlay_proto::{Ecn, Family, InnerPacket, ecn, oam};

use super::outlet::Outlet;
use super::port::{TunPort, UnderlayPort};
use super::probe::Reflector;
use super::round::Env;
use super::sealed::SealedWorker;
use super::tap::Observation;
use crate::engine::{Budget, Delivery, DropReason, Engine, PeerIndex, Table};
use crate::platform::udp::Received;

/// What a tap is shown of a datagram that it does not look into.
static UNSEEN: [u8; 1 << 16] = [0; 1 << 16];

/// Handshake datagrams whose MAC a worker looks at: at once, and then one in each interval. One
/// costs 1.6 µs, so that a flood takes a sixth of a processor; it takes that many to keep a peer's
/// from being looked at.
const SHAKES: u32 = 10_000;
const SHAKE_INTERVAL: Duration = Duration::from_micros(10);

/// Unknown sessions that the machine is told of: at once, and in each interval one more. It takes
/// no more notice than that of all of them.
const UNKNOWN: u32 = 100;
const UNKNOWN_INTERVAL: Duration = Duration::from_millis(1);

/// What a worker opens with.
pub(super) struct Opener {
    worker: SealedWorker,
    shakes: Budget,
    unknown: Budget,
    /// A datagram as it arrived, for those who look at it: it is opened in place.
    copy: Vec<u8>,
}

/// What the datagrams of one receiving call have in common, and the session of the last.
pub(super) struct Opening<'o> {
    opener: &'o mut Opener,
    engine: &'o Engine,
    elapsed_ms: u64,
    last: Option<Session>,
    /// Who takes what nodes say to each other.
    reflector: Option<&'o mut Reflector>,
}

/// A session that datagrams arrive for, one after the other.
struct Session {
    slot: Slot,
    incoming: Guard<Option<Arc<Incoming>>>,
    /// Whose it is, if the table has the peer.
    peer: Option<PeerIndex>,
    packets: u64,
    octets: u64,
}

impl Opener {
    pub(super) fn new(worker: SealedWorker) -> Self {
        let now = worker.started();
        Self {
            worker,
            shakes: Budget::new(SHAKES, SHAKE_INTERVAL, now),
            unknown: Budget::new(UNKNOWN, UNKNOWN_INTERVAL, now),
            copy: Vec::new(),
        }
    }

    /// Begins to open what one call has received.
    pub(super) fn open<'o>(
        &'o mut self,
        engine: &'o Engine,
        elapsed_ms: u64,
        reflector: Option<&'o mut Reflector>,
    ) -> Opening<'o> {
        Opening { opener: self, engine, elapsed_ms, last: None, reflector }
    }

    /// Passes a handshake datagram on, if it is a peer's.
    fn shake(&mut self, datagram: &[u8], now: Instant) -> bool {
        self.shakes.take(now) && self.worker.shake(datagram)
    }
}

impl Opening<'_> {
    /// Takes one train.
    pub(super) fn take<'p, T: TunPort, U: UnderlayPort>(
        &mut self,
        env: &mut Env<'_, T, U>,
        outlet: &mut Outlet<'p>,
        received: Received<'p>,
    ) {
        let Received { source, ecn, segment_size, truncated, bytes } = received;
        env.octets += bytes.len();
        let empty = bytes.is_empty().then_some(&mut [][..]);
        let port = env.table.local().sealed_port.unwrap_or_default();
        for datagram in bytes.chunks_mut(segment_size).chain(empty) {
            if !truncated && Kind::of(datagram) == Kind::Handshake {
                if !self.opener.shake(datagram, env.now) {
                    env.counters.add_refused_handshake();
                }
                continue;
            }
            let len = datagram.len();
            let is_copied = env.tap.is_some_and(|tap| tap.wants_datagrams());
            if is_copied {
                self.opener.copy.clear();
                self.opener.copy.extend_from_slice(datagram);
            }
            let opened = if truncated {
                Err(DropReason::DatagramTruncated)
            } else {
                self.open_one(env, source.ip(), ecn, datagram)
            };
            let outcome = match opened {
                Ok(None) => continue, // It has said that the peer lives.
                Ok(Some(ref delivery)) => Ok(delivery.packet.bytes()),
                Err(reason) => {
                    env.count_drops(reason, 1, Some(source.ip()));
                    Err(reason)
                }
            };
            if let Some(tap) = env.tap {
                let peer = match outcome {
                    // No session says whose it is.
                    Err(
                        DropReason::DatagramTruncated
                        | DropReason::EspFormat
                        | DropReason::UnknownSpi,
                    ) => env.table.sender(source.ip()),
                    Ok(_) | Err(_) => self.last.as_ref().and_then(|session| session.peer),
                };
                tap.observe(&Observation::Ingress {
                    source,
                    port,
                    ecn,
                    datagram: if is_copied {
                        &self.opener.copy
                    } else {
                        UNSEEN.get(..len).unwrap_or(&UNSEEN)
                    },
                    peer: peer.map(|peer| env.table.peer(peer)),
                    sealed: true,
                    outcome,
                });
            }
            if let Ok(Some(delivery)) = opened {
                outlet.push(env, delivery.packet);
            }
        }
    }

    /// Counts what is not counted yet.
    pub(super) fn finish<T, U>(&mut self, env: &Env<'_, T, U>) {
        if let Some(Session { peer: Some(peer), packets, octets, .. }) = self.last.take()
            && packets > 0
        {
            env.table.peer(peer).counters.add_ingress(packets, octets, self.elapsed_ms);
        }
    }

    /// Opens one datagram; returns nothing if it carries no packet.
    fn open_one<'p, T, U: UnderlayPort>(
        &mut self,
        env: &mut Env<'_, T, U>,
        source: IpAddr,
        outer: Ecn,
        datagram: &'p mut [u8],
    ) -> Result<Option<Delivery<'p>>, DropReason> {
        let decoded = esp::decode(datagram)?;
        let slot = decoded.header.spi.slot();
        if self.last.as_ref().is_none_or(|last| last.slot != slot) {
            self.turn_to(env, source, slot)?;
        }
        let session = self.last.as_mut().ok_or(DropReason::UnknownSpi)?;
        let incoming = session.incoming.as_ref().ok_or(DropReason::UnknownSpi)?;
        let (payload, inner) = incoming.open(decoded, datagram)?;
        if incoming.hear() {
            self.opener.worker.heard(slot);
        }
        let activity = incoming.peer().activity();
        let family = match payload {
            Payload::Packet(family) => family,
            Payload::Dummy => {
                activity.note_heard(self.elapsed_ms);
                return Ok(None);
            }
        };
        activity.note_received(self.elapsed_ms);
        // One that has left the table has no sessions either, in a moment.
        let peer = session.peer.ok_or(DropReason::UnknownPeer)?;
        let delivery = decide(self.engine, env.table, peer, outer, family, inner)?;
        if let Some(reflector) = &mut self.reflector {
            let packet = &delivery.packet;
            if oam::is_oam(packet) && self.engine.is_between_bridges(env.table, peer, packet) {
                let worker = Some(&self.opener.worker);
                reflector.take(env, peer, packet, self.elapsed_ms, worker)?;
                return Ok(None);
            }
            if env.table.peer(peer).paths.echoes() && reflector.takes_echo(env, peer, packet) {
                return Ok(None);
            }
        }
        session.packets += 1;
        session.octets += delivery.packet.len() as u64;
        Ok(Some(delivery))
    }

    /// Makes the session in `slot` the last.
    fn turn_to<T, U>(
        &mut self,
        env: &Env<'_, T, U>,
        source: IpAddr,
        slot: Slot,
    ) -> Result<(), DropReason> {
        let incoming = self.opener.worker.incoming(slot).filter(|incoming| incoming.is_some());
        let Some(incoming) = incoming else {
            // It may have been there before this node was started anew.
            if env.table.sender(source).is_some() && self.opener.unknown.take(env.now) {
                self.opener.worker.unknown_spi(source);
            }
            return Err(DropReason::UnknownSpi);
        };
        self.finish(env);
        let peer = incoming.as_ref().and_then(|incoming| env.table.sealer(incoming.peer()));
        self.last = Some(Session { slot, incoming, peer, packets: 0, octets: 0 });
        Ok(())
    }
}

/// Decides about a packet that was sealed, and gives it the mark that it must get.
fn decide<'p>(
    engine: &Engine,
    table: &Table,
    peer: PeerIndex,
    outer: Ecn,
    family: Family,
    inner: &'p mut [u8],
) -> Result<Delivery<'p>, DropReason> {
    // Other marks never change an inner one.
    if !matches!(outer, Ecn::Ect1 | Ecn::Ce) {
        return engine.handle_inner(table, peer, outer, family, inner);
    }
    let mark = engine.handle_inner(table, peer, outer, family, inner)?.mark;
    if let Some(mark) = mark {
        ecn::set_ecn(inner, family, mark);
    }
    Ok(Delivery { packet: InnerPacket::parse_as(family, inner)?, mark: None })
}
