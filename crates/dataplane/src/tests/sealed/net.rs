//! Nodes that seal, and the wire between them: workers, and the machine that makes sessions.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use culvert_seal::keys::{NodeKey, Psk};
use culvert_seal::mesh::{Config, Event, Identity, Now, Output, SystemEntropy, What};
use culvert_seal::noise::PostQuantum;
use culvert_seal::session::PeerLink;
use culvert_seal::{Suite, Suites};
use overlay_proto::{Ecn, esp};
use zeroize::Zeroizing;

use super::super::*;
use crate::engine::{PeerKeys, Seal, SealedMode, Sealing};

/// Longest inner packet on an underlay of 1500.
pub(super) const SEALED_MTU: u32 = 1438;

/// One worker of a node.
pub(super) struct Thread {
    pub(super) engine: Engine,
    pub(super) egress: Egress,
    pub(super) ingress: Ingress,
    pub(super) tun: MemoryTun,
    pub(super) underlay: MemoryUnderlay,
    pub(super) counters: WorkerCounters,
}

pub(super) struct Node {
    pub(super) number: u8,
    pub(super) threads: Vec<Thread>,
    pub(super) table: Table,
    pub(super) keeper: Keeper<SystemEntropy>,
    pub(super) events: Vec<Event>,
    pub(super) sealing: Sealing,
    /// What was seen of packets and datagrams, if anybody looks.
    pub(super) seen: Option<Seen>,
    notices: Notices,
    out: Output,
}

/// What a tap is shown: where, and the bytes.
#[derive(Debug, Default)]
pub(super) struct Seen(pub(super) RefCell<Vec<(&'static str, Vec<u8>)>>);

impl Tap for Seen {
    fn observe(&self, observation: &Observation<'_>) {
        let mut seen = self.0.borrow_mut();
        match *observation {
            Observation::Egress { packet, decision: Decision::Forward { .. }, .. } => {
                seen.push(("read", packet.to_vec()));
            }
            Observation::Egress { packet, decision: Decision::Seal { is_ready, .. }, .. } => {
                seen.push((if is_ready { "would seal" } else { "would wait" }, packet.to_vec()));
            }
            Observation::Egress { packet, .. } => seen.push(("refused", packet.to_vec())),
            Observation::Sent { datagram, sealed, endpoint, .. } => {
                assert_eq!(sealed, endpoint.port() == esp::PORT);
                seen.push((if sealed { "sealed" } else { "sent" }, datagram.to_vec()));
            }
            Observation::Ingress { datagram, sealed, port, outcome, .. } => {
                assert_eq!(sealed, port == esp::PORT);
                seen.push(("arrived", datagram.to_vec()));
                if let Ok(inner) = outcome {
                    seen.push(("delivered", inner.to_vec()));
                }
            }
            Observation::Lost { .. } => {}
        }
    }
}

/// A train, or a handshake datagram, on the wire.
#[derive(Clone, Debug)]
pub(super) struct Flight {
    pub(super) from: u8,
    pub(super) to: SocketAddr,
    pub(super) ecn: Ecn,
    pub(super) segment_size: Option<u16>,
    pub(super) bytes: Vec<u8>,
}

pub(super) struct Net {
    pub(super) nodes: Vec<Node>,
    pub(super) now: Instant,
    started: Instant,
}

/// How a net is set up.
pub(super) struct Setup {
    pub(super) mode: SealedMode,
    pub(super) suite: Suite,
    pub(super) workers: usize,
    /// Nodes of the three whose keys are in nobody's table.
    pub(super) without_key: Vec<u8>,
    pub(super) offload: Offload,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            mode: SealedMode::Require,
            suite: Suite::Aes256Gcm,
            workers: 1,
            without_key: Vec::new(),
            offload: Offload::TcpUdp,
        }
    }
}

fn key(node: u8) -> Arc<NodeKey> {
    Arc::new(NodeKey::from_secret(&Zeroizing::new([node; 32])).unwrap())
}

fn identity(node: u8) -> Identity {
    Identity { keys: vec![key(node)], psks: vec![Psk::none()] }
}

pub(super) fn sealed_port_of(node: u8) -> SocketAddr {
    SocketAddr::new(underlay_of(node).ip(), esp::PORT)
}

pub(super) fn node_at(address: IpAddr) -> u8 {
    (1..=3).find(|node| underlay_of(*node).ip() == address).expect("a node's address")
}

impl Flight {
    pub(super) fn datagrams(&self) -> impl Iterator<Item = &[u8]> {
        self.bytes.chunks(self.segment_size.map_or(self.bytes.len(), usize::from))
    }

    pub(super) fn is_sealed(&self) -> bool {
        self.to.port() == esp::PORT && esp::Kind::of(&self.bytes) == esp::Kind::Esp
    }

    pub(super) fn is_handshake(&self) -> bool {
        self.to.port() == esp::PORT && esp::Kind::of(&self.bytes) == esp::Kind::Handshake
    }

    pub(super) fn is_plain(&self) -> bool {
        self.to.port() == PORT
    }

    /// Another datagram in its place, by itself.
    pub(super) fn with(&self, bytes: Vec<u8>) -> Self {
        Self { segment_size: None, bytes, ..self.clone() }
    }
}

impl Node {
    fn new(number: u8, setup: &Setup, started: Instant) -> Self {
        let config = Config {
            vni: vni(),
            post_quantum: PostQuantum::Off,
            suites: Suites::new([setup.suite]),
            lanes: u16::try_from(setup.workers * SENDERS).unwrap(),
        };
        let keeper = Keeper::new(config, identity(number), SystemEntropy, started);
        let thread = |worker: usize| {
            let mut egress = Egress::new();
            if setup.offload == Offload::None {
                egress.without_trains();
            }
            let mut ingress = Ingress::new(setup.offload);
            egress.seal_as(keeper.worker(worker));
            ingress.open_as(keeper.worker(worker));
            Thread {
                engine: Engine::new(started),
                egress,
                ingress,
                tun: MemoryTun::default(),
                underlay: MemoryUnderlay::default(),
                counters: WorkerCounters::default(),
            }
        };
        let threads = (0..setup.workers).map(thread).collect();
        let peers = (1..=3).filter(|peer| *peer != number && !setup.without_key.contains(peer));
        let peers: Vec<PeerKeys> = peers
            .map(|peer| PeerKeys {
                name: format!("node{peer}"),
                address: sealed_port_of(peer),
                keys: vec![*key(peer).public()],
            })
            .collect();
        let sealing = Sealing::new(setup.mode, esp::PORT).with(&peers);
        let mut node = Self {
            number,
            threads,
            table: table_of(number, SEALED_MTU, TunnelOptions::default()).seal(&sealing),
            keeper,
            events: Vec::new(),
            notices: Notices::new().0,
            out: Output::default(),
            sealing,
            seen: None,
        };
        let entries = node.sealing.entries(peers);
        let now = Now { instant: started, unix_nanos: 1 };
        node.keeper.set_table(identity(number), entries, now, &mut node.out);
        node
    }

    /// Lets a pod send.
    pub(super) fn pod_sends(&mut self, header: &VnetHeader, packet: &[u8]) {
        self.pod_sends_by(0, header, packet);
    }

    pub(super) fn pod_sends_by(&mut self, worker: usize, header: &VnetHeader, packet: &[u8]) {
        let mut bytes = header.encode().to_vec();
        bytes.extend_from_slice(packet);
        self.threads[worker].tun.incoming.push_back(bytes.into());
    }

    /// Lets something arrive.
    pub(super) fn arrives(&mut self, flight: &Flight) {
        // As the kernel does, by the ports.
        let worker = usize::from(flight.bytes.last().copied().unwrap_or_default());
        let worker = worker % self.threads.len();
        let underlay = &mut self.threads[worker].underlay;
        let train = MemoryTrain {
            peer: SocketAddr::new(underlay_of(flight.from).ip(), 40_000),
            bucket: 0,
            ecn: flight.ecn,
            segment_size: flight.segment_size,
            bytes: flight.bytes.clone().into(),
        };
        let list = if flight.to.port() == esp::PORT {
            &mut underlay.sealed
        } else {
            &mut underlay.incoming
        };
        list.push_back(train);
    }

    /// Works off what waits; returns what it has sent.
    fn work(&mut self, started: Instant, now: Instant) -> Vec<Flight> {
        let mut flights = Vec::new();
        let age_ms = u64::try_from((now - started).as_millis()).unwrap();
        for thread in &mut self.threads {
            let mut env = Env::new(
                &mut thread.tun,
                &mut thread.underlay,
                &self.table,
                &thread.counters,
                &self.notices,
                now,
            );
            env.tap = self.seen.as_ref().map(|seen| seen as &dyn Tap);
            while thread.egress.round(&mut thread.engine, &mut env) == Round::More {}
            while !env.underlay.incoming.is_empty() || !env.underlay.sealed.is_empty() {
                thread.ingress.round(&thread.engine, &mut env, age_ms);
            }
            flights.extend(thread.underlay.sent.drain(..).map(|train| Flight {
                from: self.number,
                to: train.peer,
                ecn: train.ecn,
                segment_size: train.segment_size,
                bytes: train.bytes.to_vec(),
            }));
        }
        let unix_nanos = 1_000_000_000 + u64::try_from((now - started).as_nanos()).unwrap();
        while self.keeper.work(Now { instant: now, unix_nanos }, &mut self.out) {}
        self.events.append(&mut self.out.events);
        flights.extend(self.out.datagrams.drain(..).map(|(to, bytes)| Flight {
            from: self.number,
            to,
            ecn: Ecn::NotEct,
            segment_size: None,
            bytes,
        }));
        flights
    }

    /// Receives what has arrived, while the machine that makes sessions does nothing.
    pub(super) fn receive_only(&mut self, now: Instant) {
        for thread in &mut self.threads {
            let mut env = Env::new(
                &mut thread.tun,
                &mut thread.underlay,
                &self.table,
                &thread.counters,
                &self.notices,
                now,
            );
            thread.ingress.round(&thread.engine, &mut env, 0);
        }
    }

    /// Reads packets in one round, and lets the machine work before each but the first.
    pub(super) fn read_in_between(&mut self, packets: &[Vec<u8>], now: Instant) {
        let thread = &mut self.threads[0];
        let (keeper, out) = (&mut self.keeper, &mut self.out);
        let mut tun = InBetween { packets: packets.iter(), count: 0, keeper, out, now };
        let underlay = &mut thread.underlay;
        let mut env =
            Env::new(&mut tun, underlay, &self.table, &thread.counters, &self.notices, now);
        thread.egress.round(&mut thread.engine, &mut env);
    }

    pub(super) fn link(&self, peer: u8) -> Arc<PeerLink> {
        let name = format!("node{peer}");
        let peer = self.table.peers().iter().find(|peer| peer.name() == name).unwrap();
        let Seal::Keyed(keyed) = &peer.seal else { panic!("{name} does not seal") };
        Arc::clone(&keyed.link)
    }

    pub(super) fn drops(&self) -> Vec<(DropReason, u64)> {
        let count = |reason| {
            self.threads.iter().map(|thread| thread.counters.drops.count(reason)).sum::<u64>()
        };
        let all = DropReason::ALL.into_iter().map(|reason| (reason, count(reason)));
        all.filter(|(_, count)| *count > 0).collect()
    }

    /// What pods have got since the last time.
    pub(super) fn delivered(&mut self) -> Vec<Vec<u8>> {
        let written = self.threads.iter_mut().flat_map(|thread| thread.tun.written.drain(..));
        written.flat_map(|written| kernel_split(&written)).collect()
    }

    pub(super) fn sessions(&self) -> usize {
        let begun = |event: &&Event| matches!(event.what, What::Established(..));
        self.events.iter().filter(begun).count()
    }
}

/// A TUN queue in between whose packets the machine that makes sessions works.
struct InBetween<'a> {
    packets: std::slice::Iter<'a, Vec<u8>>,
    count: usize,
    keeper: &'a mut Keeper<SystemEntropy>,
    out: &'a mut Output,
    now: Instant,
}

impl TunPort for InBetween<'_> {
    fn recv(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let packet = self.packets.next().ok_or(io::ErrorKind::WouldBlock)?;
        if self.count > 0 {
            while self.keeper.work(Now { instant: self.now, unix_nanos: 2 }, self.out) {}
        }
        self.count += 1;
        let bytes = [&VnetHeader::default().encode()[..], packet].concat();
        buffer[..bytes.len()].copy_from_slice(&bytes);
        Ok(bytes.len())
    }

    fn send(&mut self, _: &[IoSlice<'_>]) -> io::Result<()> {
        Ok(())
    }
}

impl Net {
    pub(super) fn new(setup: &Setup) -> Self {
        let now = clock::now();
        let nodes = (1..=3).map(|number| Node::new(number, setup, now)).collect();
        Self { nodes, now, started: now }
    }

    /// With a session between each two.
    pub(super) fn established(setup: &Setup) -> Self {
        let mut net = Self::new(setup);
        for from in 1..=3 {
            for to in (1..=3).filter(|to| *to != from) {
                let packet = packets::Spec {
                    from: (from, 2),
                    to: (to, 2),
                    ..packets::Spec::outgoing(Family::V4, false, vec![1; 10])
                };
                net.node(from).pod_sends(&VnetHeader::default(), &packet.build());
                net.settle();
            }
        }
        net.pass(Duration::from_secs(2));
        net.nodes.iter_mut().for_each(|node| drop(node.delivered()));
        net
    }

    pub(super) fn node(&mut self, number: u8) -> &mut Node {
        &mut self.nodes[usize::from(number) - 1]
    }

    /// Starts a node anew: it has forgotten its sessions.
    pub(super) fn restart(&mut self, number: u8, setup: &Setup) {
        // Ages are counted from the daemon's start; here all have the same.
        *self.node(number) = Node::new(number, setup, self.started);
    }

    /// Lets everybody work once; returns what was sent.
    pub(super) fn turn(&mut self) -> Vec<Flight> {
        let (started, now) = (self.started, self.now);
        self.nodes.iter_mut().flat_map(|node| node.work(started, now)).collect()
    }

    pub(super) fn deliver(&mut self, flight: &Flight) {
        self.node(node_at(flight.to.ip())).arrives(flight);
    }

    /// Lets all talk until nobody has anything more to say; returns all that was said.
    pub(super) fn settle(&mut self) -> Vec<Flight> {
        self.settle_where(|_| true)
    }

    /// The same where only some of it arrives.
    pub(super) fn settle_where(&mut self, mut arrives: impl FnMut(&Flight) -> bool) -> Vec<Flight> {
        let mut said = Vec::new();
        loop {
            let flights = self.turn();
            if flights.is_empty() {
                return said;
            }
            flights.iter().filter(|flight| arrives(flight)).for_each(|flight| self.deliver(flight));
            said.extend(flights);
            assert!(said.len() < 100_000, "they come to an end");
        }
    }

    /// Lets time pass.
    pub(super) fn pass(&mut self, duration: Duration) -> Vec<Flight> {
        self.pass_where(duration, |_| true)
    }

    pub(super) fn pass_where(
        &mut self,
        duration: Duration,
        mut arrives: impl FnMut(&Flight) -> bool,
    ) -> Vec<Flight> {
        let end = self.now + duration;
        let mut said = self.settle_where(&mut arrives);
        while self.now < end {
            self.now = (self.now + Duration::from_millis(50)).min(end);
            said.extend(self.settle_where(&mut arrives));
        }
        said
    }
}
