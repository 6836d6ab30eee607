//! Wire to pod: trains of datagrams leave as packets and super-packets on a TUN queue.
//!
//! Each datagram of a train is checked by itself, and opened first if it is sealed (see
//! [`Opener`]); packets that continue a flow go to the kernel as one super-packet (see [`Outlet`]).

use overlay_proto::{Codec, CodecKind, DecodeError, Ecn, Family, InnerPacket, Vni, ecn};

use super::io_error::{Class, classify};
use super::opening::Opener;
use super::outlet::{Outlet, Room};
use super::port::{Spoken, TunPort, UnderlayPort};
use super::probe::{Probes, Reflector};
use super::round::{Env, Round};
use super::sealed::SealedWorker;
use super::tap::Observation;
use crate::engine::{Delivery, DropReason, Engine, PeerIndex, Seal, Table};
use crate::platform::tun::Offload;
use crate::platform::udp::{Received, RecvBatch};

/// The ingress half of a worker.
pub struct Ingress {
    batch: RecvBatch,
    offload: Offload,
    room: Room,
    opener: Option<Opener>,
    reflector: Option<Reflector>,
}

impl Ingress {
    /// Makes the receive buffers. `offload` is what the TUN queue takes.
    pub fn new(offload: Offload) -> Self {
        Self { batch: RecvBatch::new(), offload, room: Room::new(), opener: None, reflector: None }
    }

    /// Opens what is sealed, and holds peers that seal to it, from now on.
    pub fn open_as(&mut self, worker: SealedWorker) {
        self.opener = Some(Opener::new(worker));
    }

    /// Answers questions of other nodes, and hands on their answers, from now on. Without, both are
    /// dropped for their flags.
    pub fn reflect(&mut self, probes: Probes) {
        self.reflector = Some(Reflector::new(probes));
    }

    /// Changes what the TUN queue takes.
    pub fn set_offload(&mut self, offload: Offload) {
        self.offload = offload;
    }

    /// Receives what is there, up to a limit, and delivers it. `elapsed_ms` is the daemon's age,
    /// for "last heard".
    pub fn round<T: TunPort, U: UnderlayPort>(
        &mut self,
        engine: &Engine,
        env: &mut Env<'_, T, U>,
        elapsed_ms: u64,
    ) -> Round {
        let spoken = match env.underlay.recv(&mut self.batch) {
            Ok(spoken) => spoken,
            Err(error) => {
                if classify(&error) != Class::Empty {
                    tracing::debug!(%error, "receiving from the underlay failed");
                }
                return Round::Idle;
            }
        };
        let full = self.batch.is_full();
        let mut outlet = Outlet::new(self.offload, std::mem::take(&mut self.room));
        match (spoken, &mut self.opener) {
            (Spoken::Plain(codec), opener) => {
                let arrival = Arrival { engine, codec, elapsed_ms, holds_to_it: opener.is_some() };
                for received in self.batch.iter_mut() {
                    arrival.take(env, &mut outlet, received, self.reflector.as_mut());
                }
            }
            (Spoken::Sealed, Some(opener)) => {
                let reflector = self.reflector.as_mut();
                let mut opening = opener.open(engine, elapsed_ms, reflector);
                for received in self.batch.iter_mut() {
                    opening.take(env, &mut outlet, received);
                }
                opening.finish(env);
            }
            // Nobody listens there.
            (Spoken::Sealed, None) => {}
        }
        let (offload, room) = outlet.finish(env);
        self.room = room;
        if offload != self.offload {
            self.offload = offload;
            env.counters.add_degraded();
            tracing::warn!("the TUN device refuses super-packets; writing packets one by one");
        }
        if full { Round::More } else { Round::Idle }
    }
}

/// What all trains of one receiving call have in common.
struct Arrival<'e> {
    engine: &'e Engine,
    /// What is spoken on the port that they came to.
    codec: CodecKind,
    elapsed_ms: u64,
    /// Whether peers that seal must do so.
    holds_to_it: bool,
}

impl Arrival<'_> {
    /// Takes one train: all of its datagrams are from one sender.
    fn take<'p, T: TunPort, U: UnderlayPort>(
        &self,
        env: &mut Env<'_, T, U>,
        outlet: &mut Outlet<'p>,
        received: Received<'p>,
        mut reflector: Option<&mut Reflector>,
    ) {
        let Received { source, ecn, segment_size, truncated, bytes } = received;
        env.octets += bytes.len();
        let datagrams = bytes.len().div_ceil(segment_size).max(1) as u64;
        let sender = env.table.sender(source.ip());
        let peer = sender.map(|sender| env.table.peer(sender));
        let tap = env.tap;
        let show = |datagram: &[u8], outcome: Result<&[u8], DropReason>| {
            if let Some(tap) = tap {
                let port = env.table.local().port(self.codec);
                tap.observe(&Observation::Ingress {
                    source,
                    port,
                    ecn,
                    datagram,
                    peer,
                    sealed: false,
                    outcome,
                });
            }
        };
        let refuse = |bytes: &[u8], reason| {
            let empty = bytes.is_empty().then_some(bytes);
            let datagrams_of = bytes.chunks(segment_size).chain(empty);
            datagrams_of.for_each(|datagram| show(datagram, Err(reason)));
            env.count_drops(reason, datagrams, Some(source.ip()));
        };
        let Some(sender) = sender else {
            return refuse(bytes, DropReason::UnknownPeer);
        };
        if truncated {
            return refuse(bytes, DropReason::DatagramTruncated);
        }
        let Some(heard) = env.table.peer(sender).heard_in(self.codec) else {
            return refuse(bytes, DropReason::WrongCodec);
        };
        let refuses_plain = match &env.table.peer(sender).seal {
            Seal::Plain => false,
            Seal::NoKey => true,
            Seal::Keyed(keyed) => self.holds_to_it && keyed.refuses_plain(self.elapsed_ms),
        };
        if refuses_plain {
            return refuse(bytes, DropReason::PlaintextRefused);
        }
        // Other marks never change an inner one.
        let marks = matches!(ecn, Ecn::Ect1 | Ecn::Ce);
        // An empty datagram is one too: it is dropped for want of a header.
        let empty = bytes.is_empty().then_some(&mut [][..]);
        let (mut packets, mut octets) = (0, 0);
        let echoes = env.table.peer(sender).paths.echoes();
        for datagram in bytes.chunks_mut(segment_size).chain(empty) {
            let marked = marks.then(|| self.mark(env.table, (sender, heard), ecn, datagram));
            let datagram: &'p [u8] = datagram;
            let verdict = match marked {
                None => self.engine.handle_udp_datagram(env.table, sender, heard, ecn, datagram),
                Some(decided) => decided.and_then(|inner| inner.delivery(datagram)),
            };
            match verdict {
                Ok(delivery) => {
                    if echoes
                        && let Some(reflector) = &reflector
                        && reflector.takes_echo(env, sender, &delivery.packet)
                    {
                        continue;
                    }
                    packets += 1;
                    octets += delivery.packet.len() as u64;
                    show(datagram, Ok(delivery.packet.bytes()));
                    outlet.push(env, delivery.packet);
                }
                Err(mut reason) => {
                    if reason == DropReason::Header(DecodeError::Flags)
                        && let Some(reflector) = &mut reflector
                    {
                        match self.reflect(env, sender, datagram, reflector) {
                            Ok(()) => continue, // It carries no packet.
                            Err(other) => reason = other,
                        }
                    }
                    show(datagram, Err(reason));
                    env.count_drops(reason, 1, Some(source.ip()));
                }
            }
        }
        if packets > 0 {
            env.table.peer(sender).counters.add_ingress(packets, octets, self.elapsed_ms);
        }
    }

    /// Takes what the node `sender` says to this one.
    #[cold]
    fn reflect<T, U: UnderlayPort>(
        &self,
        env: &mut Env<'_, T, U>,
        sender: PeerIndex,
        datagram: &[u8],
        reflector: &mut Reflector,
    ) -> Result<(), DropReason> {
        let packet = self.engine.handle_oam(env.table, sender, datagram)?;
        reflector.take(env, sender, &packet, self.elapsed_ms, None)
    }

    /// Decides about a datagram with the mark `outer`, and carries it over to the packet if that
    /// must get it (RFC 6040 §4.2).
    fn mark(
        &self,
        table: &Table,
        (sender, heard): (PeerIndex, (Codec, Vni)),
        outer: Ecn,
        datagram: &mut [u8],
    ) -> Result<Marked, DropReason> {
        let Delivery { packet, mark } =
            self.engine.handle_udp_datagram(table, sender, heard, outer, datagram)?;
        let family = packet.family();
        let header_len = heard.0.header_len();
        if let Some(mark) = mark {
            ecn::set_ecn(&mut datagram[header_len..], family, mark);
        }
        Ok(Marked { family, header_len })
    }
}

/// Where the packet of a datagram is that may be delivered and has its mark.
struct Marked {
    family: Family,
    header_len: usize,
}

impl Marked {
    /// Looks at it again: nothing but the mark has changed.
    fn delivery(self, datagram: &[u8]) -> Result<Delivery<'_>, DropReason> {
        let packet = InnerPacket::parse_as(self.family, &datagram[self.header_len..])?;
        Ok(Delivery { packet, mark: None })
    }
}
