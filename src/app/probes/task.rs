//! The task: time, answers and requests in, questions and findings out.

mod packets;

use std::collections::HashMap;
use std::mem::discriminant;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use culvert_dataplane::engine::{NodeEntry, Table};
use culvert_dataplane::platform::clock;
use culvert_dataplane::{Ask, DataPlane, ProbeArrival, Unsent, What};
use culvert_probe::{Arrived, Event, Form, Hint, Moment, PATHS, Question};
use foldhash::fast::RandomState;
use overlay_proto::oam::echo::Echo;
use overlay_proto::oam::{self, Digest, Ends, Route, Timestamp};
use tokio::sync::mpsc::{Receiver, WeakSender};
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::time::{MissedTickBehavior, interval, sleep_until};

use self::packets::Tracing;
use super::aims::{Aims, News};
use super::census::Census;
use super::log::{Lines, log};
use super::notes::{Peer, notes};
use super::pings::Pings;
use super::traces::Asked;
use super::traffic::Traffic;
use super::{Command, Known, both_speak_stamp, ends, entry};
use crate::app::view::{Facts, locked};
use crate::control::source::Notebook;
use crate::observe::{ExplainSource, PeerTable, PingPath, PingQuestion, PingRound};

/// How often traffic is looked at, and answers of the kernel that nobody waits for: a transfer over
/// a path that is too narrow should go on within seconds.
const LOOK: Duration = Duration::from_millis(250);
/// The same where that costs milliseconds.
const RARE_LOOK: u32 = 4;
const MANY: usize = 1000;

/// Questions of peers about packets that are answered at a time: each waits for the kernel.
const EXPLAINED: usize = 8;

/// For how long after a question the kernel may have something to say of it.
const REPORTS: Duration = Duration::from_secs(1);

pub(super) struct Task {
    plane: Arc<DataPlane>,
    facts: Arc<Facts>,
    known: Arc<Mutex<Known>>,
    is_asking: bool,
    ways: Ways,
    /// This node, once its table is known.
    local: Option<Arc<NodeEntry>>,
    /// The peers of its table.
    targets: HashMap<IpAddr, Arc<NodeEntry>, RandomState>,
    traffic: Traffic,
    pings: Pings,
    census: Census,
    /// Questions about packets that were sent.
    traces: HashMap<u32, Tracing>,
    next_trace: u32,
    asked: Asked,
    explain: ExplainSource,
    /// Places of peers' questions that the kernel is being asked for.
    explaining: Arc<Semaphore>,
    lines: Lines,
    /// What people are to be told of: one event of each kind.
    untold: Vec<Event>,
    session: u16,
    last_sent: Option<Instant>,
    digest: Told,
}

/// How the task and others speak.
pub(super) struct Ways {
    /// Requests.
    pub(super) commands: Receiver<Command>,
    /// Where what was found out for peers comes back.
    pub(super) own: WeakSender<Command>,
    /// The peers of the table in force.
    pub(super) aims: Arc<Aims>,
    /// What paths were found to carry.
    pub(super) told: watch::Sender<HashMap<IpAddr, u16>>,
    /// What people are told.
    pub(super) notebook: Notebook,
}

/// What was last told of this node, and what it follows from.
#[derive(Default)]
struct Told {
    table: Option<Arc<Table>>,
    hash: u32,
    drops: u64,
    is_ready: bool,
    at: Option<Instant>,
}

impl Task {
    pub(super) fn new(
        plane: Arc<DataPlane>,
        facts: Arc<Facts>,
        known: Arc<Mutex<Known>>,
        ways: Ways,
        explain: ExplainSource,
    ) -> Self {
        let is_asking = !locked(&known).interval.is_zero();
        let session = plane.probes().identifier();
        Self {
            plane,
            facts,
            known,
            is_asking,
            ways,
            local: None,
            targets: HashMap::default(),
            traffic: Traffic::default(),
            pings: Pings::default(),
            census: Census::default(),
            traces: HashMap::new(),
            next_trace: 0,
            asked: Asked::default(),
            explain,
            explaining: Arc::new(Semaphore::new(EXPLAINED)),
            lines: Lines::default(),
            untold: Vec::new(),
            session,
            last_sent: None,
            digest: Told::default(),
        }
    }

    /// Runs for as long as the daemon.
    pub(super) async fn run(mut self) {
        let Some(mut arrivals) = self.plane.take_probe_arrivals() else { return };
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut turn = 0;
        loop {
            let due = self.due();
            tokio::select! {
                arrival = arrivals.recv() => match arrival {
                    Some(arrival) => self.take(arrival),
                    None => return,
                },
                command = self.ways.commands.recv() => match command {
                    Some(command) => self.obey(command),
                    None => return,
                },
                () = self.ways.aims.changed() => self.take_targets(),
                _ = looks.tick() => {
                    turn += 1;
                    self.look(turn);
                }
                () = sleep_until(due.into()) => {}
            }
            self.pings.finish(clock::now());
            self.ask_for_tables();
            self.give_up_traces();
            self.ask();
            self.tell();
        }
    }

    fn moment(&self, at: Instant) -> Moment {
        Moment::after_start(at.saturating_duration_since(self.facts.started()))
    }

    /// When there is something to do although nothing happens.
    fn due(&self) -> Instant {
        let now = clock::now();
        let later = now + Duration::from_secs(3600);
        let probe = locked(&self.known).prober.due().filter(|_| self.is_asking);
        let probe = probe.map(|due| now + due.since(self.moment(now)));
        let trace = self.traces.values().map(|trace| trace.deadline).min();
        [probe, self.pings.due(), self.census.due(), trace]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(later)
    }

    fn take(&mut self, arrival: ProbeArrival) {
        match arrival {
            ProbeArrival::Answer { peer, answer, trace: Some(trace), .. } => {
                self.take_trace(peer, &answer, &trace);
            }
            ProbeArrival::Answer { peer, answer, received, trace: None } => {
                let now = Timestamp::from_unix_nanos(clock::unix_nanos());
                if self.census.answer(peer, &answer, now) {
                    return;
                }
                let oam::Answer { sequence, route, digest, .. } = answer;
                self.on_answer(peer, sequence, route.nonce, Some(digest), Form::Stamp, received);
            }
            ProbeArrival::Echo { peer, echo, received } => {
                let Echo { sequence, nonce, .. } = echo;
                self.on_answer(peer, sequence.into(), nonce, None, Form::Echo, received);
            }
            ProbeArrival::Trace { peer, ends, answer, received, trace, room } => {
                let answer = oam::Answer { received, ..answer };
                let room = room.saturating_sub(room_of(ends));
                self.explain_to(peer, ends, answer, &trace, room);
            }
        }
    }

    fn on_answer(
        &mut self,
        peer: IpAddr,
        sequence: u32,
        nonce: u64,
        digest: Option<Digest>,
        form: Form,
        received: Instant,
    ) {
        let rtt = self.pings.answer(peer, (sequence, nonce), digest, received);
        let mut known = locked(&self.known);
        let arrived = Arrived { peer, sequence, nonce, form };
        let (received, now) = (self.moment(received), self.moment(clock::now()));
        let Some(rtt) = rtt.or_else(|| known.prober.on_answer(&arrived, received, now)) else {
            return;
        };
        known.rtt.add(rtt);
        if let Some(digest) = digest.filter(|_| self.targets.contains_key(&peer)) {
            known.digests.insert(peer, (clock::now(), digest));
        }
    }

    fn obey(&mut self, command: Command) {
        let now = self.moment(clock::now());
        match command {
            Command::Refused(peer) => {
                locked(&self.known).prober.on_hint(peer, Hint::Refused, now);
            }
            Command::Ping(question, reply) => self.begin_ping(&question, reply),
            Command::Tables(reply) => self.begin_census(reply),
            Command::Trace(question, reply) => self.begin_trace(&question, reply),
            Command::Explained(explained) => self.answer_trace(&explained),
        }
    }

    /// Goes by the peers of the table in force.
    fn take_targets(&mut self) {
        let now = self.moment(clock::now());
        let News { local, peers } = self.ways.aims.take();
        self.local = local.or_else(|| self.local.take());
        let Some(local) = &self.local else { return };
        let table = self.plane.table();
        let told = self.ways.told.borrow();
        let is_told_of = peers.keys().any(|address| told.contains_key(address));
        drop(told);
        let mut known = locked(&self.known);
        for (address, aim) in peers {
            let Some(aim) = aim else {
                known.prober.remove_peer(address);
                known.digests.remove(&address);
                self.targets.remove(&address);
                continue;
            };
            if ends(local, &aim.node).is_some() {
                known.prober.set_peer(&entry(local, &aim), now);
            } else {
                known.prober.remove_peer(address);
            }
            let name = aim.node.name.clone();
            let before = self.targets.insert(address, aim.node);
            if before.is_some_and(|before| before.name != name) {
                known.digests.remove(&address);
            }
            // What was known of the paths to whoever had its name may be of another address.
            let lost = known.prober.view(address).unwrap_or_default().lost_paths;
            if let Some(index) = table.sender(address) {
                table.peer(index).paths.avoid(lost);
            }
        }
        drop(known);
        if is_told_of {
            self.tell_mtus();
        }
    }

    /// A peer, and between which bridges it is asked, if it can be.
    fn target(&self, peer: IpAddr) -> Option<(Arc<NodeEntry>, Ends)> {
        let node = self.targets.get(&peer)?;
        Some((Arc::clone(node), ends(self.local.as_ref()?, node)?))
    }

    fn look(&mut self, turn: u32) {
        let now = clock::now();
        if self.last_sent.is_some_and(|sent| now.saturating_duration_since(sent) < REPORTS) {
            self.plane.look_for_reports();
        }
        // Whoever asks is told at once whether this node has become ready.
        if turn % RARE_LOOK == 1 || self.facts.is_ready() != self.digest.is_ready {
            self.describe(now);
            self.note();
        }
        let table = self.plane.table();
        if !self.is_asking || (table.peers().len() > MANY && !turn.is_multiple_of(RARE_LOOK)) {
            return;
        }
        let at = self.moment(now);
        let mut known = locked(&self.known);
        for moved in self.traffic.look(table) {
            known.prober.on_traffic(moved.peer, at);
            if moved.is_heard {
                known.prober.on_hint(moved.peer, Hint::Heard, at);
            }
        }
    }

    /// Sends what is due.
    fn ask(&mut self) {
        if !self.is_asking {
            return;
        }
        loop {
            let now = self.moment(clock::now());
            let question = locked(&self.known).prober.poll(now);
            let Some(question) = question else { return };
            self.last_sent = Some(clock::now());
            let sent = self.send(&question);
            if let Err(Unsent::TooLong) = sent {
                locked(&self.known).prober.on_too_long(question.sequence, now);
            }
            if let Err(error) = sent {
                tracing::debug!(?error, peer = %question.peer, "a question was not sent");
            }
        }
    }

    fn send(&self, question: &Question) -> Result<(), Unsent> {
        let Question { peer, sequence, nonce, path, answer_path, packet_len, form } = *question;
        let (_, ends) = self.target(peer).ok_or(Unsent::NoWay)?;
        self.look_for_echoes(peer, form);
        let what = match form {
            Form::Stamp => What::Stamp {
                question: self.question(sequence, Route { path, answer_path, nonce }),
                outer_len: packet_len,
                trace: None,
            },
            Form::Echo => self.echo(sequence, nonce),
        };
        self.plane.ask(&Ask { peer, ends, path, what })
    }

    fn question(&self, sequence: u32, route: Route) -> oam::Question {
        oam::Question {
            sequence,
            sent: Timestamp::from_unix_nanos(clock::unix_nanos()),
            session: self.session,
            route,
            digest: self.plane.probes().digest(),
        }
    }

    fn echo(&self, sequence: u32, nonce: u64) -> What<'static> {
        let [_, _, high, low] = sequence.to_be_bytes();
        let sequence = u16::from_be_bytes([high, low]);
        What::Echo(Echo { identifier: self.plane.probes().identifier(), sequence, nonce })
    }

    /// Has workers look for answers of the peer's kernel, for as long as there may be some.
    fn look_for_echoes(&self, peer: IpAddr, form: Form) {
        let is_echoing = form == Form::Echo || locked(&self.known).prober.is_echoing(peer);
        let table = self.plane.table();
        if let Some(index) = table.sender(peer) {
            table.peer(index).paths.set_echoes(is_echoing);
        }
    }

    fn begin_ping(
        &mut self,
        question: &PingQuestion,
        reply: oneshot::Sender<anyhow::Result<PingRound>>,
    ) {
        let name = &question.node;
        let node = self.targets.values().find(|node| node.name == *name);
        let target = node.and_then(|node| self.target(node.address));
        let (Some(local), Some((node, _))) = (&self.local, target) else {
            let why = if node.is_some() {
                format!("{name} and this node have pods of no common family")
            } else {
                format!("the table has no peer \"{name}\"; `culvert status --all` names them")
            };
            // Whoever asked may have gone.
            let _ = reply.send(Err(anyhow::anyhow!(why)));
            return;
        };
        let peer = node.address;
        let by_echo = locked(&self.known).prober.is_asked_by_echo(peer);
        let knows_stamp = both_speak_stamp(local, &node) && !by_echo;
        let form = if knows_stamp { Form::Stamp } else { Form::Echo };
        let ports = self.plane.source_ports();
        let found = PingRound {
            node: name.clone(),
            address: Some(peer),
            by: if form == Form::Stamp { "stamp" } else { "echo" }.to_owned(),
            ..PingRound::default()
        };
        self.pings.begin(peer, found, clock::now(), reply);
        for path in (0..PATHS).filter(|path| question.paths & (1 << path) != 0) {
            let port = ports.get(usize::from(path)).copied().unwrap_or_default();
            let path_of = PingPath { path: path + 1, port, ..PingPath::default() };
            let nonce = super::seed();
            let Some(numbered) = self.pings.add(path_of, nonce, clock::now()) else { return };
            let question = Question {
                peer,
                sequence: numbered.sequence,
                nonce: numbered.nonce,
                path,
                answer_path: path,
                packet_len: question.packet_len,
                form,
            };
            let sent = self.send(&question);
            self.last_sent = Some(clock::now());
            if let Err(error) = sent {
                self.pings.refuse(numbered.sequence, unsent(&error));
            }
        }
    }

    fn begin_census(&mut self, reply: oneshot::Sender<anyhow::Result<Vec<PeerTable>>>) {
        if !self.census.join(reply) {
            return;
        }
        let now = self.moment(clock::now());
        let mut known = locked(&self.known);
        // Whoever asks about all peers wants to know how it is now, and not how it was lately.
        let narrow: Vec<IpAddr> = known.prober.narrow().map(|(address, _)| address).collect();
        for address in narrow {
            known.prober.on_hint(address, Hint::Wider, now);
        }
        let peer = |node: &Arc<NodeEntry>| {
            let address = node.address;
            let knows_stamp =
                self.local.as_ref().is_some_and(|local| both_speak_stamp(local, node));
            let unasked = if self.target(address).is_none() {
                Some("it and this node have pods of no common family")
            } else if !knows_stamp || known.prober.is_asked_by_echo(address) {
                Some("it does not know such questions")
            } else {
                None
            };
            let table = PeerTable {
                node: node.name.clone(),
                table: None,
                is_ready: None,
                clock_ahead: None,
                failing: None,
                unasked: unasked.map(str::to_owned),
            };
            (table, unasked.is_none().then_some(address))
        };
        let peers = self.targets.values().map(peer).collect();
        drop(known);
        self.census.begin(peers, clock::now());
    }

    fn ask_for_tables(&mut self) {
        for (peer, place) in self.census.due_peers(clock::now()) {
            let (sequence, nonce) = (self.pings.number(), super::seed());
            let question = Question {
                peer,
                sequence,
                nonce,
                path: 0,
                answer_path: 0,
                packet_len: None,
                form: Form::Stamp,
            };
            match self.send(&question) {
                Ok(()) => self.census.sent(peer, sequence, nonce, place),
                Err(error) => self.census.unsent(place, unsent(&error)),
            }
            self.last_sent = Some(clock::now());
        }
        self.census.finish(clock::now());
    }

    /// Says what has changed, and does what follows.
    fn tell(&mut self) {
        let events = locked(&self.known).prober.take_events();
        let mut mtus = false;
        for event in events {
            let peer = event.peer();
            mtus |= matches!(event, Event::Mtu(..));
            if self.untold.iter().all(|it| discriminant(it) != discriminant(&event)) {
                self.untold.push(event);
            }
            let Some(target) = self.targets.get(&peer) else { continue };
            match event {
                Event::Paths(_, lost, _) => self.lead(peer, lost),
                Event::Lost(..) => self.lead(peer, 0),
                Event::Back(_) | Event::Mtu(..) => {}
            }
            if self.lines.may_write(clock::now()) {
                log(&event, &target.name, &self.plane.source_ports());
            }
        }
        if mtus {
            self.tell_mtus();
        }
    }

    /// Takes notes for people of what has changed. Each is about all peers, so it is seldom made.
    fn note(&mut self) {
        let events = std::mem::take(&mut self.untold);
        if events.is_empty() {
            return;
        }
        let known = locked(&self.known);
        let named = |address: IpAddr| {
            let target = self.targets.get(&address)?;
            Some(Peer { name: &target.name, view: known.prober.view(address)? })
        };
        let peers: Vec<Peer<'_>> = self.targets.keys().copied().filter_map(named).collect();
        for (reason, text) in notes(&events, peers, &self.plane.source_ports()) {
            self.ways.notebook.note(reason, text);
        }
    }

    fn lead(&self, peer: IpAddr, lost: u16) {
        let table = self.plane.table();
        if let Some(index) = table.sender(peer) {
            table.peer(index).paths.avoid(lost);
        }
    }

    fn tell_mtus(&self) {
        let mtus: HashMap<IpAddr, u16> = locked(&self.known).prober.narrow().collect();
        self.ways.told.send_if_modified(|before| {
            let is_news = *before != mtus;
            *before = mtus;
            is_news
        });
    }

    /// Has answers say how this node is.
    fn describe(&mut self, now: Instant) {
        let table = self.plane.table();
        if self.digest.table.as_ref().is_none_or(|before| !Arc::ptr_eq(before, &table)) {
            self.digest.hash = table.digest().short();
            self.digest.table = Some(table);
        }
        self.facts.note_drops(&self.plane, now);
        let drops = self.plane.all_drops();
        let passed = self.digest.at.map(|at| now.saturating_duration_since(at).as_secs().max(1));
        let rate = passed.map_or(0, |passed| (drops - self.digest.drops.min(drops)) / passed);
        (self.digest.drops, self.digest.at) = (drops, Some(now));
        self.digest.is_ready = self.facts.is_ready();
        let lost = locked(&self.known).prober.views().filter(|view| view.state.is_lost()).count();
        self.plane.probes().set_digest(Digest {
            table: self.digest.hash,
            version: version(),
            is_ready: self.digest.is_ready,
            peers_lost: u16::try_from(lost).unwrap_or(u16::MAX),
            mtu: self.facts.mtu(),
            drops: u32::try_from(rate).unwrap_or(u32::MAX),
        });
    }
}

/// Bytes of an answer before what it says of a packet.
fn room_of(ends: Ends) -> usize {
    ends.family().map_or(usize::MAX, |family| oam::Question::packet_len(family, Some(&[])))
}

/// Why a question was not sent, for people.
fn unsent(error: &Unsent) -> String {
    match error {
        Unsent::TooLong => "longer than the device carries".to_owned(),
        Unsent::NoSession => "no session to seal it with yet".to_owned(),
        Unsent::NoWay => "the peer cannot be asked".to_owned(),
        Unsent::Refused(error) => error.to_string(),
    }
}

fn version() -> [u8; 3] {
    let part = |text: &str| text.parse().unwrap_or_default();
    [
        part(env!("CARGO_PKG_VERSION_MAJOR")),
        part(env!("CARGO_PKG_VERSION_MINOR")),
        part(env!("CARGO_PKG_VERSION_PATCH")),
    ]
}
