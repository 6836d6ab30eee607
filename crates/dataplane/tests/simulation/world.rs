//! One run: nodes, network and operator under one clock, and what each event does to them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use crate::clock::Clock;
use crate::cluster::Cluster;
use crate::ledger::{Fate, Ledger, Violation, ensure};
use crate::network::{Network, Passage};
use crate::node::{Arrival, Emitter, Flight, Node};
use crate::packet::{Read, Spec, addresses};
use crate::ports::Sent;
use crate::random::Random;
use crate::scenario::Act;

/// Control looks at a path again so long after it was found too narrow.
const CONTROL_DELAY: Duration = Duration::from_millis(20);
/// Packets that wait in a TUN queue, and trains in a socket, at most.
const QUEUE: usize = 64;
/// Longest time between two versions of the routes and bridges and the table that they follow.
pub(crate) const KERNEL_LAG_MS: u64 = 50;

/// What happens at a moment.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// The scenario goes on.
    Act(Act),
    /// A worker finds something to do.
    Wake(usize),
    Arrives(usize, Arrival),
    TableReaches {
        node: usize,
        version: usize,
    },
    KernelFollows(usize),
    Starts(usize),
    /// The underlay told a node of a narrow path.
    PathLearned {
        node: usize,
        to: IpAddr,
        mtu: u16,
    },
    ControlReadsPaths(usize),
    /// What a node knew of its paths has grown old.
    PathsForgotten(usize),
}

pub(crate) struct World {
    pub(crate) random: Random,
    pub(crate) clock: Clock<Event>,
    pub(crate) cluster: Cluster,
    pub(crate) network: Network,
    pub(crate) nodes: Vec<Node>,
    pub(crate) ledger: Ledger,
    /// What pods have been told: longest packet by sender and destination.
    pub(crate) pod_mtu: BTreeMap<(IpAddr, IpAddr), u16>,
    /// Which sending socket each flow of a node leaves by.
    pub(crate) buckets: BTreeMap<(usize, FlowKey), usize>,
    /// Datagrams seen on the wire, for those who replay.
    pub(crate) heard: Vec<Flight>,
    pub(crate) goal: crate::scenario::Goal,
    pub(crate) events: u64,
    trace: Option<String>,
}

/// What makes a flow: addresses, protocol and ports.
pub(crate) type FlowKey = (IpAddr, IpAddr, u8, [u8; 4]);

impl World {
    pub(crate) fn new(seed: u64, traced: bool) -> Self {
        let mut random = Random::new(seed);
        let count = 2 + random.below(4);
        let cluster = Cluster::new(count, &mut random);
        let nodes = (0..count)
            .map(|id| Node::new(id, random.pick(&culvert_dataplane::platform::tun::Offload::ALL)))
            .collect();
        Self {
            random,
            clock: Clock::new(),
            cluster,
            network: Network::new(),
            nodes,
            ledger: Ledger::default(),
            pod_mtu: BTreeMap::new(),
            buckets: BTreeMap::new(),
            heard: Vec::new(),
            goal: crate::scenario::Goal::default(),
            events: 0,
            trace: traced.then(String::new),
        }
    }

    pub(crate) fn trace(&self) -> &str {
        self.trace.as_deref().unwrap_or_default()
    }

    /// Writes a line of the trace, if there is one.
    pub(crate) fn tell(&mut self, line: impl FnOnce() -> String) {
        let now = self.clock.now();
        if let Some(trace) = &mut self.trace {
            let _ = writeln!(trace, "{:>9.3} ms  {}", now.as_secs_f64() * 1e3, line());
        }
    }

    /// Runs until nothing is left to happen.
    pub(crate) fn run(&mut self) -> Result<(), Violation> {
        self.begin();
        while let Some(event) = self.clock.next() {
            self.events += 1;
            self.handle(event)?;
        }
        self.ledger.close()?;
        self.finish()
    }

    fn handle(&mut self, event: Event) -> Result<(), Violation> {
        match event {
            Event::Act(act) => self.act(act),
            Event::Wake(node) => self.wake(node),
            Event::Arrives(node, arrival) => self.arrives(node, arrival),
            Event::TableReaches { node, version } => self.table_reaches(node, version),
            Event::KernelFollows(node) => {
                self.kernel_follows(node);
                Ok(())
            }
            Event::Starts(node) => {
                self.nodes[node].wanted = true;
                let newest = self.cluster.versions.iter().rposition(|version| !version.broken);
                self.table_reaches(node, newest.unwrap())
            }
            Event::PathLearned { node, to, mtu } => {
                self.tell(|| {
                    format!("node{node} learns that the path to {to} carries {mtu} bytes")
                });
                self.nodes[node].learn_path(to, mtu);
                Ok(())
            }
            Event::PathsForgotten(node) => {
                self.nodes[node].forget_paths();
                self.nodes[node].refresh_paths(&self.cluster);
                Ok(())
            }
            Event::ControlReadsPaths(node) => {
                self.nodes[node].refresh_paths(&self.cluster);
                Ok(())
            }
        }
    }

    /// Pods of `node` send: the packets wait in its TUN queue.
    pub(crate) fn send(&mut self, node: usize, spec: &Spec) -> Result<(), Violation> {
        for read in spec.reads() {
            self.put(node, read)?;
        }
        Ok(())
    }

    pub(crate) fn put(&mut self, node: usize, read: Read) -> Result<(), Violation> {
        let full = self.nodes[node].reads.len() >= QUEUE;
        if self.nodes[node].daemon.is_none() || full {
            // The kernel drops what goes to a device that nobody reads.
            for number in &read.numbers {
                self.ledger.end(*number, Fate::LostWithItsNode)?;
            }
            return Ok(());
        }
        self.nodes[node].reads.push(read);
        self.rouse(node);
        Ok(())
    }

    fn arrives(&mut self, node: usize, arrival: Arrival) -> Result<(), Violation> {
        let full = self.nodes[node].arrivals.len() >= QUEUE;
        if self.nodes[node].daemon.is_none() || full {
            for flight in &arrival.flights {
                self.ledger.end(flight.number, Fate::LostWithItsNode)?;
            }
            return Ok(());
        }
        self.nodes[node].arrivals.push(arrival);
        self.rouse(node);
        Ok(())
    }

    /// Makes a worker look at its queues soon; until then more may come.
    fn rouse(&mut self, node: usize) {
        if !self.nodes[node].awake {
            self.nodes[node].awake = true;
            let delay = Duration::from_micros(self.random.between(1, 300));
            self.clock.after(delay, Event::Wake(node));
        }
    }

    fn wake(&mut self, node: usize) -> Result<(), Violation> {
        self.nodes[node].awake = false;
        if self.nodes[node].daemon.is_none() {
            return Ok(());
        }
        let sent = self.egress(node)?;
        self.carry(node, sent)?;
        self.ingress(node)?;
        let daemon = self.nodes[node].daemon.as_mut().expect("it is up");
        if !daemon.narrow_paths().is_empty() {
            self.clock.after(CONTROL_DELAY, Event::ControlReadsPaths(node));
        }
        Ok(())
    }

    /// Hands what a node sent to the network, each datagram with its account.
    fn carry(&mut self, node: usize, sent: Vec<(Sent, Option<u32>)>) -> Result<(), Violation> {
        let mut rest = sent.into_iter().filter(|(sent, _)| sent.refused.is_none()).peekable();
        while let Some(first) = rest.next() {
            let (to, train, ecn) = (first.0.to, first.0.train, first.0.ecn);
            let mut flights = vec![first];
            while let Some(next) = rest.next_if(|(next, _)| next.train == train) {
                flights.push(next);
            }
            let flights: Vec<Flight> = flights
                .into_iter()
                .map(|(sent, number)| Flight {
                    bytes: sent.bytes,
                    emitter: Emitter::Node(node),
                    number,
                })
                .collect();
            self.heard.extend(flights.first().cloned());
            let source = self.cluster.address(node);
            let to = self.cluster.node_at(to).expect("only nodes are sent to");
            self.fly(Some(node), to, source, ecn, flights)?;
        }
        Ok(())
    }

    /// Lets a train cross the network, from `from` if that is a node with paths of its own.
    pub(crate) fn fly(
        &mut self,
        from: Option<usize>,
        to: usize,
        source: IpAddr,
        ecn: u8,
        flights: Vec<Flight>,
    ) -> Result<(), Violation> {
        let headers = if self.cluster.v6_underlay { 48 } else { 28 };
        let longest = flights.iter().map(|flight| flight.bytes.len() + headers).max().unwrap();
        // A stranger's path is nobody's: it has the same weather and no partitions.
        let place = from.unwrap_or(usize::MAX);
        let passages = self.network.carry(place, to, flights.len(), longest, &mut self.random);
        let mut together: BTreeMap<(Duration, bool), Vec<Flight>> = BTreeMap::new();
        let mut narrow = BTreeSet::new();
        for (flight, copies) in flights.into_iter().zip(passages) {
            for (copy, passage) in copies.into_iter().enumerate() {
                if copy > 0 {
                    self.ledger.copy(flight.number);
                }
                match passage {
                    Passage::Arrives { delay, marked } => {
                        together.entry((delay, marked)).or_default().push(flight.clone());
                    }
                    Passage::Lost | Passage::Partitioned => {
                        self.ledger.end(flight.number, Fate::LostOnTheWire)?;
                    }
                    Passage::TooLong(mtu) => {
                        narrow.insert(mtu);
                        self.ledger.end(flight.number, Fate::LostOnTheWire)?;
                    }
                }
            }
        }
        if let (Some(node), Some(mtu)) = (from, narrow.pop_first()) {
            let to = self.cluster.address(to);
            self.clock.after(Duration::from_millis(1), Event::PathLearned { node, to, mtu });
        }
        for ((delay, marked), flights) in together {
            // A mark is only put on what says that it understands marks; some routers do not know.
            let ecn = if marked && (ecn != 0 || self.random.percent(20)) { 3 } else { ecn };
            for flights in trains(flights) {
                self.clock.after(delay, Event::Arrives(to, Arrival { source, ecn, flights }));
            }
        }
        Ok(())
    }

    fn table_reaches(&mut self, node: usize, version: usize) -> Result<(), Violation> {
        let moment = (self.clock.now(), self.clock.instant());
        let was_down = self.nodes[node].daemon.is_none();
        let taken = self.nodes[node]
            .take_table(&self.cluster, version, moment)
            .map_err(|detail| Violation::new("a table is taken or refused whole", detail))?;
        if taken {
            self.tell(|| {
                let what = if was_down { "starts with" } else { "takes" };
                format!("node{node} {what} version {version} of the table")
            });
            let lag = Duration::from_millis(self.random.between(0, KERNEL_LAG_MS));
            self.clock.after(lag, Event::KernelFollows(node));
        }
        Ok(())
    }

    fn kernel_follows(&mut self, node: usize) {
        let Some(daemon) = &self.nodes[node].daemon else { return };
        let version = &self.cluster.versions[daemon.version];
        let subnets = version.entry(node).map(|entry| entry.subnets.clone());
        self.nodes[node].kernel.bridges = subnets.unwrap_or_default();
    }

    /// The daemon dies, and with it what waited in its queues.
    pub(crate) fn crash(&mut self, node: usize) -> Result<(), Violation> {
        self.tell(|| format!("node{node} stops"));
        let node = &mut self.nodes[node];
        (node.daemon, node.wanted) = (None, false);
        let waiting = node.reads.drain(..).flat_map(|read| read.numbers);
        let arrived = node.arrivals.drain(..).flat_map(|arrival| arrival.flights);
        let all: Vec<_> = waiting.chain(arrived.map(|flight| flight.number)).collect();
        all.into_iter().try_for_each(|number| self.ledger.end(number, Fate::LostWithItsNode))
    }

    /// What a node's kernel does with a packet that its daemon has delivered.
    pub(crate) fn kernel_takes(
        &mut self,
        node: usize,
        packet: &[u8],
        number: Option<u32>,
    ) -> Result<(), Violation> {
        let Some(routed) = crate::packet::routed(packet) else {
            return self.ledger.end(number, Fate::HopsUsedUp);
        };
        let (_, destination) = addresses(packet);
        if self.nodes[node].kernel.bridges.iter().any(|subnet| subnet.contains(&destination)) {
            self.ledger.last_delivery = self.clock.now();
            return self.ledger.end(number, Fate::Delivered);
        }
        // The bridges lag behind the table: the only route left leads back into the overlay.
        self.tell(|| format!("node{node} has no bridge for {destination}: back into the tunnel"));
        self.ledger.copy(number);
        self.ledger.end(number, Fate::BackIntoTheTunnel)?;
        let version = self.nodes[node].daemon.as_ref().map(|daemon| daemon.version);
        ensure("a delivery needs a daemon", version.is_some(), String::new)?;
        let bytes = [&[0; 10], routed.as_slice()].concat();
        let read = Read {
            bytes,
            dont_fragment: routed[0] >> 4 == 6 || routed[6] & 0x40 != 0,
            packets: vec![routed],
            numbers: vec![number],
            delivered_under: version,
        };
        self.put(node, read)
    }
}

/// Cuts what arrives together into what a receiver gets as one train: equal lengths, the last may
/// be shorter.
fn trains(flights: Vec<Flight>) -> Vec<Vec<Flight>> {
    let mut trains: Vec<Vec<Flight>> = Vec::new();
    for flight in flights {
        match trains.last_mut() {
            Some(train)
                if train.iter().all(|other| other.bytes.len() == train[0].bytes.len())
                    && !flight.bytes.is_empty()
                    && flight.bytes.len() <= train[0].bytes.len()
                    && (train.len() + 1) * train[0].bytes.len() <= 65_000 =>
            {
                train.push(flight);
            }
            _ => trains.push(vec![flight]),
        }
    }
    trains
}
