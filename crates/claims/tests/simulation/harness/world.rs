//! One run: nodes, a store between them, the time, and what happens at which moment.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use culvert_claims::Proposal;

use super::daemon::Daemon;
use super::protocol::Call;
use super::{Answer, Held, Node, Protocol, Waiting};
use crate::clock::Clock;
use crate::random::Random;

/// What happens next.
pub(crate) enum Happening<P: Protocol> {
    Connect {
        node: usize,
        session: u64,
    },
    /// A request reaches the store.
    Ask(Call<P>),
    Answer {
        node: usize,
        session: u64,
        number: u64,
        answer: Answer<P>,
    },
    Late {
        node: usize,
        session: u64,
        number: u64,
    },
    Told {
        node: usize,
        session: u64,
        watched: P::Watched,
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
    Heal {
        node: usize,
    },
    /// A machine that stood still goes on.
    Thaw {
        node: usize,
    },
    Up,
    Own(P::Event),
    Trouble,
    Pod,
    /// The end of a part of the run.
    Mark,
}

impl<P: Protocol> Happening<P> {
    /// Whom it happens to, if that is one node, which may stand still.
    fn node(&self) -> Option<usize> {
        match self {
            Self::Connect { node, .. }
            | Self::Answer { node, .. }
            | Self::Late { node, .. }
            | Self::Told { node, .. }
            | Self::Broken { node, .. }
            | Self::Wake { node, .. }
            | Self::Updates { node, .. }
            | Self::LastGood { node, .. } => Some(*node),
            _ => None,
        }
    }
}

pub(crate) struct World<P: Protocol> {
    pub(crate) random: Random,
    pub(crate) clock: Clock<Happening<P>>,
    /// The store, and what its protocol keeps of the run.
    pub(crate) protocol: P,
    /// Whether the store answers.
    pub(crate) up: bool,
    pub(crate) nodes: Vec<Node<P>>,
    pub(crate) trouble: bool,
    pub(crate) events: u64,
    /// How often each thing happened that the run is about.
    pub(crate) fates: BTreeMap<&'static str, u64>,
    trace: Option<String>,
}

impl<P: Protocol> World<P> {
    pub(crate) fn new(seed: u64, traced: bool) -> Self {
        let mut random = Random::new(seed);
        Self {
            protocol: P::new(&mut random),
            random,
            clock: Clock::new(),
            up: true,
            nodes: Vec::new(),
            trouble: true,
            events: 0,
            fates: BTreeMap::new(),
            trace: traced.then(String::new),
        }
    }

    /// What happened, if that is written down.
    pub(crate) fn into_trace(self) -> String {
        self.trace.unwrap_or_default()
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

    /// Adds a node that never ran.
    pub(crate) fn add(&mut self, node: Node<P>) -> usize {
        self.nodes.push(node);
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
        self.protocol.start(it);
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

    /// Lets time pass.
    pub(super) fn pass(&mut self, time: Duration) -> Held {
        let end = self.clock.now() + time;
        self.clock.at(end, Happening::Mark);
        while self.clock.now() < end {
            let Some(happening) = self.clock.next() else { break };
            self.events += 1;
            self.happen(happening)?;
        }
        Ok(())
    }

    /// Whether that session of the node still is.
    pub(crate) fn is_session(&self, node: usize, session: u64) -> bool {
        let it = &self.nodes[node];
        it.runs && it.session == session
    }

    fn awaits(&self, node: usize, session: u64, number: u64) -> bool {
        self.is_session(node, session) && self.nodes[node].waiting == Waiting::Answer(number)
    }

    fn happen(&mut self, happening: Happening<P>) -> Held {
        match happening.node() {
            Some(node) if self.is_frozen(node) => {
                self.nodes[node].held.push(happening);
                Ok(())
            }
            _ => self.happen_now(happening),
        }
    }

    /// Whether a machine stands still, or has not yet taken all that came meanwhile.
    fn is_frozen(&self, node: usize) -> bool {
        let it = &self.nodes[node];
        it.frozen_until > self.clock.now() || !it.held.is_empty()
    }

    /// A machine goes on, with what came while it stood still, in the order in which it came.
    fn thaw(&mut self, node: usize) -> Held {
        if self.nodes[node].frozen_until > self.clock.now() {
            return Ok(());
        }
        for happening in std::mem::take(&mut self.nodes[node].held) {
            self.happen_now(happening)?;
        }
        Ok(())
    }

    fn happen_now(&mut self, happening: Happening<P>) -> Held {
        match happening {
            Happening::Connect { node, session } if self.is_session(node, session) => {
                return self.connect(node);
            }
            Happening::Ask(call) => return self.ask(call),
            Happening::Answer { node, session, number, answer }
                if self.awaits(node, session, number) =>
            {
                return self.answer(node, answer);
            }
            Happening::Late { node, session, number } if self.awaits(node, session, number) => {
                return self.lost(node, "no answer");
            }
            Happening::Told { node, session, watched }
                if self.is_session(node, session) && P::listens(&self.nodes[node], &watched) =>
            {
                self.nodes[node].watched.push_back(watched);
                return self.go_on(node);
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
                let Node { daemon, disk, .. } = &mut self.nodes[node];
                if !daemon.heard && daemon.table.nodes().next().is_none() {
                    daemon.table = Proposal::of_nodes(disk.table.clone());
                }
                return self.updates(node);
            }
            Happening::Start { node } => self.start(node),
            Happening::Heal { node } => {
                self.nodes[node].cut = false;
                self.say(|| format!("node {node} is connected"));
                self.tell_watches();
            }
            Happening::Thaw { node } => return self.thaw(node),
            Happening::Up => {
                self.up = true;
                self.say(|| "the store is up".into());
                self.tell_watches();
            }
            Happening::Own(event) => return P::happen(self, event),
            Happening::Trouble if self.trouble => return self.troubles(),
            Happening::Pod if self.trouble => self.change_pods(),
            _ => {}
        }
        Ok(())
    }
}
