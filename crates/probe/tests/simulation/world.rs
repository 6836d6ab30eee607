//! The network and the peers: what becomes of each question.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use culvert_probe::{Arrived, Entry, Event, Form, Hint, Moment, Options, Prober, Question, View};

use crate::random::Random;

pub(crate) const ROUTE: u16 = 1500;

/// How often traffic is looked at.
const TURN: Duration = Duration::from_millis(250);

/// Length of a short question.
const SHORT: u16 = 150;

/// A peer as it really is.
#[derive(Clone, Debug)]
pub(crate) struct Truth {
    pub(crate) lives: bool,
    /// Whether its kernel says so when nobody listens.
    pub(crate) refuses: bool,
    pub(crate) knows_stamp: bool,
    /// Source ports of ours that lead nowhere, and of its own.
    pub(crate) broken: u16,
    pub(crate) answers_broken: u16,
    /// What each path carries.
    pub(crate) mtus: [u16; 16],
    pub(crate) rtt: Duration,
    /// Of a hundred questions, so many get lost with their answers.
    pub(crate) loss: u64,
    pub(crate) has_traffic: bool,
    /// How often, if it has.
    pub(crate) pause: Duration,
}

impl Default for Truth {
    fn default() -> Self {
        Self {
            lives: true,
            refuses: false,
            knows_stamp: true,
            broken: 0,
            answers_broken: 0,
            mtus: [ROUTE; 16],
            rtt: Duration::from_millis(1),
            loss: 0,
            has_traffic: true,
            pause: TURN,
        }
    }
}

pub(crate) struct World {
    pub(crate) random: Random,
    pub(crate) prober: Prober,
    pub(crate) now: Moment,
    pub(crate) truths: BTreeMap<IpAddr, Truth>,
    pub(crate) events: Vec<(Moment, Event)>,
    under_way: BTreeMap<(Moment, u64), Arrival>,
    count: u64,
    next_traffic: Moment,
    last_traffic: BTreeMap<IpAddr, Moment>,
    /// When the last questions to each peer were sent.
    recent: BTreeMap<IpAddr, VecDeque<Moment>>,
    pub(crate) questions: u64,
    is_told: bool,
}

enum Arrival {
    Answer(Arrived),
    Refusal(IpAddr),
}

impl World {
    pub(crate) fn new(seed: u64, truths: Vec<Truth>, is_told: bool) -> Self {
        let mut random = Random::new(seed);
        let truths: BTreeMap<IpAddr, Truth> = truths
            .into_iter()
            .enumerate()
            .map(|(index, truth)| (peer(u16::try_from(index).unwrap()), truth))
            .collect();
        let mut prober = Prober::new(Options::default(), random.next());
        let entries: Vec<Entry> = truths
            .iter()
            .map(|(address, truth)| Entry {
                address: *address,
                spread: random.next(),
                may_know_stamp: true,
                route_mtu: truth.mtus[0].max(ROUTE),
            })
            .collect();
        let now = Moment::after_start(Duration::from_secs(1));
        entries.iter().for_each(|entry| prober.set_peer(entry, now));
        Self {
            random,
            prober,
            now,
            truths,
            events: Vec::new(),
            under_way: BTreeMap::new(),
            count: 0,
            next_traffic: now,
            last_traffic: BTreeMap::new(),
            recent: BTreeMap::new(),
            questions: 0,
            is_told,
        }
    }

    pub(crate) fn view(&self, number: u16) -> View {
        self.prober.view(peer(number)).unwrap()
    }

    pub(crate) fn truth(&mut self, number: u16) -> &mut Truth {
        self.truths.get_mut(&peer(number)).unwrap()
    }

    pub(crate) fn tell(&self, what: std::fmt::Arguments<'_>) {
        if self.is_told {
            println!("{:?} {what}", self.now.since(Moment::default()));
        }
    }

    /// Lets time pass, and everything happen that does.
    pub(crate) fn pass(&mut self, span: Duration) {
        let end = self.now + span;
        loop {
            self.look_at_traffic();
            while let Some(question) = self.prober.poll(self.now) {
                self.carry(question);
            }
            for event in self.prober.take_events() {
                self.tell(format_args!("{event:?}"));
                self.events.push((self.now, event));
            }
            let arrival = self.under_way.keys().next().map(|(at, _)| *at);
            let due = self.prober.due();
            let next = [arrival, due, Some(self.next_traffic)].into_iter().flatten().min();
            let next = next.unwrap_or(end).max(self.now);
            if next > end {
                self.now = end;
                return;
            }
            self.now = next;
            while let Some(((at, _), _)) = self.under_way.first_key_value() {
                if *at > self.now {
                    break;
                }
                let (_, arrival) = self.under_way.pop_first().unwrap();
                match arrival {
                    Arrival::Answer(arrived) => {
                        self.prober.on_answer(&arrived, self.now, self.now);
                    }
                    Arrival::Refusal(peer) => self.prober.on_hint(peer, Hint::Refused, self.now),
                }
            }
        }
    }

    /// Pods send all the time, or once in a while; what nobody takes is refused.
    fn look_at_traffic(&mut self) {
        if self.now < self.next_traffic {
            return;
        }
        self.next_traffic = self.now + TURN;
        let last = |peer| self.last_traffic.get(peer).copied().unwrap_or_default();
        let busy: Vec<(IpAddr, bool)> = self
            .truths
            .iter()
            .filter(|(peer, truth)| truth.has_traffic && self.now.since(last(peer)) >= truth.pause)
            .map(|(peer, truth)| (*peer, !truth.lives && truth.refuses))
            .collect();
        for (peer, is_refused) in busy {
            self.prober.on_traffic(peer, self.now);
            self.last_traffic.insert(peer, self.now);
            if is_refused {
                // What the kernel says is looked at as often.
                let late = Duration::from_millis(self.random.below(250));
                self.arrive(late, Arrival::Refusal(peer));
            }
        }
    }

    fn carry(&mut self, question: Question) {
        self.questions += 1;
        let Question { peer, path, answer_path, packet_len, form, .. } = question;
        let second = Duration::from_secs(1);
        let recent = self.recent.entry(peer).or_default();
        recent.push_back(self.now);
        while recent.front().is_some_and(|at| self.now.since(*at) >= second) {
            recent.pop_front();
        }
        assert!(recent.len() <= 128, "{} questions to {peer} in a second", recent.len());
        let truth = &self.truths[&peer];
        if !truth.lives {
            if truth.refuses {
                self.arrive(truth.rtt, Arrival::Refusal(peer));
            }
            return;
        }
        let is = |paths: u16, path: u8| paths & (1 << path) != 0;
        let is_lost = is(truth.broken, path)
            || is(truth.answers_broken, answer_path)
            || (form == Form::Stamp && !truth.knows_stamp)
            || packet_len.unwrap_or(SHORT) > truth.mtus[usize::from(path)];
        let (loss, rtt) = (truth.loss, truth.rtt);
        if is_lost || self.random.percent(loss) {
            return;
        }
        let (sequence, nonce) = (question.sequence, question.nonce);
        let sequence = if form == Form::Echo { sequence & 0xffff } else { sequence };
        self.arrive(rtt, Arrival::Answer(Arrived { peer, sequence, nonce, form }));
    }

    fn arrive(&mut self, after: Duration, arrival: Arrival) {
        self.count += 1;
        let jitter = Duration::from_micros(self.random.below(300));
        self.under_way.insert((self.now + after + jitter, self.count), arrival);
    }
}

pub(crate) fn peer(number: u16) -> IpAddr {
    let [high, low] = number.to_be_bytes();
    [10, 0, high, low].into()
}
