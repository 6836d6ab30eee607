//! Wire to pod: trains of datagrams leave as packets and super-packets on a TUN queue.
//!
//! Each datagram of a train is checked by itself; consecutive packets of one flow go to the kernel as
//! one super-packet (see [`Outlet`]).

use overlay_proto::{Ecn, ecn};

use super::io_error::{Class, classify};
use super::outlet::Outlet;
use super::port::{TunPort, UnderlayPort};
use super::round::{Env, Round};
use super::tap::Sight;
use crate::engine::{Delivery, DropReason, Engine, PeerIndex, Table};
use crate::platform::tun::Offload;
use crate::platform::udp::{Received, RecvBatch};

/// The ingress half of a worker.
pub struct Ingress {
    batch: RecvBatch,
    offload: Offload,
}

impl Ingress {
    /// Makes the receive buffers. `offload` is what the TUN queue takes.
    pub fn new(offload: Offload) -> Self {
        Self { batch: RecvBatch::new(), offload }
    }

    /// Changes what the TUN queue takes.
    pub fn set_offload(&mut self, offload: Offload) {
        self.offload = offload;
    }

    /// Receives what is there, up to a limit, and delivers it. `elapsed_ms` is the daemon's age, for
    /// "last heard".
    pub fn round<T: TunPort, U: UnderlayPort>(
        &mut self,
        engine: &Engine,
        env: &mut Env<'_, T, U>,
        elapsed_ms: u64,
    ) -> Round {
        if let Err(error) = env.underlay.recv(&mut self.batch) {
            if classify(&error) != Class::Empty {
                tracing::debug!(%error, "receiving from the underlay failed");
            }
            return Round::Idle;
        }
        let full = self.batch.is_full();
        let mut outlet = Outlet::new(self.offload);
        for received in self.batch.iter_mut() {
            train(engine, env, &mut outlet, received, elapsed_ms);
        }
        outlet.flush(env);
        if outlet.refused_offload() {
            self.offload = Offload::None;
            env.counters.add_degraded();
            tracing::warn!("the TUN device refuses super-packets; writing packets one by one");
        }
        if full { Round::More } else { Round::Idle }
    }
}

/// Takes one train: all of its datagrams are from one sender, and came to one port.
fn train<'p, T: TunPort, U>(
    engine: &Engine,
    env: &mut Env<'_, T, U>,
    outlet: &mut Outlet<'p>,
    received: Received<'p>,
    elapsed_ms: u64,
) {
    let Received { source, codec, ecn, segment_size, truncated, bytes } = received;
    env.octets += bytes.len();
    let datagrams = bytes.len().div_ceil(segment_size).max(1) as u64;
    let sender = env.table.sender(source.ip());
    let peer = sender.map(|sender| env.table.peer(sender));
    let tap = env.tap;
    let show = |datagram: &[u8], outcome: Result<&[u8], DropReason>| {
        if let Some(tap) = tap {
            let port = env.table.local().port(codec);
            tap.see(&Sight::Ingress { source, port, ecn, datagram, peer, outcome });
        }
    };
    // An empty datagram is one too: it is dropped for want of a header.
    let empty = bytes.is_empty().then_some(&[][..]);
    let refuse = |bytes: &[u8], reason| {
        bytes.chunks(segment_size).chain(empty).for_each(|datagram| show(datagram, Err(reason)));
        env.counters.drops.add(reason, datagrams);
    };
    let Some(sender) = sender else {
        return refuse(bytes, DropReason::UnknownPeer);
    };
    if truncated {
        return refuse(bytes, DropReason::DatagramTruncated);
    }
    if env.table.peer(sender).codec.kind() != codec {
        return refuse(bytes, DropReason::WrongCodec);
    }
    mark(engine, env.table, sender, ecn, segment_size, bytes);
    let bytes: &'p [u8] = bytes;
    let (mut packets, mut octets) = (0, 0);
    for datagram in bytes.chunks(segment_size).chain(empty) {
        match engine.handle_udp_datagram(env.table, sender, ecn, datagram) {
            Ok(delivery) => {
                packets += 1;
                octets += delivery.packet.len() as u64;
                show(datagram, Ok(delivery.packet.bytes()));
                outlet.push(env, delivery.packet);
            }
            Err(reason) => {
                show(datagram, Err(reason));
                env.counters.drops.add(reason, 1);
            }
        }
    }
    if packets > 0 {
        env.table.peer(sender).counters.add_ingress(packets, octets, elapsed_ms);
    }
}

/// Carries the outer mark over to the packets that must get it (RFC 6040 §4.2). Marked trains are
/// rare, so that looking at their datagrams twice costs nothing that matters.
fn mark(
    engine: &Engine,
    table: &Table,
    sender: PeerIndex,
    outer: Ecn,
    segment_size: usize,
    bytes: &mut [u8],
) {
    if matches!(outer, Ecn::NotEct | Ecn::Ect0) {
        return; // Neither ever changes an inner mark.
    }
    let header_len = table.peer(sender).codec.header_len();
    for datagram in bytes.chunks_mut(segment_size) {
        if let Ok(Delivery { packet, mark: Some(mark) }) =
            engine.handle_udp_datagram(table, sender, outer, datagram)
        {
            let family = packet.family();
            ecn::set_ecn(&mut datagram[header_len..], family, mark);
        }
    }
}
