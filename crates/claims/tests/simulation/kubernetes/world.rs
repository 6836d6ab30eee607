//! One run: nodes, an API server between them, and what must hold all the while.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use culvert_claims::kubernetes::{
    Desired, Ended, Follower, Identity, Node as Object, Patch, Request, Watched,
};
use culvert_claims::{Candidate, HeldAddress, PodsUnknown, Proposal, Update};
use ipnet::IpNet;
use serde_json::Value;

use super::api::{Api, Patched};
use crate::clock::Clock;
use crate::random::Random;
use crate::report::Violation;

pub(crate) const TAINT: &str = "culvert.dev/not-ready";
/// How long a call may take, how long the server keeps a watch open, and how long a watch that tells
/// nothing is believed; the driver's own limits, some of them shorter so that a run is.
const PATIENCE: Duration = Duration::from_secs(30);
const WATCH: Duration = Duration::from_secs(60);
const DEAD: Duration = Duration::from_secs(20);

pub(crate) enum Happening {
    Connect { node: usize, session: u64 },
    Ask { node: usize, session: u64, number: u64, request: Request },
    Answer { node: usize, session: u64, number: u64, answer: Answer },
    Late { node: usize, session: u64, number: u64 },
    Told { node: usize, session: u64, watch: u64, watched: Watched },
    WatchEnds { node: usize, session: u64, watch: u64 },
    Broken { node: usize, session: u64 },
    Wake { node: usize, number: u64 },
    Updates { node: usize, boot: u64 },
    LastGood { node: usize, boot: u64 },
    Start { node: usize },
    Heal { node: usize },
    Up,
    Trouble,
    Pod,
    Mark,
}

pub(crate) enum Answer {
    Listed(Vec<Object>, String),
    Patched,
    Watching,
    Heard,
    Pods(Result<Vec<HeldAddress>, PodsUnknown>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waiting {
    Pause,
    Answer(u64),
    Follow,
}

/// A node: the real machine, a driver that waits where the real one does, and a daemon.
pub(crate) struct Node {
    pub(crate) name: String,
    follower: Follower,
    identity: Identity,
    pub(crate) runs: bool,
    boot: u64,
    session: u64,
    number: u64,
    wake: u64,
    hears: bool,
    waiting: Waiting,
    watched: VecDeque<Watched>,
    /// Number of the watch, and the version up to which it has told.
    watch: Option<(u64, u64)>,
    told_at: Duration,
    told_ready: bool,
    pub(crate) reload: bool,
    pause: Duration,
    pub(crate) cut: bool,
    queue: VecDeque<Update>,
    pub(crate) table: Proposal,
    pub(crate) contested: Option<String>,
    heard: bool,
    pub(crate) ready: bool,
    /// Whether this daemon ever was: one that starts says nothing before.
    pub(crate) was_ready: bool,
    /// What survives the daemon.
    saved: Vec<Candidate>,
    pub(crate) pods: Vec<IpAddr>,
}

impl Node {
    pub(crate) fn in_force(&self) -> Vec<IpNet> {
        let own = self.table.nodes().find(|node| node.entry.name == self.name);
        own.map(|node| node.entry.subnets.clone()).unwrap_or_default()
    }

    pub(crate) fn attach(&mut self) -> Option<IpAddr> {
        if !self.ready {
            return None;
        }
        let subnet = *self.in_force().first()?;
        let free = subnet.hosts().skip(1).find(|host| !self.pods.contains(host))?;
        self.pods.push(free);
        Some(free)
    }

    fn take_updates(&mut self, most: usize) -> bool {
        let most = most.min(self.queue.len());
        for update in self.queue.drain(..most).collect::<Vec<_>>() {
            match &update {
                Update::Contested(reason) => self.contested.clone_from(reason),
                Update::Everything(_) => self.heard = true,
                _ => {}
            }
            self.table.take(update);
        }
        if self.heard {
            self.saved = self.table.nodes().cloned().collect();
        }
        let ready = self.contested.is_none() && !self.in_force().is_empty();
        self.was_ready |= ready;
        std::mem::replace(&mut self.ready, ready) != ready
    }
}

pub(crate) struct World {
    pub(crate) random: Random,
    pub(crate) clock: Clock<Happening>,
    pub(crate) api: Api,
    pub(crate) nodes: Vec<Node>,
    pub(crate) trouble: bool,
    pub(crate) events: u64,
    pub(crate) fates: BTreeMap<&'static str, u64>,
    trace: Option<String>,
    watches: u64,
}

type Held = Result<(), Violation>;

impl World {
    pub(crate) fn new(seed: u64, traced: bool) -> Self {
        Self {
            random: Random::new(seed),
            clock: Clock::new(),
            api: Api::new(),
            nodes: Vec::new(),
            trouble: true,
            events: 0,
            fates: BTreeMap::new(),
            trace: traced.then(String::new),
            watches: 0,
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

    pub(crate) fn add(&mut self, name: &str) -> usize {
        let identity = Identity {
            name: name.to_owned(),
            port: 4790,
            desired: Desired::new(None, 4790, TAINT),
        };
        self.nodes.push(Node {
            name: name.to_owned(),
            follower: Follower::new(identity.clone(), Vec::new()),
            identity,
            runs: false,
            boot: 0,
            session: 0,
            number: 0,
            wake: 0,
            hears: false,
            waiting: Waiting::Pause,
            watched: VecDeque::new(),
            watch: None,
            told_at: Duration::ZERO,
            told_ready: false,
            reload: false,
            pause: Duration::ZERO,
            cut: false,
            queue: VecDeque::new(),
            table: Proposal::default(),
            contested: None,
            heard: false,
            ready: false,
            was_ready: false,
            saved: Vec::new(),
            pods: Vec::new(),
        });
        self.nodes.len() - 1
    }

    pub(crate) fn start(&mut self, node: usize) {
        let it = &mut self.nodes[node];
        if it.runs {
            return;
        }
        it.runs = true;
        it.boot += 1;
        it.follower = Follower::new(it.identity.clone(), it.saved.clone());
        it.pause = Duration::from_millis(250);
        let boot = it.boot;
        self.say(|| format!("node {node} starts"));
        self.clock.after(Duration::from_secs(3), Happening::LastGood { node, boot });
        self.pause(node, Duration::ZERO);
    }

    pub(crate) fn stop(&mut self, node: usize) {
        let it = &mut self.nodes[node];
        it.runs = false;
        it.session += 1;
        it.boot += 1;
        it.queue.clear();
        it.table = Proposal::default();
        it.contested = None;
        it.heard = false;
        it.ready = false;
        it.was_ready = false;
        self.say(|| format!("node {node} stops"));
    }

    fn pause(&mut self, node: usize, pause: Duration) {
        let delay = pause + self.delay();
        let it = &mut self.nodes[node];
        it.session += 1;
        it.waiting = Waiting::Pause;
        it.watched.clear();
        it.watch = None;
        let session = it.session;
        self.clock.after(delay, Happening::Connect { node, session });
    }

    fn delay(&mut self) -> Duration {
        let slow = self.trouble && self.random.percent(2);
        let longest = if slow { 40_000 } else { 30 };
        Duration::from_millis(self.random.between(1, longest))
    }

    fn is_connected(&self, node: usize) -> bool {
        self.api.up && !self.nodes[node].cut
    }

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

    fn is_session(&self, node: usize, session: u64) -> bool {
        self.nodes[node].runs && self.nodes[node].session == session
    }

    fn awaits(&self, node: usize, session: u64, number: u64) -> bool {
        self.is_session(node, session) && self.nodes[node].waiting == Waiting::Answer(number)
    }

    fn happen(&mut self, happening: Happening) -> Held {
        match happening {
            Happening::Connect { node, session } if self.is_session(node, session) => {
                if !self.is_connected(node) {
                    return self.lost(node, "no connection");
                }
                let it = &mut self.nodes[node];
                it.reload = false;
                it.told_ready = it.ready;
                it.follower.begin(it.ready);
                return self.drive(node);
            }
            Happening::Ask { node, session, number, request } => {
                return self.ask(node, session, number, request);
            }
            Happening::Answer { node, session, number, answer }
                if self.awaits(node, session, number) =>
            {
                return self.answer(node, answer);
            }
            Happening::Late { node, session, number } if self.awaits(node, session, number) => {
                return self.lost(node, "no answer");
            }
            Happening::Told { node, session, watch, watched }
                if self.is_session(node, session)
                    && self.nodes[node].watch.is_some_and(|(number, _)| number == watch) =>
            {
                self.nodes[node].watched.push_back(watched);
                return self.go_on(node);
            }
            Happening::WatchEnds { node, session, watch }
                if self.is_session(node, session) && self.is_connected(node) =>
            {
                self.tell(node, watch, Watched::Ended);
            }
            Happening::Broken { node, session }
                if self.is_session(node, session) && self.nodes[node].waiting != Waiting::Pause =>
            {
                return self.lost(node, "the connection broke");
            }
            Happening::Wake { node, number } if self.nodes[node].wake == number => {
                return self.go_on(node);
            }
            Happening::Updates { node, boot } if self.nodes[node].boot == boot => {
                return self.updates(node);
            }
            Happening::LastGood { node, boot } if self.nodes[node].boot == boot => {
                let it = &mut self.nodes[node];
                if !it.heard && it.table.nodes().next().is_none() {
                    it.table = Proposal::of_nodes(it.saved.clone());
                }
                return self.updates(node);
            }
            Happening::Start { node } => self.start(node),
            Happening::Heal { node } => {
                self.nodes[node].cut = false;
                self.tell_watches();
            }
            Happening::Up => {
                self.api.up = true;
                self.tell_watches();
            }
            _ => {}
        }
        Ok(())
    }

    pub(crate) fn go_on(&mut self, node: usize) -> Held {
        if self.nodes[node].runs && self.nodes[node].waiting == Waiting::Follow {
            return self.drive(node);
        }
        Ok(())
    }

    fn drive(&mut self, node: usize) -> Held {
        loop {
            let now = self.clock.instant();
            let it = &mut self.nodes[node];
            let request = it.follower.request(now);
            let mut heard = false;
            while let Some(update) = it.follower.update() {
                heard |= matches!(update, Update::Contested(Some(_)));
                it.queue.push_back(update);
            }
            if heard {
                self.count("a node said that it is contested");
            }
            if !self.nodes[node].queue.is_empty() {
                let busy = if self.trouble && self.random.percent(3) { 8_000 } else { 100 };
                let delay = Duration::from_millis(self.random.between(0, busy));
                let boot = self.nodes[node].boot;
                self.clock.after(delay, Happening::Updates { node, boot });
            }
            match request {
                Request::Wait(until) => {
                    let it = &mut self.nodes[node];
                    it.waiting = Waiting::Follow;
                    if let Some(watched) = it.watched.pop_front() {
                        if watched == Watched::Ended {
                            it.watch = None;
                        }
                        it.follower.watched(watched);
                    } else if it.told_ready != it.ready {
                        it.told_ready = it.ready;
                        it.follower.ready(it.told_ready);
                    } else if std::mem::take(&mut it.reload) {
                        it.follower.reload();
                    } else {
                        it.wake += 1;
                        let number = it.wake;
                        if let Some(until) = until {
                            let delay = until.saturating_duration_since(now);
                            self.clock.after(delay, Happening::Wake { node, number });
                        }
                        return Ok(());
                    }
                }
                Request::End(ended) => {
                    self.say(|| format!("node {node} begins anew: {ended:?}"));
                    match ended {
                        Ended::Asked => self.pause(node, Duration::ZERO),
                        Ended::Gone => {
                            self.count("a watch was left behind");
                            self.back_off(node);
                        }
                    }
                    return Ok(());
                }
                request => {
                    self.send(node, request);
                    return Ok(());
                }
            }
        }
    }

    fn send(&mut self, node: usize, request: Request) {
        let it = &mut self.nodes[node];
        it.number += 1;
        it.waiting = Waiting::Answer(it.number);
        let (session, number, boot) = (it.session, it.number, it.boot);
        self.say(|| format!("node {node} asks {request:?}"));
        let (delay, answer) = match request {
            Request::Heard => {
                self.nodes[node].hears = true;
                return self.clock.after(Duration::ZERO, Happening::Updates { node, boot });
            }
            Request::Pods(subnets) => {
                self.count("a node looked at its pods");
                let held = if self.trouble && self.random.percent(5) {
                    Err(PodsUnknown::new("the store is damaged"))
                } else {
                    let pods = self.nodes[node].pods.iter();
                    let held = pods.filter(|pod| subnets.iter().any(|net| net.contains(*pod)));
                    let name = |pod: &IpAddr| HeldAddress { address: *pod, container: "c".into() };
                    Ok(held.map(name).collect())
                };
                (Duration::from_millis(self.random.between(0, 200)), Answer::Pods(held))
            }
            request => {
                let delay = self.delay();
                self.clock.after(PATIENCE, Happening::Late { node, session, number });
                return self.clock.after(delay, Happening::Ask { node, session, number, request });
            }
        };
        self.clock.after(delay, Happening::Answer { node, session, number, answer });
    }

    fn lost(&mut self, node: usize, reason: &str) -> Held {
        self.count("a session failed");
        self.say(|| format!("node {node} has lost the API server: {reason}"));
        let it = &mut self.nodes[node];
        it.queue.push_back(Update::Lost(reason.to_owned()));
        let boot = it.boot;
        self.clock.after(Duration::from_millis(20), Happening::Updates { node, boot });
        self.back_off(node);
        Ok(())
    }

    fn back_off(&mut self, node: usize) {
        let it = &mut self.nodes[node];
        let bound = it.pause;
        it.pause = (bound * 2).min(Duration::from_secs(10));
        let part = u32::try_from(self.random.between(50, 100)).unwrap();
        self.pause(node, bound * part / 100);
    }

    /// A request is at the server, whatever became of the session since it was sent.
    fn ask(&mut self, node: usize, session: u64, number: u64, request: Request) -> Held {
        if !self.api.up || (self.nodes[node].cut && self.random.percent(80)) {
            return Ok(());
        }
        let answer = match request {
            Request::List => {
                let nodes = self.api.nodes.values().map(object).collect();
                Answer::Listed(nodes, self.api.version.to_string())
            }
            Request::Patch(patch) => {
                self.patch(node, &patch)?;
                Answer::Patched
            }
            Request::Watch(version) => {
                self.watches += 1;
                let watch = self.watches;
                if self.is_session(node, session) {
                    self.nodes[node].watch = Some((watch, version.parse().unwrap()));
                    self.clock.after(WATCH, Happening::WatchEnds { node, session, watch });
                }
                Answer::Watching
            }
            Request::Heard | Request::Pods(_) | Request::Wait(_) | Request::End(_) => return Ok(()),
        };
        if self.nodes[node].cut {
            return Ok(());
        }
        let delay = self.delay();
        self.clock.after(delay, Happening::Answer { node, session, number, answer });
        Ok(())
    }

    fn patch(&mut self, node: usize, patch: &Patch) -> Result<Patched, Violation> {
        let name = self.nodes[node].name.clone();
        let others = |api: &Api| -> Vec<Value> {
            let taints = api.nodes.get(&name).and_then(|node| node["spec"]["taints"].as_array());
            let taints = taints.cloned().unwrap_or_default();
            taints.into_iter().filter(|taint| taint["key"] != TAINT).collect()
        };
        let before = others(&self.api);
        let patched = self.api.patch(&name, patch);
        if patched == Patched::Conflict {
            self.count("a change came too late");
        }
        if others(&self.api) != before {
            let detail = format!("node {node}: {patch:?} on {before:?}");
            return Err(Violation::new("nobody else's taint is touched", detail));
        }
        self.tell_watches();
        Ok(patched)
    }

    fn answer(&mut self, node: usize, answer: Answer) -> Held {
        let it = &mut self.nodes[node];
        it.waiting = Waiting::Pause;
        match answer {
            Answer::Listed(nodes, version) => it.follower.listed(nodes, version),
            Answer::Patched => {}
            Answer::Watching => {
                it.pause = Duration::from_millis(250);
                it.follower.watching();
                self.tell_watches();
            }
            Answer::Heard => {
                it.told_ready = it.ready;
                it.follower.heard(it.told_ready);
            }
            Answer::Pods(held) => it.follower.pods(held),
        }
        self.drive(node)
    }

    fn tell(&mut self, node: usize, watch: u64, watched: Watched) {
        let at = (self.clock.now() + self.delay()).max(self.nodes[node].told_at);
        self.nodes[node].told_at = at;
        let session = self.nodes[node].session;
        self.clock.at(at, Happening::Told { node, session, watch, watched });
    }

    /// Sends each watch what it has not told yet.
    pub(crate) fn tell_watches(&mut self) {
        for node in 0..self.nodes.len() {
            let Some((watch, version)) = self.nodes[node].watch else { continue };
            if !self.is_connected(node) || !self.nodes[node].runs {
                continue;
            }
            let Some(changes) = self.api.since(version).map(<[_]>::to_vec) else {
                self.tell(node, watch, Watched::Gone);
                continue;
            };
            self.nodes[node].watch = Some((watch, self.api.version));
            let is_new = !changes.is_empty();
            for change in changes {
                let node_object = object(&change.node);
                let watched = if change.deleted {
                    Watched::Deleted(node_object)
                } else {
                    Watched::Put(node_object)
                };
                self.tell(node, watch, watched);
            }
            if is_new && self.random.percent(20) {
                let version = self.api.version.to_string();
                self.tell(node, watch, Watched::Bookmark(version));
            }
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
        self.clock.after(length, Happening::Heal { node });
        if length > DEAD {
            let session = self.nodes[node].session;
            self.clock.after(DEAD, Happening::Broken { node, session });
        }
    }

    fn updates(&mut self, node: usize) -> Held {
        if !self.nodes[node].runs {
            return Ok(());
        }
        // A batch may end anywhere.
        let most = if self.random.percent(20) { self.random.below(4) } else { usize::MAX };
        let turned = self.nodes[node].take_updates(most);
        if !self.nodes[node].queue.is_empty() {
            let boot = self.nodes[node].boot;
            let delay = Duration::from_millis(self.random.between(1, 1000));
            self.clock.after(delay, Happening::Updates { node, boot });
        }
        let it = &self.nodes[node];
        let in_force = it.in_force();
        let lost = it.pods.iter().find(|pod| !in_force.iter().any(|net| net.contains(*pod)));
        if let (false, Some(pod)) = (in_force.is_empty(), lost) {
            return Err(Violation::new(
                "a subnet never changes while pods hold addresses in it",
                format!("node {node} has {in_force:?} in force, and {pod} is a pod's"),
            ));
        }
        if self.nodes[node].hears && self.nodes[node].queue.is_empty() {
            self.nodes[node].hears = false;
            let it = &self.nodes[node];
            let (session, number) = (it.session, it.number);
            let answer = Answer::Heard;
            self.clock.after(Duration::ZERO, Happening::Answer { node, session, number, answer });
        }
        if turned {
            let ready = self.nodes[node].ready;
            self.say(|| format!("node {node} takes pods: {ready}"));
            return self.go_on(node);
        }
        Ok(())
    }
}

/// The part of a Node that the daemon reads.
fn object(node: &Value) -> Object {
    let object: Object = serde_json::from_value(node.clone()).unwrap();
    object.slim()
}
