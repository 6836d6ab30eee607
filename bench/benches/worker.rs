//! A whole worker's round over in-memory devices, in each direction.
//!
//! Includes the copies that stand for the kernel's: into the worker's buffer when it reads, and out
//! when it writes. The devices are the bench's own, because those of the tests keep what was
//! written in new memory, which would cost more than the worker.

use std::io::{self, IoSlice};
use std::sync::Arc;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use culvert_bench::micro::{self, Packet, TCP_PAYLOAD, Transport};
use culvert_dataplane::engine::{self, Engine, PeerKeys, SealedMode, Table};
use culvert_dataplane::offload::VnetHeader;
use culvert_dataplane::platform::clock;
use culvert_dataplane::platform::tun::Offload;
use culvert_dataplane::platform::udp::{RecvBatch, Transmit};
use culvert_dataplane::{
    Egress, Env, FlowTap, Ingress, Keeper, Notices, Spoken, Tap, TunPort, UnderlayPort,
    WorkerCounters, open_flows,
};
use culvert_seal::keys::{NodeKey, Psk};
use culvert_seal::mesh::{Config, Identity, Now, Output, SystemEntropy};
use culvert_seal::noise::PostQuantum;
use culvert_seal::{Suite, Suites};
use overlay_proto::{CodecKind, Ecn, Family, esp};
use zeroize::Zeroizing;

/// Small packets in a round.
const SMALL: u16 = 64;

/// Peers of mixed traffic.
const PEERS: u16 = 8;

/// Payload of a small packet.
const SMALL_LEN: usize = 64;

/// Full-size packets in a super-packet of 64 KiB.
const SEGMENTS: u16 = 46;

/// Full-size packets in the longest train that a sending call takes.
const TRAIN: u16 = 44;

/// Super-packets, or trains, in a round.
const SUPERS: usize = 4;

/// A device that gives the same again and again, and forgets what it takes.
#[derive(Default)]
struct Replay {
    /// Packets, or trains of datagrams of `segment_size`, each with the node that sends it.
    incoming: Vec<(u32, Bytes)>,
    segment_size: usize,
    next: usize,
    taken: usize,
    /// Where what was taken is copied to.
    sink: Vec<u8>,
    /// Whether it is the port for what is sealed.
    sealed: bool,
}

impl Replay {
    fn take(&mut self, parts: &[IoSlice<'_>]) {
        self.taken += 1;
        self.sink.clear();
        parts.iter().for_each(|part| self.sink.extend_from_slice(part));
    }
}

impl TunPort for Replay {
    fn recv(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (_, packet) = self.incoming.get(self.next).ok_or(io::ErrorKind::WouldBlock)?;
        self.next += 1;
        buffer[..packet.len()].copy_from_slice(packet);
        Ok(packet.len())
    }

    fn send(&mut self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        self.take(parts);
        Ok(())
    }
}

impl UnderlayPort for Replay {
    fn recv(&mut self, batch: &mut RecvBatch) -> io::Result<Spoken> {
        batch.clear();
        while let Some((node, train)) = self.incoming.get(self.next)
            && batch.push(micro::underlay(*node), Ecn::NotEct, self.segment_size, train)
        {
            self.next += 1;
        }
        if batch.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(if self.sealed { Spoken::Sealed } else { Spoken::Plain(CodecKind::default()) })
    }

    fn send(&mut self, _flow_hash: u32, transmit: &Transmit<'_>) -> io::Result<()> {
        self.take(transmit.parts);
        Ok(())
    }
}

/// A worker without its thread.
struct Worker {
    table: Table,
    engine: Engine,
    egress: Egress,
    ingress: Ingress,
    counters: WorkerCounters,
    notices: Notices,
    tun: Replay,
    underlay: Replay,
    /// Who counts flows, if somebody does.
    flows: Option<FlowTap>,
}

impl Worker {
    /// A worker of node 0 with these devices.
    fn new(tun: Replay, underlay: Replay) -> Self {
        Self {
            table: micro::table(100),
            engine: Engine::new(clock::now()),
            egress: Egress::new(),
            ingress: Ingress::new(Offload::TcpUdp),
            counters: WorkerCounters::default(),
            notices: Notices::new().0,
            tun,
            underlay,
            flows: None,
        }
    }

    /// Moves everything once, both ways; returns what the TUN device and the underlay took.
    fn round(&mut self) -> (usize, usize) {
        for device in [&mut self.tun, &mut self.underlay] {
            (device.next, device.taken) = (0, 0);
        }
        let mut env = Env::new(
            &mut self.tun,
            &mut self.underlay,
            &self.table,
            &self.counters,
            &self.notices,
            clock::now(),
        );
        env.tap = self.flows.as_ref().map(|flows| flows as &dyn Tap);
        while env.tun.next < env.tun.incoming.len() {
            self.egress.round(&mut self.engine, &mut env);
        }
        while env.underlay.next < env.underlay.incoming.len() {
            self.ingress.round(&self.engine, &mut env, 1);
        }
        (self.tun.taken, self.underlay.taken)
    }
}

fn egress(c: &mut Criterion) {
    let mut group = c.benchmark_group("egress");
    let packet = Packet::new(Transport::Udp, 0, 1, SMALL_LEN);
    let on_tun = |packet: Packet| (0, micro::on_tun(&VnetHeader::default(), &packet.build()));
    let packets = |index| on_tun(packet.member(index));
    let tun = Replay { incoming: (0..SMALL).map(packets).collect(), ..Replay::default() };
    let mut worker = Worker::new(tun, Replay::default());
    assert_eq!(worker.round(), (0, 1), "small packets leave as a train");
    group.throughput(Throughput::Elements(u64::from(SMALL)));
    group.bench_function(format!("{SMALL} packets of {SMALL_LEN} bytes"), |b| {
        b.iter(|| worker.round());
    });

    let mixed = |index: u16| {
        let to = 1 + u32::from(index % PEERS);
        on_tun(Packet::new(Transport::Udp, 0, to, SMALL_LEN).member(index / PEERS))
    };
    let tun = Replay { incoming: (0..SMALL).map(mixed).collect(), ..Replay::default() };
    let mut worker = Worker::new(tun, Replay::default());
    assert_eq!(worker.round(), (0, usize::from(PEERS)), "each peer gets a train");
    group.bench_function(format!("{SMALL} packets of {SMALL_LEN} bytes to {PEERS} peers"), |b| {
        b.iter(|| worker.round());
    });

    let payload_len = usize::from(TCP_PAYLOAD) * usize::from(SEGMENTS);
    let (header, bytes) = Packet::new(Transport::Tcp, 0, 1, payload_len).build_super(TCP_PAYLOAD);
    let incoming = vec![(0, micro::on_tun(&header, &bytes)); SUPERS];
    let mut worker = Worker::new(Replay { incoming, ..Replay::default() }, Replay::default());
    assert!(worker.round().1 >= SUPERS, "super-packets leave");
    group.throughput(Throughput::Bytes((SUPERS * bytes.len()) as u64));
    group.bench_function(format!("{SUPERS} super-packets of {SEGMENTS} segments"), |b| {
        b.iter(|| worker.round());
    });
    group.finish();
}

/// A worker of one of two nodes that seal, and the machine that makes their sessions.
struct Sealing {
    worker: Worker,
    keeper: Keeper<SystemEntropy>,
    out: Output,
}

impl Sealing {
    /// A worker of node `own` with these packets of pods, which seals for `peer`.
    fn new(own: u8, peer: u8, suite: Suite, tun: Replay) -> Self {
        let key = |node: u8| NodeKey::from_secret(&Zeroizing::new([node + 1; 32])).expect("a key");
        let identity = Identity { keys: vec![Arc::new(key(own))], psks: vec![Psk::none()] };
        let config = Config {
            vni: micro::vni(),
            post_quantum: PostQuantum::Require,
            suites: Suites::new([suite]),
            lanes: 16,
        };
        let now = clock::now();
        let mut keeper = Keeper::new(config, identity.clone(), SystemEntropy, now);
        let peers = [PeerKeys {
            name: format!("node{peer}"),
            address: micro::underlay(peer.into()),
            keys: vec![*key(peer).public()],
        }];
        let sealing = engine::Sealing::new(SealedMode::Require, esp::PORT).with(&peers);
        let mut out = Output::default();
        let unix_nanos = clock::unix_nanos();
        let entries = sealing.entries(peers.into());
        keeper.set_table(identity, entries, Now { instant: now, unix_nanos }, &mut out);
        let mut worker = Worker::new(tun, Replay { sealed: true, ..Replay::default() });
        worker.table = worker.table.seal(&sealing);
        worker.egress.seal_as(keeper.worker(0));
        worker.ingress.open_as(keeper.worker(0));
        Self { worker, keeper, out }
    }

    /// What the machine has to say to the other node.
    fn say(&mut self) -> Vec<Vec<u8>> {
        let now = Now { instant: clock::now(), unix_nanos: clock::unix_nanos() };
        while self.keeper.work(now, &mut self.out) {}
        self.out.datagrams.drain(..).map(|(_, datagram)| datagram).collect()
    }

    /// Hears what the other node has to say.
    fn hear(&mut self, datagrams: Vec<Vec<u8>>) {
        for datagram in datagrams {
            self.worker.underlay.segment_size = datagram.len();
            self.worker.underlay.incoming = vec![(0, datagram.into())];
            self.worker.round();
        }
        self.worker.underlay.incoming.clear();
    }
}

/// Super-packets that are sealed into trains.
fn sealed(c: &mut Criterion) {
    let mut group = c.benchmark_group("sealed egress");
    let payload_len = usize::from(TCP_PAYLOAD) * usize::from(SEGMENTS);
    let (header, bytes) = Packet::new(Transport::Tcp, 0, 1, payload_len).build_super(TCP_PAYLOAD);
    let incoming = vec![(0, micro::on_tun(&header, &bytes)); SUPERS];
    group.throughput(Throughput::Bytes((SUPERS * bytes.len()) as u64));
    for suite in Suite::ALL {
        let tun = Replay { incoming: incoming.clone(), ..Replay::default() };
        let mut one = Sealing::new(0, 1, suite, tun);
        let mut other = Sealing::new(1, 0, suite, Replay::default());
        assert_eq!(one.worker.round(), (0, 0), "they wait for a session");
        for _ in 0..4 {
            other.hear(one.say());
            one.hear(other.say());
        }
        assert!(one.worker.round().1 >= SUPERS, "super-packets leave");
        group.bench_function(
            format!("{SUPERS} super-packets of {SEGMENTS} segments, {suite}"),
            |b| {
                b.iter(|| one.worker.round());
            },
        );
    }
    group.finish();
}

fn ingress(c: &mut Criterion) {
    let mut group = c.benchmark_group("ingress");
    let small = trains(&Packet::new(Transport::Udp, 1, 0, SMALL_LEN), SMALL, 1);
    let mut worker = Worker::new(Replay::default(), small);
    assert_eq!(worker.round(), (1, 0), "small packets arrive as a super-packet");
    group.throughput(Throughput::Elements(u64::from(SMALL)));
    group.bench_function(format!("a train of {SMALL} packets of {SMALL_LEN} bytes"), |b| {
        b.iter(|| worker.round());
    });

    let mut mixed = Replay::default();
    for turn in 0..SMALL / PEERS / 2 {
        for peer in 1..=u32::from(PEERS) {
            let first = Packet::new(Transport::Udp, peer, 0, SMALL_LEN).member(2 * turn);
            let pair = trains(&first, 2, 1);
            mixed.segment_size = pair.segment_size;
            mixed.incoming.extend(pair.incoming);
        }
    }
    let mut worker = Worker::new(Replay::default(), mixed);
    assert_eq!(worker.round(), (usize::from(PEERS), 0), "each flow becomes a super-packet");
    group.bench_function(format!("{SMALL} packets of {SMALL_LEN} bytes from {PEERS} peers"), |b| {
        b.iter(|| worker.round());
    });

    let packet = Packet::new(Transport::Tcp, 1, 0, usize::from(TCP_PAYLOAD));
    let large = trains(&packet, TRAIN, SUPERS);
    let len: usize = large.incoming.iter().map(|(_, train)| train.len()).sum();
    let mut worker = Worker::new(Replay::default(), large);
    assert_eq!(worker.round(), (SUPERS, 0), "trains are joined");
    group.throughput(Throughput::Bytes(len as u64));
    group.bench_function(format!("{SUPERS} trains of {TRAIN} full-size packets"), |b| {
        b.iter(|| worker.round());
    });
    group.finish();
}

/// What it costs that somebody looks at flows, for packets so small that anything shows.
fn flows(c: &mut Criterion) {
    let mut group = c.benchmark_group("flows");
    group.throughput(Throughput::Elements(u64::from(SMALL)));
    for (looks, sample) in [("nobody looks", None), ("1 in 64", Some(64)), ("every one", Some(1))] {
        let watch = sample.map(|sample| open_flows(sample, 2, clock::now()));
        let (_watch, taps) = watch.map_or((None, Vec::new()), |(watch, taps)| (Some(watch), taps));
        let mut taps = taps.into_iter();

        let mixed = |index: u16| {
            let to = 1 + u32::from(index % PEERS);
            let packet = Packet::new(Transport::Udp, 0, to, SMALL_LEN).member(index / PEERS);
            (0, micro::on_tun(&VnetHeader::default(), &packet.build()))
        };
        let tun = Replay { incoming: (0..SMALL).map(mixed).collect(), ..Replay::default() };
        let mut worker = Worker::new(tun, Replay::default());
        worker.flows = taps.next();
        group.bench_function(format!("egress, {looks}"), |b| b.iter(|| worker.round()));

        let small = trains(&Packet::new(Transport::Udp, 1, 0, SMALL_LEN), SMALL, 1);
        let mut worker = Worker::new(Replay::default(), small);
        worker.flows = taps.next();
        group.bench_function(format!("ingress, {looks}"), |b| b.iter(|| worker.round()));
    }
    group.finish();
}

/// An underlay that has `count` trains, each of `len` packets like `first`, as its node sends them.
fn trains(first: &Packet, len: u16, count: usize) -> Replay {
    let datagrams: Vec<Vec<u8>> =
        (0..len).map(|index| micro::datagram(Family::V4, &first.member(index).build())).collect();
    let segment_size = datagrams.first().map_or(0, Vec::len);
    let incoming = vec![(first.from, Bytes::from(datagrams.concat())); count];
    Replay { incoming, segment_size, ..Replay::default() }
}

criterion_group!(benches, egress, sealed, ingress, flows);
criterion_main!(benches);
