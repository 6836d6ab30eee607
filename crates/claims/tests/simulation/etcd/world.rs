//! One run: nodes, a store between them, what goes wrong, and what must hold all the while.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use culvert_claims::etcd::{
    Change, Claims, Compare, Ended, Event, Found, Identity, KeyValue, Memory, Request, Transaction,
    Unwritten, Watched,
};
use culvert_claims::{HeldAddress, PodsUnknown, Proposal, Update};
use ipnet::IpNet;
use serde::Deserialize;

use super::node::{Daemon, Disk, Node, Waiting};
use super::store::{Data, Store};
use crate::clock::Clock;
use crate::random::Random;
use crate::report::Violation;

pub(crate) const PREFIX: &str = "/c";
/// How long a call may take; the driver's own limit.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a dead connection goes unnoticed.
const NOTICED: Duration = Duration::from_secs(10);

/// What happens next.
pub(crate) enum Happening {
    Connect {
        node: usize,
        session: u64,
    },
    /// A request reaches the store.
    Ask {
        node: usize,
        session: u64,
        number: u64,
        request: Request,
        /// Who asked.
        marks: Marks,
    },
    Answer {
        node: usize,
        session: u64,
        number: u64,
        answer: Answer,
    },
    Late {
        node: usize,
        session: u64,
        number: u64,
    },
    Told {
        node: usize,
        session: u64,
        watched: Watched,
        revision: i64,
    },
    Broken {
        node: usize,
        session: u64,
    },
    Wake {
        node: usize,
        number: u64,
    },
    Updates {
        node: usize,
        boot: u64,
    },
    LastGood {
        node: usize,
        boot: u64,
    },
    Start {
        node: usize,
    },
    Expire(i64),
    Heal {
        node: usize,
    },
    Up,
    Trouble,
    Pod,
    /// The end of a part of the run.
    Mark,
}

/// What a node asked for.
pub(crate) enum Answer {
    Found(Found),
    Keys(Vec<Option<KeyValue>>),
    Leased(i64),
    Kept(bool),
    Done(bool),
    Refused,
    Watching,
    Heard,
    Pods(Result<Vec<HeldAddress>, PodsUnknown>),
    Remembered(Memory, bool),
}

/// What a machine is told by: in a claim in the store, or as it was when it asked for something.
#[derive(Deserialize)]
pub(crate) struct Marks {
    node: String,
    instance: String,
    address: IpAddr,
}

impl Marks {
    /// Whether a claim is of that machine: of three marks, two are its own.
    fn own(&self, claim: &Self) -> bool {
        let same = [
            claim.instance == self.instance,
            claim.node == self.node,
            claim.address == self.address,
        ];
        same.into_iter().filter(|same| *same).count() >= 2
    }
}

pub(crate) struct World {
    pub(crate) random: Random,
    pub(crate) clock: Clock<Happening>,
    pub(crate) store: Store,
    pub(crate) nodes: Vec<Node>,
    pub(crate) backup: Option<Data>,
    pub(crate) identity: Identity,
    pub(crate) trouble: bool,
    pub(crate) events: u64,
    /// How often each thing happened that the run is about.
    pub(crate) fates: BTreeMap<&'static str, u64>,
    pub(crate) machines: u64,
    trace: Option<String>,
}

type Held = Result<(), Violation>;

impl World {
    pub(crate) fn new(seed: u64, traced: bool) -> Self {
        let mut random = Random::new(seed);
        let lease = Duration::from_secs(random.between(5, 60));
        let identity = Identity { prefix: PREFIX.into(), lease, parameters: None };
        Self {
            random,
            clock: Clock::new(),
            store: Store::new(),
            nodes: Vec::new(),
            backup: None,
            identity,
            trouble: true,
            events: 0,
            fates: BTreeMap::new(),
            machines: 0,
            trace: traced.then(String::new),
        }
    }

    pub(crate) fn trace(&self) -> &str {
        self.trace.as_deref().unwrap_or_default()
    }

    pub(crate) fn say(&mut self, what: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            let now = self.clock.now();
            let _ = writeln!(trace, "{:>10.3} {}", now.as_secs_f64(), what());
        }
    }

    pub(crate) fn count(&mut self, fate: &'static str) {
        *self.fates.entry(fate).or_default() += 1;
    }

    /// A machine that never ran.
    pub(crate) fn add(&mut self, name: &str, address: IpAddr) -> usize {
        self.machines += 1;
        let memory = Memory::new(&format!("i{}", self.machines), name);
        let disk = Disk { memory: memory.clone(), table: Vec::new(), pods: Vec::new() };
        self.nodes.push(Node {
            name: name.to_owned(),
            address,
            disk,
            runs: false,
            retired: false,
            boot: 0,
            claims: Claims::new(self.identity.clone(), memory, Vec::new()),
            session: 0,
            asked: 0,
            wake: 0,
            hears: false,
            went_back: false,
            waiting: Waiting::Pause,
            watched: VecDeque::new(),
            watch: None,
            told_at: Duration::ZERO,
            told_address: address,
            moved: false,
            told_ready: false,
            reload: false,
            pause: Duration::ZERO,
            cut: false,
            frozen_until: Duration::ZERO,
            ahead: Duration::ZERO,
            seen: (0, 0),
            contested: None,
            daemon: Daemon::default(),
        });
        self.nodes.len() - 1
    }

    /// Starts the daemon of a node.
    pub(crate) fn start(&mut self, node: usize) {
        let it = &mut self.nodes[node];
        if it.runs || it.retired {
            return;
        }
        it.runs = true;
        it.boot += 1;
        it.daemon = Daemon::default();
        it.contested = None;
        it.told_ready = false;
        it.went_back = false;
        it.seen = (0, 0);
        it.claims =
            Claims::new(self.identity.clone(), it.disk.memory.clone(), it.disk.table.clone());
        it.pause = Duration::from_millis(250);
        let boot = it.boot;
        self.say(|| format!("node {node} starts"));
        self.clock.after(Duration::from_secs(3), Happening::LastGood { node, boot });
        self.pause(node, Duration::ZERO);
    }

    /// Kills the daemon of a node.
    pub(crate) fn stop(&mut self, node: usize) {
        let it = &mut self.nodes[node];
        it.runs = false;
        it.session += 1;
        it.boot += 1;
        it.daemon = Daemon::default();
        self.say(|| format!("node {node} stops"));
    }

    fn pause(&mut self, node: usize, pause: Duration) {
        let it = &mut self.nodes[node];
        it.session += 1;
        it.waiting = Waiting::Pause;
        it.watched.clear();
        it.watch = None;
        let session = it.session;
        let delay = pause + self.delay();
        self.clock.after(delay, Happening::Connect { node, session });
    }

    /// How long a message takes: mostly milliseconds, and sometimes longer than anybody waits.
    pub(crate) fn delay(&mut self) -> Duration {
        let slow = self.trouble && self.random.percent(2);
        Duration::from_millis(if slow {
            self.random.between(100, 20_000)
        } else {
            self.random.between(1, 30)
        })
    }

    /// Whether a node and the store hear one another.
    fn is_connected(&self, node: usize) -> bool {
        self.store.up && !self.nodes[node].cut
    }

    /// Lets time pass.
    pub(crate) fn pass(&mut self, time: Duration) -> Held {
        let end = self.clock.now() + time;
        self.clock.at(end, Happening::Mark);
        while self.clock.now() < end {
            self.step()?;
        }
        Ok(())
    }

    /// What happens next; what the scenario must do is handed to it.
    pub(crate) fn step(&mut self) -> Result<Option<Happening>, Violation> {
        let Some(happening) = self.clock.next() else { return Ok(None) };
        self.events += 1;
        if matches!(happening, Happening::Trouble | Happening::Pod) {
            return Ok(Some(happening));
        }
        self.happen(happening)?;
        Ok(None)
    }

    /// A new disk, with nothing on it.
    pub(crate) fn renew_disk(&mut self, node: usize) {
        self.machines += 1;
        let memory = Memory::new(&format!("i{}", self.machines), &self.nodes[node].name);
        self.nodes[node].disk = Disk { memory, table: Vec::new(), pods: Vec::new() };
    }

    /// Whether that session of the node still is; one of a machine that is frozen waits.
    fn is_session(&self, node: usize, session: u64) -> bool {
        let it = &self.nodes[node];
        it.runs && it.session == session
    }

    fn happen(&mut self, happening: Happening) -> Held {
        let frozen = match &happening {
            Happening::Connect { node, .. }
            | Happening::Answer { node, .. }
            | Happening::Late { node, .. }
            | Happening::Told { node, .. }
            | Happening::Broken { node, .. }
            | Happening::Wake { node, .. }
            | Happening::Updates { node, .. }
            | Happening::LastGood { node, .. } => self.nodes[*node].frozen_until,
            _ => Duration::ZERO,
        };
        if frozen > self.clock.now() {
            self.clock.at(frozen, happening);
            return Ok(());
        }
        match happening {
            Happening::Connect { node, session } if self.is_session(node, session) => {
                if !self.is_connected(node) {
                    return self.lost(node, "no connection");
                }
                let it = &mut self.nodes[node];
                it.moved = false;
                it.reload = false;
                it.told_ready = it.daemon.ready;
                it.told_address = it.address;
                it.claims.begin(it.address);
                self.drive(node)
            }
            Happening::Ask { node, session, number, request, marks } => {
                self.ask(node, session, number, request, &marks)
            }
            Happening::Answer { node, session, number, answer }
                if self.is_session(node, session)
                    && self.nodes[node].waiting == Waiting::Answer(number) =>
            {
                self.answer(node, answer)
            }
            Happening::Late { node, session, number }
                if self.is_session(node, session)
                    && self.nodes[node].waiting == Waiting::Answer(number) =>
            {
                self.lost(node, "no answer")
            }
            Happening::Told { node, session, watched, revision }
                if self.is_session(node, session) =>
            {
                self.nodes[node].watched.push_back((watched, revision));
                self.go_on(node)
            }
            Happening::Broken { node, session } if self.is_session(node, session) => {
                if self.nodes[node].waiting == Waiting::Pause {
                    return Ok(());
                }
                self.lost(node, "the connection broke")
            }
            Happening::Wake { node, number }
                if self.nodes[node].runs && self.nodes[node].wake == number =>
            {
                self.go_on(node)
            }
            Happening::Updates { node, boot } if self.nodes[node].boot == boot => {
                self.updates(node)
            }
            Happening::LastGood { node, boot } if self.nodes[node].boot == boot => {
                let it = &mut self.nodes[node];
                if !it.daemon.heard && it.daemon.table.nodes().next().is_none() {
                    it.daemon.table = Proposal::of_nodes(it.disk.table.clone());
                }
                self.updates(node)
            }
            Happening::Start { node } => {
                self.start(node);
                Ok(())
            }
            Happening::Expire(lease) => {
                let now = self.clock.now();
                // A store that is away ends no lease.
                if self.store.up {
                    let before = self.store.data.leases.len();
                    self.store.expire(lease, now);
                    if self.store.data.leases.len() < before {
                        self.count("a lease ran out");
                    }
                    self.tell_watches();
                } else {
                    self.clock.after(Duration::from_secs(1), Happening::Expire(lease));
                }
                Ok(())
            }
            Happening::Heal { node } => {
                self.nodes[node].cut = false;
                self.say(|| format!("node {node} is connected"));
                self.tell_watches();
                Ok(())
            }
            Happening::Up => {
                self.store.up = true;
                self.say(|| "the store is up".into());
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Goes on if the node only waits for something to happen.
    pub(crate) fn go_on(&mut self, node: usize) -> Held {
        let it = &self.nodes[node];
        let (frozen, number) = (it.frozen_until, it.wake);
        if frozen > self.clock.now() {
            self.clock.at(frozen, Happening::Wake { node, number });
        } else if it.runs && it.waiting == Waiting::Follow {
            return self.drive(node);
        }
        Ok(())
    }

    /// Asks the machine what to do until there is something to wait for.
    fn drive(&mut self, node: usize) -> Held {
        loop {
            let start = self.clock.instant() - self.clock.now();
            let now = self.clock.now();
            let it = &mut self.nodes[node];
            let instant = it.instant(start, now);
            let request = it.claims.request(instant);
            let mut heard = false;
            while let Some(update) = it.claims.update() {
                if let Update::Contested(reason) = &update {
                    it.contested.clone_from(reason);
                    heard |= reason.is_some();
                }
                let all = matches!(update, Update::Everything(_));
                let keeps = all && std::mem::take(&mut it.went_back);
                it.daemon.queue.push_back((update, keeps));
            }
            if heard {
                self.count("a node said that it is contested");
            }
            if !self.nodes[node].daemon.queue.is_empty() {
                let busy = if self.trouble && self.random.percent(3) { 8_000 } else { 100 };
                let delay = Duration::from_millis(self.random.between(0, busy));
                let boot = self.nodes[node].boot;
                self.clock.after(delay, Happening::Updates { node, boot });
            }
            let session = self.nodes[node].session;
            match request {
                Request::Wait(until) => {
                    self.nodes[node].waiting = Waiting::Follow;
                    self.check_followed(node)?;
                    let it = &mut self.nodes[node];
                    if let Some((watched, revision)) = it.watched.pop_front() {
                        self.say(|| format!("node {node} is told up to {revision}"));
                        let it = &mut self.nodes[node];
                        it.seen.1 = it.seen.1.max(revision);
                        it.claims.watched(&watched);
                        continue;
                    }
                    if std::mem::take(&mut it.moved) {
                        it.told_address = it.address;
                        it.claims.moved(it.address);
                        continue;
                    }
                    if it.told_ready != it.daemon.ready {
                        it.told_ready = it.daemon.ready;
                        it.claims.ready(it.told_ready);
                        continue;
                    }
                    if std::mem::take(&mut it.reload) {
                        it.claims.reload();
                        continue;
                    }
                    let until = until.saturating_duration_since(instant);
                    it.wake += 1;
                    let number = it.wake;
                    self.clock.after(until, Happening::Wake { node, number });
                    return Ok(());
                }
                Request::End(ended) => {
                    return match ended {
                        Ended::Asked => {
                            self.pause(node, Duration::ZERO);
                            Ok(())
                        }
                        Ended::Raced => {
                            self.count("a node was too late");
                            self.back_off(node);
                            Ok(())
                        }
                        Ended::Failed(failure) => {
                            if failure.to_string().contains("forgotten changes") {
                                self.count("a watch was left behind");
                            }
                            self.lost(node, &failure.to_string())
                        }
                    };
                }
                Request::Heard => {
                    let it = &mut self.nodes[node];
                    it.asked += 1;
                    it.waiting = Waiting::Answer(it.asked);
                    it.hears = true;
                    let boot = it.boot;
                    self.clock.after(Duration::ZERO, Happening::Updates { node, boot });
                    return Ok(());
                }
                Request::Pods(subnets) => {
                    let broken = self.trouble && self.random.percent(5);
                    let held = if broken {
                        Err(PodsUnknown::new("the store is damaged"))
                    } else {
                        Ok(self.nodes[node].held(&subnets))
                    };
                    self.count("a node looked at its pods");
                    self.expect(node, Answer::Pods(held));
                    return Ok(());
                }
                Request::Remember(memory) => {
                    let written = !(self.trouble && self.random.percent(3));
                    // Whoever dies while it is written finds the old or the new.
                    if written && self.random.percent(50) {
                        self.nodes[node].disk.memory = memory.clone();
                    }
                    self.expect(node, Answer::Remembered(memory, written));
                    return Ok(());
                }
                request => {
                    let it = &mut self.nodes[node];
                    it.asked += 1;
                    let number = it.asked;
                    it.waiting = Waiting::Answer(number);
                    let delay = self.delay();
                    self.say(|| format!("node {node} asks {request:?}"));
                    let marks = self.marks(node);
                    let ask = Happening::Ask { node, session, number, request, marks };
                    self.clock.after(delay, ask);
                    self.clock.after(PATIENCE, Happening::Late { node, session, number });
                    return Ok(());
                }
            }
        }
    }

    /// Has something of the node's own answered after a while.
    fn expect(&mut self, node: usize, answer: Answer) {
        let it = &mut self.nodes[node];
        it.asked += 1;
        it.waiting = Waiting::Answer(it.asked);
        let (session, number) = (it.session, it.asked);
        let delay = Duration::from_millis(self.random.between(0, 200));
        self.clock.after(delay, Happening::Answer { node, session, number, answer });
    }

    fn lost(&mut self, node: usize, reason: &str) -> Held {
        self.count("a session failed");
        self.say(|| format!("node {node} has lost the store: {reason}"));
        let boot = self.nodes[node].boot;
        self.nodes[node].daemon.queue.push_back((Update::Lost(reason.to_owned()), false));
        self.clock.after(Duration::from_millis(20), Happening::Updates { node, boot });
        self.back_off(node);
        Ok(())
    }

    fn back_off(&mut self, node: usize) {
        let it = &mut self.nodes[node];
        let bound = it.pause;
        it.pause = (bound * 2).min(Duration::from_secs(10));
        let part = self.random.between(50, 100);
        self.pause(node, bound * u32::try_from(part).unwrap() / 100);
    }

    /// A request is at the store, whatever became of the session since it was sent.
    fn ask(
        &mut self,
        node: usize,
        session: u64,
        number: u64,
        request: Request,
        marks: &Marks,
    ) -> Held {
        if !self.store.up || (self.nodes[node].cut && self.random.percent(80)) {
            return Ok(());
        }
        let now = self.clock.now();
        let answer = match request {
            Request::Read { first, end } => Answer::Found(self.store.read(&first, &end)),
            Request::Keys(keys) => {
                let found = keys.iter().map(|key| self.store.data.keys.get(key).cloned());
                Answer::Keys(found.collect())
            }
            Request::Grant(length) => {
                let id = self.store.grant(length, now);
                self.clock.after(length, Happening::Expire(id));
                Answer::Leased(id)
            }
            Request::KeepAlive(id) => match self.store.keep_alive(id, now) {
                Some(end) => {
                    self.clock.at(end, Happening::Expire(id));
                    Answer::Kept(true)
                }
                None => Answer::Kept(false),
            },
            Request::Transact(transaction) => {
                let answer = self.transact(node, &transaction, marks)?;
                self.tell_watches();
                answer
            }
            Request::Watch { first, end, revision } => {
                if self.is_session(node, session) {
                    self.nodes[node].watch = Some((first, end, revision));
                }
                Answer::Watching
            }
            Request::Heard
            | Request::Pods(_)
            | Request::Remember(_)
            | Request::Wait(_)
            | Request::End(_) => return Ok(()),
        };
        if self.nodes[node].cut {
            return Ok(());
        }
        let delay = self.delay();
        self.clock.after(delay, Happening::Answer { node, session, number, answer });
        Ok(())
    }

    fn answer(&mut self, node: usize, answer: Answer) -> Held {
        let start = self.clock.instant() - self.clock.now();
        let now = self.nodes[node].instant(start, self.clock.now());
        let epoch = self.store.epoch;
        let it = &mut self.nodes[node];
        it.waiting = Waiting::Pause;
        match answer {
            Answer::Found(found) => {
                // What was seen of another database, whose revision was higher.
                it.went_back = it.seen.0 != epoch && it.seen.1 > found.revision;
                it.seen = (epoch, found.revision);
                it.claims.read(&found);
            }
            Answer::Keys(keys) => it.claims.keys(keys),
            Answer::Leased(lease) => it.claims.granted(lease),
            Answer::Kept(alive) => it.claims.kept(alive),
            Answer::Done(done) => it.claims.transacted(done),
            Answer::Refused => return self.lost(node, "requested lease not found"),
            Answer::Watching => {
                it.claims.watching(now);
                it.pause = Duration::from_millis(250);
                self.tell_watches();
            }
            Answer::Heard => {
                it.told_ready = it.daemon.ready;
                it.claims.heard(it.told_ready);
            }
            Answer::Pods(held) => it.claims.pods(held),
            Answer::Remembered(memory, written) => {
                if written {
                    it.disk.memory = memory;
                    it.claims.remembered(Ok(()));
                } else {
                    it.claims.remembered(Err(Unwritten::new("the disk is full")));
                    self.count("a disk was full");
                }
            }
        }
        self.drive(node)
    }

    /// Sends each watch what it has not told yet.
    pub(crate) fn tell_watches(&mut self) {
        for node in 0..self.nodes.len() {
            if !self.is_connected(node) || !self.nodes[node].runs {
                continue;
            }
            let Some((first, end, from)) = self.nodes[node].watch.clone() else { continue };
            let (watched, next) = self.store.told(&first, &end, from);
            self.nodes[node].watch = Some((first, end, next));
            let Some(watched) = watched else { continue };
            if watched == Watched::Compacted {
                self.nodes[node].watch = None;
            }
            self.say(|| {
                format!("node {node} is to be told up to {}: {}", next - 1, brief(&watched))
            });
            let at = (self.clock.now() + self.delay()).max(self.nodes[node].told_at);
            self.nodes[node].told_at = at;
            let (session, revision) = (self.nodes[node].session, next - 1);
            self.clock.at(at, Happening::Told { node, session, watched, revision });
        }
    }

    /// Every connection ends; each node notices after a moment.
    pub(crate) fn break_connections(&mut self) {
        for node in 0..self.nodes.len() {
            self.nodes[node].watch = None;
            let session = self.nodes[node].session;
            let delay = Duration::from_millis(self.random.between(1, 300));
            self.clock.after(delay, Happening::Broken { node, session });
        }
    }

    pub(crate) fn cut(&mut self, node: usize, length: Duration) {
        self.nodes[node].cut = true;
        self.say(|| format!("node {node} is cut off for {length:?}"));
        self.clock.after(length, Happening::Heal { node });
        if length > NOTICED {
            let session = self.nodes[node].session;
            self.clock.after(NOTICED, Happening::Broken { node, session });
        }
    }

    fn updates(&mut self, node: usize) -> Held {
        if !self.nodes[node].runs {
            return Ok(());
        }
        // A batch may end anywhere.
        let most = if self.random.percent(20) { self.random.below(4) } else { usize::MAX };
        let (turned, dropped) = self.nodes[node].take_updates(most);
        if !self.nodes[node].daemon.queue.is_empty() {
            let boot = self.nodes[node].boot;
            let delay = Duration::from_millis(self.random.between(1, 1000));
            self.clock.after(delay, Happening::Updates { node, boot });
        }
        if let Some(dropped) = dropped {
            return Err(Violation::new(
                "a database that lost its data empties no table",
                format!("node {node} has lost {dropped}"),
            ));
        }
        let it = &self.nodes[node];
        let in_force = it.in_force();
        if !in_force.is_empty()
            && let Some(pod) =
                it.disk.pods.iter().find(|pod| !in_force.iter().any(|net| net.contains(*pod)))
        {
            return Err(Violation::new(
                "a subnet never changes while pods hold addresses in it",
                format!("node {node} has {in_force:?} in force, and {pod} is a pod's"),
            ));
        }
        if self.nodes[node].hears && self.nodes[node].daemon.queue.is_empty() {
            self.nodes[node].hears = false;
            let it = &self.nodes[node];
            let (session, number) = (it.session, it.asked);
            let delay = Duration::from_millis(self.random.between(0, 20));
            let answer = Answer::Heard;
            self.clock.after(delay, Happening::Answer { node, session, number, answer });
        }
        if turned {
            let ready = self.nodes[node].daemon.ready;
            self.say(|| format!("node {node} takes pods: {ready}"));
            return self.go_on(node);
        }
        Ok(())
    }

    fn owner(&self, value: &[u8]) -> Option<Marks> {
        serde_json::from_slice(value).ok()
    }

    /// A node as its machine knows it: it has its new address only once it was told.
    fn marks(&self, node: usize) -> Marks {
        let it = &self.nodes[node];
        let instance = it.disk.memory.instance().to_owned();
        Marks { node: it.name.clone(), instance, address: it.told_address }
    }

    /// Who holds the subnet's key, if that is somebody.
    pub(crate) fn is_held_by(&self, node: usize, subnet: &IpNet) -> bool {
        let key = format!("{PREFIX}/subnets/{}-{}", subnet.network(), subnet.prefix_len());
        let found = self.store.data.keys.get(&key).and_then(|kv| self.owner(&kv.value));
        found.is_some_and(|owner| self.marks(node).own(&owner))
    }

    /// Makes a transaction of a node, unless it does what no node may. `marks` are those of the node
    /// when it asked: by the time that this arrives it can have moved, or have another disk.
    fn transact(
        &mut self,
        node: usize,
        transaction: &Transaction,
        marks: &Marks,
    ) -> Result<Answer, Violation> {
        let subnets = format!("{PREFIX}/subnets/");
        let before = self.store.data.keys.clone();
        let Ok(done) = self.store.transact(transaction) else {
            self.say(|| format!("node {node}: no such lease"));
            self.count("a lease was gone when it was used");
            return Ok(Answer::Refused);
        };
        self.say(|| format!("node {node}: {}", if done { "done" } else { "too late" }));
        if transaction.compare.iter().any(|it| matches!(it, Compare::NotWrittenSince { .. })) {
            self.count(if done {
                "a subnet of another length was claimed"
            } else {
                "a claim of another length was too late"
            });
        }
        if !done {
            return Ok(Answer::Done(false));
        }
        for change in &transaction.changes {
            let (Change::Put { key, .. } | Change::Delete(key)) = change;
            let Some(subnet) = key.strip_prefix(&subnets) else { continue };
            let taken = before.get(key).and_then(|kv| self.owner(&kv.value));
            if let Some(owner) = taken {
                if !marks.own(&owner) {
                    return Err(Violation::new(
                        "two nodes never own one subnet",
                        format!("node {node} takes {subnet} from {}", owner.node),
                    ));
                }
                let it = &self.nodes[node];
                if !(Marks { address: it.address, ..self.marks(node) }).own(&owner) {
                    self.count("a node kept its subnet by a mark that it had lost meanwhile");
                }
            }
            if matches!(change, Change::Delete(_)) {
                continue;
            }
            self.count("a subnet was claimed");
            let net = parse(subnet);
            let overlapping = self.store.data.keys.iter().find(|(other, kv)| {
                let other = other.strip_prefix(&subnets).map(parse);
                let overlaps =
                    other.is_some_and(|other| other.contains(&net) || net.contains(&other));
                let foreign = self.owner(&kv.value).is_some_and(|owner| {
                    !marks.own(&owner) && !owner.instance.starts_with("thief")
                });
                overlaps && foreign
            });
            if let Some((other, _)) = overlapping {
                return Err(Violation::new(
                    "two nodes never own one subnet",
                    format!("node {node} claims {subnet} beside {other}"),
                ));
            }
        }
        Ok(Answer::Done(true))
    }

    /// A node that knows everything of its subnets, and has nothing to do, owns them or says that it
    /// does not.
    fn check_followed(&mut self, node: usize) -> Held {
        let it = &self.nodes[node];
        if it.seen.0 != self.store.epoch || it.contested.is_some() || !it.watched.is_empty() {
            return Ok(());
        }
        let marks = self.marks(node);
        for subnet in it.claims.memory().subnets() {
            let key = format!("{PREFIX}/subnets/{}-{}", subnet.network(), subnet.prefix_len());
            let changed = self.store.changed.get(&key).copied().unwrap_or_default();
            let holder = self.store.data.keys.get(&key).and_then(|kv| self.owner(&kv.value));
            let own = holder.is_some_and(|owner| marks.own(&owner));
            if changed <= it.seen.1 && !own {
                return Err(Violation::new(
                    "the loser of a conflict says so",
                    format!("node {node} knows that {key} is not its own, and says nothing"),
                ));
            }
        }
        Ok(())
    }
}

/// Names of the keys that a watch tells of.
fn brief(watched: &Watched) -> String {
    match watched {
        Watched::Events { events, .. } => {
            let keys = events.iter().map(|event| {
                let (Event::Put(KeyValue { key, .. }) | Event::Delete { key, .. }) = event;
                String::from_utf8_lossy(key).into_owned()
            });
            keys.collect::<Vec<_>>().join(" ")
        }
        other => format!("{other:?}"),
    }
}

/// The subnet of a key.
pub(crate) fn parse(text: &str) -> IpNet {
    text.replacen('-', "/", 1).parse().unwrap()
}
