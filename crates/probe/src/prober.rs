//! The machine: whom to ask at `now`, and what answers and losses mean.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use crate::PATHS;
use crate::event::{Arrived, Entry, Event, Form, Hint, Question, State, View};
use crate::moment::Moment;
use crate::peer::{Knows, Peer, bit, has};
use crate::peers::Peers;
use crate::schedule::{
    IDLE, forms, interval_of, may_be_searched, postpone, spread_over, trial_forms, wake,
};
use crate::search::{LEAST_PATIENCE, Search, Step};
use crate::trial::{Cause, Outcome, Trial};
use crate::under_way::{IsShort, Kind, Planned, UnderWay};

/// How long a peer counts as one with traffic after the last of it.
const ACTIVE: Duration = Duration::from_secs(60);
/// Peers that count as such at most.
const MAX_ACTIVE: usize = 256;
/// How long a peer counts as busy after the last traffic, and is asked by one path soon after the
/// other.
const BUSY: Duration = Duration::from_secs(3);

/// Trials and searches at once. A trial that has to wait is that of another loss.
const MAX_TRIALS: usize = 256;
const MAX_SEARCHES: usize = 64;

/// How often what a path carries is looked at again, and a peer that does not know STAMP tried.
const RENEWAL: Duration = Duration::from_secs(600);
/// After a search that came to nothing.
const SEARCH_RETRY: Duration = Duration::from_secs(10);
/// After a hint that was contradicted.
const HINT_REST: Duration = Duration::from_secs(10);

/// How the machine is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// How often a peer with traffic is asked.
    pub interval: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { interval: Duration::from_secs(10) }
    }
}

/// What a node knows of its paths, and does to know it.
#[derive(Debug)]
pub struct Prober {
    options: Options,
    peers: Peers,
    /// Questions to send.
    out: VecDeque<Planned>,
    under_way: UnderWay,
    events: Vec<Event>,
    random: u64,
    active: usize,
    busy: u32,
    trials: usize,
    searches: usize,
}

impl Prober {
    /// Knows nobody yet. Everything that is random follows from `seed`.
    #[must_use]
    pub fn new(options: Options, seed: u64) -> Self {
        Self {
            options,
            peers: Peers::default(),
            out: VecDeque::new(),
            under_way: UnderWay::default(),
            events: Vec::new(),
            random: seed,
            active: 0,
            busy: 0,
            trials: 0,
            searches: 0,
        }
    }

    /// Takes a peer of the table, as it is now. What is known of it is kept if it is the same as
    /// before, unless the route promises something else.
    pub fn set_peer(&mut self, entry: &Entry, now: Moment) {
        let address = entry.address;
        let is_other = |peer: &Peer| {
            peer.may_know_stamp != entry.may_know_stamp || peer.spread != low(entry.spread)
        };
        if self.peers.get(address).is_some_and(is_other) {
            self.remove_peer(address);
        }
        let Some(peer) = self.peers.get_mut(address) else {
            let mut peer = Peer::new(entry);
            peer.due = now + spread_over(self.options.interval * IDLE, entry.spread);
            self.peers.insert(peer);
            return;
        };
        if peer.route_mtu == entry.route_mtu {
            return;
        }
        peer.route_mtu = entry.route_mtu;
        if peer.mtu >= entry.route_mtu && peer.mtu != 0 {
            peer.mtu = 0;
            self.events.push(Event::Mtu(address, None));
        }
        self.searches -= usize::from(peer.search.take().is_some());
        (peer.is_mtu_known, peer.search_due) = (false, now);
        self.peers.reschedule(address);
    }

    /// Forgets a peer that is in the table no more.
    pub fn remove_peer(&mut self, address: IpAddr) {
        let Some(peer) = self.peers.remove(address) else { return };
        self.active -= usize::from(peer.is_active);
        self.busy -= u32::from(peer.is_busy);
        self.trials -= usize::from(peer.trial.is_some());
        self.searches -= usize::from(peer.search.is_some());
        self.under_way.keep(|peer| peer != address);
        self.out.retain(|planned| planned.peer != address);
    }

    /// The peers whose paths carry less than their routes promise, and how much.
    pub fn narrow(&self) -> impl Iterator<Item = (IpAddr, u16)> {
        self.peers.iter().filter(|peer| peer.mtu != 0).map(|peer| (peer.address, peer.mtu))
    }

    /// Takes note that a packet was sent to the peer, or came from it.
    pub fn on_traffic(&mut self, address: IpAddr, now: Moment) {
        let interval = self.options.interval;
        let Some(peer) = self.peers.get_mut(address) else { return };
        if !peer.is_active {
            if self.active >= MAX_ACTIVE {
                return;
            }
            self.active += 1;
            peer.is_active = true;
            peer.due = peer.due.min(now);
        }
        peer.active_until = now + ACTIVE;
        if !peer.is_busy {
            peer.is_busy = true;
            self.busy += 1;
        }
        peer.due = peer.due.min(now + interval_of(interval, self.busy, peer));
        self.peers.reschedule(address);
    }

    /// Takes what somebody says of a peer.
    pub fn on_hint(&mut self, address: IpAddr, hint: Hint, now: Moment) {
        let Some(peer) = self.peers.get_mut(address) else { return };
        let is_lost = peer.state.is_lost();
        match hint {
            Hint::Heard if is_lost && peer.trial.is_none() => peer.due = peer.due.min(now),
            // That it does not answer is known: what its kernel says is why.
            Hint::Refused if peer.state == State::Silent => {
                peer.state = State::Refused;
                self.events.push(Event::Lost(address, State::Refused));
                return;
            }
            Hint::Refused if !is_lost && peer.hint_rest <= now => {
                let lost = (peer.lost, peer.lost_answers);
                let last = (peer.next_path, peer.next_path);
                let mut trial = Trial::new(Cause::Hint, (0, 0), lost, last, now);
                match &peer.trial {
                    None if self.trials >= MAX_TRIALS => return,
                    None => self.trials += 1,
                    // What is in doubt is looked at afterwards, if the hint is not true.
                    Some(running) if running.cause == Cause::Loss => trial.interrupts(running),
                    Some(_) => return,
                }
                peer.trial = Some(Box::new(trial));
            }
            Hint::Wider if peer.mtu != 0 && peer.search.is_none() => {
                peer.search_due = peer.search_due.min(now);
            }
            Hint::Heard | Hint::Refused | Hint::Wider => return,
        }
        self.peers.reschedule(address);
    }

    /// Takes an answer; says how long it took, if it was one to a question of this machine's.
    pub fn on_answer(
        &mut self,
        arrived: &Arrived,
        received: Moment,
        now: Moment,
    ) -> Option<Duration> {
        let (sequence, sent) = self.under_way.take(arrived)?;
        let Planned { peer: address, path, answer_path, form, kind } = sent.planned;
        let peer = self.peers.get_mut(address)?;
        let rtt = received.since(sent.at);
        peer.note_rtt(rtt);
        match form {
            Form::Stamp => peer.knows = Knows::Stamp,
            Form::Echo if peer.knows == Knows::Nothing => peer.knows = Knows::Echo,
            Form::Echo => {}
        }
        // Until it is known what the peer answers there are two of them.
        if peer.awaited.wrapping_sub(sequence) <= 1 {
            peer.deadline = Moment::default();
            peer.note_quiet();
        }
        let was_lost = std::mem::replace(&mut peer.state, State::Well).is_lost();
        if was_lost {
            self.events.push(Event::Back(address));
            peer.due = now + self.options.interval;
            // Of what there was before nothing may be left.
            self.trials -= usize::from(peer.trial.take().is_some());
        }
        if let Some(trial) = &mut peer.trial {
            trial.answered(path, answer_path);
        } else if (has(peer.lost, path) || has(peer.lost_answers, answer_path))
            && self.trials < MAX_TRIALS
        {
            let lost = (peer.lost, peer.lost_answers);
            let trial = Trial::new(Cause::Recovery, lost, lost, (path, answer_path), now);
            peer.trial = Some(Box::new(trial));
            self.trials += 1;
        }
        if let (Kind::Search(size, short), Some(search)) = (kind, &mut peer.search)
            && search.path == path
        {
            let step = search.answered(size, short == IsShort::Short, now);
            self.take_step(address, step, now);
        }
        self.peers.reschedule(address);
        Some(rtt)
    }

    /// The question cannot be sent as long as it is: the device has become narrower, which the
    /// route will tell.
    pub fn on_too_long(&mut self, sequence: u32, now: Moment) {
        let Some(sent) = self.under_way.forget(sequence) else { return };
        let address = sent.planned.peer;
        let Some(peer) = self.peers.get_mut(address) else { return };
        if peer.awaited == sequence {
            peer.deadline = Moment::default();
        }
        if peer.search.take().is_some() {
            self.searches -= 1;
            peer.search_due = now + SEARCH_RETRY;
        }
        self.peers.reschedule(address);
    }

    /// The next question to send, if there is one at `now`.
    pub fn poll(&mut self, now: Moment) -> Option<Question> {
        while self.out.is_empty() {
            let (at, address) = self.peers.first()?;
            if at > now {
                return None;
            }
            self.work(address, now);
        }
        let planned = self.out.pop_front()?;
        Some(self.send(planned, now))
    }

    /// When [`poll`](Self::poll) has something to do, if nothing arrives before.
    #[must_use]
    pub fn due(&self) -> Option<Moment> {
        self.peers.first().map(|(at, _)| at)
    }

    /// What has changed since this was last asked.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// What is known of a peer.
    #[must_use]
    pub fn view(&self, address: IpAddr) -> Option<View> {
        self.peers.get(address).map(Peer::view)
    }

    /// Whether the peer is asked by ICMP echo, at least among others, so that answers have to be
    /// looked for.
    #[must_use]
    pub fn is_echoing(&self, address: IpAddr) -> bool {
        self.peers
            .get(address)
            .is_some_and(|peer| peer.knows != Knows::Stamp || peer.state.is_lost())
    }

    /// Whether it is the peer's kernel that answers, as far as is known.
    #[must_use]
    pub fn is_asked_by_echo(&self, address: IpAddr) -> bool {
        self.peers.get(address).is_some_and(|peer| peer.knows == Knows::Echo)
    }

    /// What is known of each peer.
    pub fn views(&self) -> impl Iterator<Item = View> {
        self.peers.iter().map(Peer::view)
    }

    fn send(&mut self, planned: Planned, now: Moment) -> Question {
        let nonce = self.draw();
        let sequence = self.under_way.add(planned, nonce, now);
        let Planned { peer: address, path, answer_path, form, kind } = planned;
        let packet_len = match kind {
            Kind::Regular(len) => len,
            Kind::Search(len, IsShort::Long) => Some(len),
            Kind::Search(_, IsShort::Short) | Kind::Recheck | Kind::Trial => None,
        };
        if matches!(kind, Kind::Regular(_))
            && let Some(peer) = self.peers.get_mut(address)
        {
            (peer.awaited, peer.is_awaited_long) = (sequence, packet_len.is_some());
            peer.deadline = now + peer.regular_patience();
            self.peers.reschedule(address);
        }
        Question { peer: address, sequence, nonce, path, answer_path, packet_len, form }
    }

    /// SplitMix64.
    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Does what is due with a peer.
    fn work(&mut self, address: IpAddr, now: Moment) {
        let Some(peer) = self.peers.get_mut(address) else { return };
        if peer.is_busy && peer.active_until <= now + (ACTIVE - BUSY) {
            peer.is_busy = false;
            self.busy -= 1;
        }
        if peer.is_active && peer.active_until <= now {
            peer.is_active = false;
            self.active -= 1;
            peer.due = peer.due.max(now + spread_over(self.options.interval * IDLE, self.random));
        }
        self.look_at_trial(address, now);
        self.look_at_deadline(address, now);
        self.ask(address, now);
        self.look_at_search(address, now);
        self.peers.reschedule(address);
        // Whatever happens, time goes on.
        if let Some(peer) = self.peers.get_mut(address)
            && wake(peer) <= now
            && self.out.is_empty()
        {
            postpone(peer, now);
            self.peers.reschedule(address);
        }
    }

    fn look_at_trial(&mut self, address: IpAddr, now: Moment) {
        let Some(peer) = self.peers.get_mut(address) else { return };
        let Some(mut trial) = peer.trial.take() else { return };
        if trial.next > now {
            peer.trial = Some(trial);
            return;
        }
        let patience = peer.patience(trial.least_patience());
        let questions = trial.questions(now, patience);
        if questions.is_empty() {
            let outcome = trial.look(peer.is_noisy(), now);
            let cause = trial.cause;
            let interrupted = trial.interrupted();
            if !outcome.is_over {
                peer.trial = Some(trial);
            }
            self.conclude(address, cause, outcome, now);
            if outcome.is_over && !outcome.is_peer_lost {
                self.resume(address, interrupted, now);
            }
            return;
        }
        peer.trial = Some(trial);
        for (index, (path, answer_path)) in questions.into_iter().enumerate() {
            for form in trial_forms(peer, index == 0).into_iter().flatten() {
                let kind = Kind::Trial;
                self.out.push_back(Planned { peer: address, path, answer_path, form, kind });
            }
        }
    }

    /// Takes what a round of a trial came to.
    fn conclude(&mut self, address: IpAddr, cause: Cause, outcome: Outcome, now: Moment) {
        let Some(peer) = self.peers.get_mut(address) else { return };
        let (lost, lost_answers) = (peer.lost, peer.lost_answers);
        if cause == Cause::Recovery {
            peer.lost &= !outcome.works;
            peer.lost_answers &= !outcome.answers_work;
        }
        peer.lost |= outcome.lost;
        peer.lost_answers |= outcome.lost_answers;
        if outcome.is_over {
            self.trials -= 1;
            peer.due = now + interval_of(self.options.interval, self.busy, peer);
            if cause == Cause::Hint && !outcome.is_peer_lost {
                peer.hint_rest = now + HINT_REST;
            }
            if outcome.is_peer_lost && (peer.may_know_stamp || peer.state == State::Well) {
                let state = if cause == Cause::Hint { State::Refused } else { State::Silent };
                peer.state = state;
                (peer.lost, peer.lost_answers) = (0, 0);
                peer.due = now + interval_of(self.options.interval, self.busy, peer);
                self.searches -= usize::from(peer.search.take().is_some());
                self.events.push(Event::Lost(address, state));
            } else if cause == Cause::Loss && (peer.lost, peer.lost_answers) == (lost, lost_answers)
            {
                if peer.is_awaited_long && peer.search.is_none() && peer.state == State::Well {
                    // Short ones come back.
                    let (present, noisy) = (peer.present_mtu(), peer.is_noisy());
                    let path = peer.next_path.wrapping_sub(1) % PATHS;
                    if self.searches < MAX_SEARCHES {
                        self.searches += 1;
                        let search = Search::verify(path, present, noisy, now);
                        peer.search = Some(Box::new(search));
                    }
                } else {
                    peer.note_noise();
                }
            }
        }
        if (peer.lost, peer.lost_answers) != (lost, lost_answers) {
            self.events.push(Event::Paths(address, peer.lost, peer.lost_answers));
        }
    }

    /// Goes on with what was in doubt before a hint that was not true.
    fn resume(&mut self, address: IpAddr, doubt: (u16, u16), now: Moment) {
        let Some(peer) = self.peers.get_mut(address) else { return };
        let doubt = (doubt.0 & !peer.lost, doubt.1 & !peer.lost_answers);
        if doubt == (0, 0) || self.trials >= MAX_TRIALS || peer.trial.is_some() {
            return;
        }
        let lost = (peer.lost, peer.lost_answers);
        let last = (peer.next_path, peer.next_path);
        peer.trial = Some(Box::new(Trial::new(Cause::Loss, doubt, lost, last, now)));
        self.trials += 1;
    }

    /// Takes note that the answer to the regular question has not come.
    fn look_at_deadline(&mut self, address: IpAddr, now: Moment) {
        let Some(peer) = self.peers.get_mut(address) else { return };
        if peer.deadline == Moment::default() || peer.deadline > now {
            return;
        }
        peer.deadline = Moment::default();
        if peer.trial.is_some() || peer.state.is_lost() {
            return;
        }
        if self.trials >= MAX_TRIALS {
            peer.due = now + self.options.interval / 10;
            return;
        }
        let path = peer.next_path.wrapping_sub(1) % PATHS;
        let doubt = (bit(path) & !peer.lost, bit(path) & !peer.lost_answers);
        let lost = (peer.lost, peer.lost_answers);
        peer.trial = Some(Box::new(Trial::new(Cause::Loss, doubt, lost, (path, path), now)));
        self.trials += 1;
    }

    /// Asks the regular question, if it is time.
    fn ask(&mut self, address: IpAddr, now: Moment) {
        let Some(peer) = self.peers.get_mut(address) else { return };
        let is_awaiting = peer.deadline != Moment::default();
        if peer.due > now || peer.trial.is_some() || is_awaiting {
            return;
        }
        let interval = interval_of(self.options.interval, self.busy, peer);
        peer.due = now + interval;
        let working = !(peer.lost | peer.lost_answers);
        let path = Peer::turn(working, &mut peer.next_path)
            .or_else(|| Peer::turn(u16::MAX, &mut peer.next_path))
            .unwrap_or_default();
        // The answer's path of the same number, so that both ways are looked at.
        let long = peer.is_mtu_known && peer.is_active && peer.knows == Knows::Stamp;
        let len = (long && peer.search.is_none()).then(|| peer.present_mtu());
        let len = len.filter(|_| !peer.state.is_lost());
        let forms = forms(peer, now);
        if peer.knows != Knows::Stamp && forms[0].is_some() {
            peer.stamp_tries = peer.stamp_tries.saturating_add(1);
            peer.stamp_due = now + RENEWAL;
        }
        let lost = peer.lost | peer.lost_answers;
        let recheck = Peer::turn(lost, &mut peer.next_recheck);
        let (lost_paths, lost_answers) = (peer.lost, peer.lost_answers);
        for form in forms.into_iter().flatten() {
            let kind = Kind::Regular(len.filter(|_| form == Form::Stamp));
            self.out.push_back(Planned { peer: address, path, answer_path: path, form, kind });
            if let Some(again) = recheck {
                let kind = Kind::Recheck;
                let one = if has(lost_paths, again) { again } else { path };
                let other = if has(lost_answers, again) { again } else { path };
                let planned = Planned { peer: address, path: one, answer_path: path, form, kind };
                if one == again {
                    self.out.push_back(planned);
                }
                if other == again {
                    self.out.push_back(Planned { path, answer_path: again, ..planned });
                }
            }
        }
    }

    fn look_at_search(&mut self, address: IpAddr, now: Moment) {
        let Some(peer) = self.peers.get_mut(address) else { return };
        if peer.search.is_none() {
            if !may_be_searched(peer) || peer.trial.is_some() || peer.search_due > now {
                return;
            }
            if self.searches >= MAX_SEARCHES {
                peer.search_due = now + self.options.interval / 10;
                return;
            }
            if peer.is_mtu_known && peer.mtu == 0 {
                // Regular questions are as long as the route promises.
                peer.search_due = now + RENEWAL;
                return;
            }
            self.searches += 1;
            let known = (peer.is_mtu_known && peer.mtu != 0).then_some(peer.mtu);
            // The path that is known to be narrow, so that it does not count as wide because others
            // are; none that is lost.
            let mut first = if known.is_some() { peer.narrow_path } else { peer.next_path };
            let working = !(peer.lost | peer.lost_answers);
            let path = Peer::turn(working, &mut first).unwrap_or_default();
            let search = Search::new(path, known, peer.route_mtu, peer.is_noisy(), now);
            peer.search = Some(Box::new(search));
        }
        // A path that is in doubt tells nothing of lengths.
        if peer.trial.is_some() {
            return;
        }
        let patience = peer.patience(LEAST_PATIENCE);
        let Some(search) = &mut peer.search else { return };
        let path = search.path;
        let step = search.step(now, patience);
        if let Step::Try(size) = step {
            let short = Planned {
                peer: address,
                path,
                answer_path: path,
                form: Form::Stamp,
                kind: Kind::Search(size, IsShort::Short),
            };
            self.out.push_back(Planned { kind: Kind::Search(size, IsShort::Long), ..short });
            self.out.push_back(short);
        }
        self.take_step(address, step, now);
    }

    fn take_step(&mut self, address: IpAddr, step: Step, now: Moment) {
        let Some(peer) = self.peers.get_mut(address) else { return };
        let Some(search) = &peer.search else { return };
        let (path, was_verification) = (search.path, search.is_verification());
        match step {
            Step::Try(_) | Step::Wait => return,
            Step::Unclear => peer.search_due = now + SEARCH_RETRY,
            Step::Found(mtu) => {
                let before = peer.view().mtu;
                if !was_verification {
                    peer.search_due = now + RENEWAL;
                    peer.mtu = if mtu >= peer.route_mtu { 0 } else { mtu };
                    peer.narrow_path = path;
                }
                peer.is_mtu_known = true;
                let after = peer.view().mtu;
                if before != after {
                    self.events.push(Event::Mtu(address, after));
                }
            }
        }
        peer.search = None;
        self.searches -= 1;
    }
}

#[expect(clippy::cast_possible_truncation, reason = "half of a hash is one")]
const fn low(number: u64) -> u32 {
    number as u32
}

#[cfg(test)]
mod tests;
