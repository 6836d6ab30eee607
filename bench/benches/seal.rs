//! Sealed mode: one packet, a train, a handshake.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use culvert_dataplane::platform::clock;
use culvert_seal::keys::{NodeKey, Psk, SharedSecret};
use culvert_seal::noise::{Ephemeral, Initiator, Payload, PostQuantum, Responder, Split};
use culvert_seal::session::{Direction, Incoming, Outgoing, PeerLink, TrafficKey};
use culvert_seal::{Pair, Suite};
use overlay_proto::esp::{self, Lane, Slot};
use overlay_proto::{Family, Vni};
use zeroize::Zeroizing;

const PACKET: esp::Payload = esp::Payload::Packet(Family::V4);
/// As many full packets as a sending call carries.
const TRAIN: u32 = 44;
const LONG: usize = 1438;

struct Ends {
    outgoing: Outgoing,
    incoming: Incoming,
    lane: Lane,
    now: Instant,
}

impl Ends {
    fn new(suite: Suite) -> Self {
        let secret = |byte| Zeroizing::new([byte; 32]);
        let split = Split { from_initiator: secret(1), from_responder: secret(2) };
        let vni = Vni::new(1).expect("it has 24 bits");
        let key = || TrafficKey::derive(&split, Direction::FromInitiator, suite, vni);
        let (one, other) = (key().expect("a key"), key().expect("a key"));
        let slot = Slot::new(1).expect("it has 20 bits");
        let now = clock::now();
        Self {
            outgoing: Outgoing::new(one, slot, 16, now),
            incoming: Incoming::new(other, slot, 16, Arc::new(PeerLink::new("peer"))),
            lane: Lane::new(3).expect("it has 12 bits"),
            now,
        }
    }

    fn seal(&self, count: u32, inner: &[u8], out: &mut [u8]) {
        let len = esp::datagram_len(inner.len());
        let tickets = self.outgoing.take(self.lane, count, inner.len(), self.now);
        for (ticket, out) in tickets.expect("a fresh lane").zip(out.chunks_exact_mut(len)) {
            let sealed = self.outgoing.seal(ticket, PACKET, black_box(inner), out);
            assert!(sealed.is_ok());
        }
    }

    fn open(&self, datagram: &mut [u8]) {
        let decoded = esp::decode(datagram).expect("it was sealed here");
        assert!(self.incoming.open(decoded, black_box(datagram)).is_ok());
    }
}

fn packets(c: &mut Criterion) {
    for suite in Suite::ALL {
        let mut group = c.benchmark_group(format!("{suite}"));
        for len in [64, 1400] {
            group.throughput(Throughput::Elements(1));
            let (ends, inner) = (Ends::new(suite), vec![0x45; len]);
            let mut out = vec![0; esp::datagram_len(len)];
            group.bench_function(format!("seal {len} bytes"), |b| {
                b.iter(|| ends.seal(1, &inner, &mut out));
            });
            group.bench_function(format!("seal and open {len} bytes"), |b| {
                b.iter(|| {
                    ends.seal(1, &inner, &mut out);
                    ends.open(&mut out);
                });
            });
        }
        group.throughput(Throughput::Elements(TRAIN.into()));
        let (ends, inner) = (Ends::new(suite), vec![0x45; LONG]);
        let mut train = vec![0; esp::datagram_len(LONG) * TRAIN as usize];
        group.bench_function("seal a train", |b| {
            b.iter(|| ends.seal(TRAIN, &inner, &mut train));
        });
        group.bench_function("seal and open a train", |b| {
            b.iter(|| {
                ends.seal(TRAIN, &inner, &mut train);
                let len = esp::datagram_len(LONG);
                train.chunks_exact_mut(len).for_each(|datagram| ends.open(datagram));
            });
        });
        group.finish();
    }
}

struct Keys {
    initiator: Arc<NodeKey>,
    responder: Arc<NodeKey>,
    shared: SharedSecret,
}

impl Keys {
    fn new() -> Self {
        let key =
            |byte| NodeKey::from_secret(&Zeroizing::new([byte; 32])).map(Arc::new).expect("a key");
        let (initiator, responder) = (key(1), key(2));
        let shared = initiator.agree(responder.public()).expect("an agreement");
        Self { initiator, responder, shared }
    }

    fn begin(&self, message: &mut Vec<u8>) -> Initiator {
        let ephemeral =
            Ephemeral::of_initiator(PostQuantum::Require, &Zeroizing::new([3; 32])).expect("keys");
        let keys = (self.initiator.public(), self.responder.public());
        let payload = Payload::default();
        let begun = Initiator::begin(
            PostQuantum::Require,
            b"",
            keys,
            &self.shared,
            ephemeral,
            &payload,
            message,
        );
        begun.expect("a message")
    }

    fn answer(&self, first: &[u8], second: &mut Vec<u8>) {
        let keys = (&*self.responder, self.initiator.public());
        let read = Responder::read(PostQuantum::Require, b"", keys, &self.shared, first);
        let (payload, responder) = read.expect("a message");
        let ephemeral = Ephemeral::of_responder(&Zeroizing::new([4; 32])).expect("a key");
        assert!(responder.answer(&Psk::none(), &ephemeral, &payload, second).is_ok());
    }
}

fn handshake(c: &mut Criterion) {
    let mut group = c.benchmark_group("handshake");
    let keys = Keys::new();
    let (mut first, mut second) = (Vec::new(), Vec::new());
    let initiator = keys.begin(&mut first);
    keys.answer(&first, &mut second);
    group.bench_function("begin", |b| {
        b.iter(|| keys.begin(&mut Vec::new()));
    });
    group.bench_function("answer", |b| {
        b.iter(|| keys.answer(&first, &mut Vec::new()));
    });
    group.bench_function("finish", |b| {
        b.iter(|| initiator.finish(&keys.initiator, &[Psk::none()], &second).is_ok());
    });
    let pair = Pair::new(&keys.initiator, keys.responder.public()).expect("a pair");
    group.bench_function("pair MAC", |b| {
        b.iter(|| pair.mac(black_box(&first)));
    });
    group.finish();
}

criterion_group!(benches, packets, handshake);
criterion_main!(benches);
