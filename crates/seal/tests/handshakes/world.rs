//! Time, the network, and what must hold whatever happens.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use culvert_seal::keys::PublicKey;
use culvert_seal::mesh::{Output, What};
use culvert_seal::session::Outgoing;

use crate::node::{LANES, Node, Taken, address, key};
use crate::random::Random;

const YEAR: i64 = 365 * 24 * 3600 * 1_000_000_000;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Percent of datagrams that are lost.
    pub(crate) loss: u64,
    /// Duplicates, disorder, wrong clocks, restarts, other keys, replays.
    pub(crate) trouble: bool,
    /// All begin at one moment, or within a few ways between nodes.
    pub(crate) crossing: bool,
    /// Plain until there is a session.
    pub(crate) prefer: bool,
    /// Every node gets another key.
    pub(crate) rotation: bool,
    /// How long there is traffic, in virtual seconds.
    pub(crate) seconds: u64,
    /// How long the network is good before everything must arrive.
    pub(crate) calm: u64,
    pub(crate) log: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            loss: 0,
            trouble: false,
            crossing: false,
            prefer: false,
            rotation: false,
            seconds: 30,
            calm: 30,
            log: false,
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) delivered: usize,
    pub(crate) sessions: usize,
    pub(crate) replays: usize,
}

enum Event {
    Arrival { from: SocketAddr, to: usize, bytes: Vec<u8>, plain: bool },
    Send { from: usize, to: usize },
    Tick(usize),
    Trouble,
    Table { node: usize, table: Table },
    Switch { node: usize },
    Retire { node: usize },
}

/// The nodes and their keys; the number says which of two tables is the newer one.
#[derive(Clone)]
struct Table {
    edition: u64,
    nodes: Vec<(usize, Vec<PublicKey>)>,
}

pub(crate) struct World {
    random: Random,
    plan: Plan,
    start: Instant,
    now: Duration,
    nodes: Vec<Node>,
    /// The newest table, and which one each node has.
    edition: u64,
    editions: Vec<u64>,
    queue: BTreeMap<(Duration, u64), Event>,
    events: u64,
    /// Whose machine will be called.
    ticks: Vec<bool>,
    /// Every pair of key and IV, and the keys, so that no address is used again.
    used: HashSet<(usize, [u8; 8])>,
    keys: HashMap<usize, Arc<Outgoing>>,
    /// Every packet that was sent, and to whom it was delivered.
    sent: u64,
    delivered: HashSet<u64>,
    recorded: Vec<(SocketAddr, usize, Vec<u8>)>,
    healed: bool,
    refused_plain: u64,
    /// Packets sent after the network was mended, that must arrive.
    owed: HashSet<u64>,
    outcome: Outcome,
}

impl World {
    #[expect(clippy::disallowed_methods, reason = "the zero of the virtual clock")]
    pub(crate) fn new(mut random: Random, plan: Plan) -> Self {
        let start = Instant::now();
        let count = 2 + random.below(4) as usize;
        let nodes = (0..count)
            .map(|index| {
                let keys = vec![key(&mut random)];
                Node::new(index, keys, &mut random, start)
            })
            .collect();
        Self {
            random,
            plan,
            start,
            now: Duration::ZERO,
            nodes,
            edition: 0,
            editions: vec![0; count],
            queue: BTreeMap::new(),
            events: 0,
            ticks: vec![false; count],
            used: HashSet::new(),
            keys: HashMap::new(),
            sent: 0,
            delivered: HashSet::new(),
            recorded: Vec::new(),
            healed: false,
            refused_plain: 0,
            owed: HashSet::new(),
            outcome: Outcome::default(),
        }
    }

    fn at(&mut self, when: Duration, event: Event) {
        self.events += 1;
        self.queue.insert((when, self.events), event);
    }

    fn instant(&self) -> Instant {
        self.start + self.now
    }

    fn table(&mut self) -> Table {
        let keys = |node: &Node| node.keys.iter().map(|key| *key.public()).collect();
        let nodes = self.nodes.iter().map(|node| (node.index, keys(node))).collect();
        self.edition += 1;
        Table { edition: self.edition, nodes }
    }

    /// Gives a node a table, unless it has a newer one: tables take their time, and no source tells
    /// of an older one after a newer.
    fn give(&mut self, node: usize, table: &Table) {
        if table.edition < self.editions[node] {
            return;
        }
        self.editions[node] = table.edition;
        let instant = self.instant();
        let mut out = Output::default();
        self.nodes[node].set_table(&table.nodes, instant, &mut out);
        self.act(node, out);
    }

    pub(crate) fn run(mut self) -> Outcome {
        let table = self.table();
        let count = self.nodes.len();
        for node in 0..count {
            self.give(node, &table);
        }
        let traffic = Duration::from_secs(self.plan.seconds);
        let spread = if self.plan.crossing { self.random.below(2000) } else { 3_000_000 };
        for from in 0..count {
            for to in (0..count).filter(|to| *to != from) {
                let first = Duration::from_micros(100_000 + self.random.below(spread));
                self.at(first, Event::Send { from, to });
            }
        }
        if self.plan.trouble {
            for _ in 0..6 {
                let when = Duration::from_millis(self.random.below(traffic.as_millis() as u64));
                self.at(when, Event::Trouble);
            }
        }
        if self.plan.rotation {
            for node in 0..count {
                let when = traffic / 4 + Duration::from_millis(self.random.below(20_000));
                self.rotate(node, when);
            }
        }
        self.until(traffic);
        // The network is mended, all know the same table, and what is sent some time later arrives.
        self.healed = true;
        let table = self.table();
        for node in 0..count {
            self.at(self.now, Event::Table { node, table: table.clone() });
        }
        let calm = Duration::from_secs(self.plan.calm);
        self.until(traffic + calm);
        self.owed.clear();
        self.until(traffic + calm + Duration::from_secs(5));
        let owed = std::mem::take(&mut self.owed);
        self.until(traffic + calm + Duration::from_secs(6));
        let lost = owed.difference(&self.delivered).count();
        assert!(owed.len() >= count * (count - 1), "there was traffic");
        assert_eq!(lost, 0, "of {} packets after the network was mended", owed.len());
        if self.plan.loss == 0 && !self.plan.trouble {
            let lost = self.sent - self.delivered.len() as u64;
            // The last ones are on their way.
            assert!(lost <= 3 * (count * count) as u64, "{lost} of {} were lost", self.sent);
            assert_eq!(self.refused_plain, 0);
        }
        if self.plan.crossing {
            let pairs = count * (count - 1) / 2;
            // Each end tells of each session; renewals come after 100 seconds.
            assert_eq!(self.outcome.sessions, 2 * pairs, "one session for each pair");
        }
        self.outcome.delivered = self.delivered.len();
        self.outcome
    }

    fn until(&mut self, end: Duration) {
        while let Some(entry) = self.queue.first_entry() {
            let (when, _) = *entry.key();
            if when > end {
                break;
            }
            let event = entry.remove();
            self.now = when.max(self.now);
            self.step(event);
        }
        self.now = end;
    }

    fn step(&mut self, event: Event) {
        let instant = self.instant();
        let mut out = Output::default();
        match event {
            Event::Tick(node) => {
                self.ticks[node] = false;
                let now = self.nodes[node].now(instant);
                self.nodes[node].mesh.tick(now, &mut out);
                if let Some(next) = self.nodes[node].mesh.next_tick(instant) {
                    let next = (next - self.start).max(self.now + Duration::from_millis(1));
                    self.ticks[node] = true;
                    self.at(next, Event::Tick(node));
                }
                self.act(node, out);
            }
            Event::Send { from, to } => self.send(from, to),
            Event::Arrival { from, to, mut bytes, plain } => {
                if plain {
                    return self.plain(from, to, &bytes);
                }
                let taken = self.nodes[to].take(from.ip(), &mut bytes, instant, &mut out);
                self.act(to, out);
                match taken {
                    Taken::Data { number, .. } => {
                        assert!(self.delivered.insert(number), "packet {number} twice");
                    }
                    Taken::Replayed => self.outcome.replays += 1,
                    Taken::Nothing => {}
                }
            }
            Event::Trouble => self.trouble(),
            Event::Table { node, table } => self.give(node, &table),
            Event::Switch { node } => {
                self.nodes[node].keys.reverse();
                let table = self.table();
                self.give(node, &table);
            }
            Event::Retire { node } => {
                self.nodes[node].keys.truncate(1);
                self.publish();
            }
        }
    }

    fn plain(&mut self, from: SocketAddr, to: usize, bytes: &[u8]) {
        let (instant, count) = (self.instant(), self.nodes.len());
        let from = (0..count).find(|node| address(*node) == from).unwrap();
        let ms = self.nodes[to].ms(instant);
        if self.nodes[to].link(from).refuses_plain(ms) {
            self.refused_plain += 1;
        } else {
            self.delivered.insert(u64::from_be_bytes(bytes.try_into().unwrap()));
        }
    }

    fn send(&mut self, from: usize, to: usize) {
        let instant = self.instant();
        // Some are silent for a while, so that sessions end; traffic of a second or so keeps them.
        let pause = match self.random.below(50) {
            0 if self.plan.trouble && !self.healed => self.random.below(20_000),
            _ => 50 + self.random.below(400),
        };
        self.at(self.now + Duration::from_millis(pause), Event::Send { from, to });
        let number = self.sent;
        let lane = self.random.below(LANES.into()) as u16;
        if let Some((bytes, outgoing, iv)) = self.nodes[from].seal(to, lane, number, instant) {
            self.sent += 1;
            self.owed.insert(number);
            let id = Arc::as_ptr(&outgoing) as usize;
            self.keys.insert(id, outgoing);
            assert!(self.used.insert((id, iv)), "an IV twice with one key");
            self.transmit(address(from), to, bytes, false);
            return;
        }
        // Held, or sent in plain, as the data path does.
        let link = self.nodes[from].link(to);
        if self.plan.prefer && !link.seals() {
            self.sent += 1;
            self.transmit(address(from), to, number.to_be_bytes().to_vec(), true);
        }
        let mut out = Output::default();
        let now = self.nodes[from].now(instant);
        self.nodes[from].mesh.want(&to.to_string(), now, &mut out);
        self.act(from, out);
    }

    fn act(&mut self, node: usize, out: Output) {
        for event in &out.events {
            if self.plan.log {
                println!(
                    "{:>9.3} {node} with {}: {}",
                    self.now.as_secs_f64(),
                    event.peer,
                    event.what
                );
            }
            if matches!(event.what, What::Established(..)) {
                self.outcome.sessions += 1;
            }
        }
        for (to, bytes) in out.datagrams {
            let to = (0..self.nodes.len()).find(|node| address(*node) == to).unwrap();
            self.transmit(address(node), to, bytes, false);
        }
        if self.nodes[node].mesh.next_tick(self.instant()).is_some()
            && !std::mem::replace(&mut self.ticks[node], true)
        {
            self.at(self.now + Duration::from_millis(50), Event::Tick(node));
        }
    }

    fn transmit(&mut self, from: SocketAddr, to: usize, bytes: Vec<u8>, plain: bool) {
        if self.plan.trouble && !plain && self.random.percent(5) && self.recorded.len() < 200 {
            self.recorded.push((from, to, bytes.clone()));
        }
        let rough = !self.healed && self.plan.trouble;
        let copies = if rough && self.random.percent(5) { 2 } else { 1 };
        for _ in 0..copies {
            if !self.healed && self.random.percent(self.plan.loss) {
                continue;
            }
            let delay = if rough {
                self.random.below(100_000)
            } else if self.plan.crossing {
                // In order: an INIT that a RESP overtakes makes a second session, which does no
                // harm.
                500
            } else {
                500 + self.random.below(200)
            };
            let when = self.now + Duration::from_micros(delay);
            self.at(when, Event::Arrival { from, to, bytes: bytes.clone(), plain });
        }
    }

    fn publish(&mut self) {
        let table = self.table();
        for node in 0..self.nodes.len() {
            let when = self.now + Duration::from_millis(self.random.below(1000));
            self.at(when, Event::Table { node, table: table.clone() });
        }
    }

    /// Publish, wait, switch, wait, retire.
    fn rotate(&mut self, node: usize, when: Duration) {
        let next = key(&mut self.random);
        self.nodes[node].keys.push(next);
        let table = self.table();
        for of in 0..self.nodes.len() {
            self.at(when, Event::Table { node: of, table: table.clone() });
        }
        self.at(when + Duration::from_secs(5), Event::Switch { node });
        self.at(when + Duration::from_secs(60), Event::Retire { node });
    }

    fn trouble(&mut self) {
        let node = self.random.below(self.nodes.len() as u64) as usize;
        match self.random.below(4) {
            0 => {
                let years = self.random.below(21) as i64 - 10;
                self.nodes[node].clock = years * YEAR;
            }
            1 => {
                let keys = self.nodes[node].keys.clone();
                let clock = self.nodes[node].clock;
                let fresh = Node::new(node, keys, &mut self.random, self.start);
                self.nodes[node] = fresh;
                self.nodes[node].clock = clock;
                let table = self.table();
                self.give(node, &table);
            }
            2 if self.nodes[node].keys.len() == 1 => {
                let next = key(&mut self.random);
                self.nodes[node].keys.push(next);
                self.publish();
                let pause = Duration::from_millis(self.random.below(3000));
                self.at(self.now + pause, Event::Switch { node });
                self.at(self.now + pause * 2, Event::Retire { node });
            }
            _ => {
                // Everything that was seen so far comes again, from whom it came.
                for (from, to, bytes) in self.recorded.clone() {
                    let when = self.now + Duration::from_millis(self.random.below(2000));
                    self.at(when, Event::Arrival { from, to, bytes, plain: false });
                }
            }
        }
    }
}
