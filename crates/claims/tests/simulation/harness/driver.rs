//! What the driver of a machine does, in the place of the real one.

use std::time::Duration;

use culvert_claims::{PodsUnknown, Update};

use super::protocol::Call;
use super::{Answer, End, Happening, Held, News, Protocol, Step, Waiting, World};
use crate::report::Violation;

/// The pause after a first failure, and the longest.
const PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

impl<P: Protocol> World<P> {
    pub(super) fn pause(&mut self, node: usize, pause: Duration) {
        let it = &mut self.nodes[node];
        it.session += 1;
        it.waiting = Waiting::Pause;
        it.watched.clear();
        it.watch = None;
        let session = it.session;
        let delay = pause + self.delay();
        self.clock.after(delay, Happening::Connect { node, session });
    }

    pub(super) fn connect(&mut self, node: usize) -> Held {
        if !self.is_connected(node) {
            return self.lost(node, "no connection");
        }
        let it = &mut self.nodes[node];
        it.moved = false;
        it.reload = false;
        it.told_ready = it.daemon.ready;
        P::begin(it);
        self.drive(node)
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
            let now = self.nodes[node].instant(self.clock.instant());
            let request = P::request(&mut self.nodes[node], now);
            self.hand_over(node);
            match P::step(self, node, request) {
                Step::Wait(until) => {
                    self.nodes[node].waiting = Waiting::Follow;
                    P::check_waiting(self, node)?;
                    if let Some(news) = self.news_for(node) {
                        P::tell(self, node, news);
                        continue;
                    }
                    let it = &mut self.nodes[node];
                    it.wake += 1;
                    let number = it.wake;
                    if let Some(until) = until {
                        let until = until.saturating_duration_since(now);
                        self.clock.after(until, Happening::Wake { node, number });
                    }
                }
                Step::Heard => {
                    let number = self.expect(node);
                    let it = &mut self.nodes[node];
                    it.hears = Some((it.session, number));
                    let boot = it.boot;
                    self.clock.after(Duration::ZERO, Happening::Updates { node, boot });
                }
                Step::Pods(subnets) => {
                    self.count("a node looked at its pods");
                    let held = if self.trouble && self.random.percent(5) {
                        Err(PodsUnknown::new("the store is damaged"))
                    } else {
                        Ok(self.nodes[node].held(&subnets))
                    };
                    self.answer_soon(node, Answer::Pods(held));
                }
                Step::Own(answer) => self.answer_soon(node, Answer::Own(answer)),
                Step::Ask(request) => {
                    let number = self.expect(node);
                    let session = self.nodes[node].session;
                    let delay = self.delay();
                    self.say(|| format!("node {node} asks {request:?}"));
                    let asker = P::asker(&self.nodes[node]);
                    let call = Call { node, session, number, request, asker };
                    self.clock.after(delay, Happening::Ask(call));
                    self.clock.after(P::PATIENCE, Happening::Late { node, session, number });
                }
                Step::End(End::Again) => self.pause(node, Duration::ZERO),
                Step::End(End::Later) => self.back_off(node),
                Step::End(End::Lost(reason)) => return self.lost(node, &reason),
            }
            return Ok(());
        }
    }

    /// Hands what the machine tells to the daemon, which takes it after a while.
    fn hand_over(&mut self, node: usize) {
        let it = &mut self.nodes[node];
        let mut heard = false;
        while let Some((update, keeps)) = P::update(it) {
            if let Update::Contested(reason) = &update {
                it.contested.clone_from(reason);
                heard |= reason.is_some();
            }
            it.daemon.queue.push_back((update, keeps));
        }
        let (boot, waits) = (it.boot, !it.daemon.queue.is_empty());
        if heard {
            self.count("a node said that it is contested");
        }
        if waits {
            let busy = if self.trouble && self.random.percent(3) { 8_000 } else { 100 };
            let delay = Duration::from_millis(self.random.between(0, busy));
            self.clock.after(delay, Happening::Updates { node, boot });
        }
    }

    /// What a node that waits has to tell its machine.
    fn news_for(&mut self, node: usize) -> Option<News<P>> {
        let it = &mut self.nodes[node];
        if let Some(watched) = it.watched.pop_front() {
            return Some(News::Watched(watched));
        }
        if std::mem::take(&mut it.moved) {
            return Some(News::Moved);
        }
        if it.told_ready != it.daemon.ready {
            it.told_ready = it.daemon.ready;
            return Some(News::Ready(it.told_ready));
        }
        std::mem::take(&mut it.reload).then_some(News::Reload)
    }

    /// The number of the answer that the node waits for from now on.
    fn expect(&mut self, node: usize) -> u64 {
        let it = &mut self.nodes[node];
        it.asked += 1;
        it.waiting = Waiting::Answer(it.asked);
        it.asked
    }

    /// Has something of the node's own answered after a while.
    fn answer_soon(&mut self, node: usize, answer: Answer<P>) {
        let number = self.expect(node);
        let session = self.nodes[node].session;
        let delay = Duration::from_millis(self.random.between(0, 200));
        self.clock.after(delay, Happening::Answer { node, session, number, answer });
    }

    pub(super) fn answer(&mut self, node: usize, answer: Answer<P>) -> Held {
        let now = self.nodes[node].instant(self.clock.instant());
        let it = &mut self.nodes[node];
        it.waiting = Waiting::Pause;
        if let Some(reason) = P::refusal(&answer) {
            return self.lost(node, reason);
        }
        match answer {
            Answer::Own(answer) => P::tell(self, node, News::Answer(answer)),
            Answer::Heard => {
                it.told_ready = it.daemon.ready;
                let ready = it.told_ready;
                P::tell(self, node, News::Heard(ready));
            }
            Answer::Pods(held) => P::tell(self, node, News::Pods(held)),
            Answer::Watching => {
                it.pause = PAUSE;
                P::tell(self, node, News::Watching(now));
                self.tell_watches();
            }
        }
        self.drive(node)
    }

    pub(super) fn lost(&mut self, node: usize, reason: &str) -> Held {
        self.count("a session failed");
        self.say(|| format!("node {node} has lost the store: {reason}"));
        let it = &mut self.nodes[node];
        it.daemon.queue.push_back((Update::Lost(reason.to_owned()), false));
        let boot = it.boot;
        self.clock.after(Duration::from_millis(20), Happening::Updates { node, boot });
        self.back_off(node);
        Ok(())
    }

    fn back_off(&mut self, node: usize) {
        let it = &mut self.nodes[node];
        let bound = it.pause;
        it.pause = (bound * 2).min(LONGEST_PAUSE);
        let part = self.random.between(50, 100);
        self.pause(node, bound * u32::try_from(part).unwrap() / 100);
    }

    /// The daemon takes what waits, and what must hold of its table is looked at.
    pub(super) fn updates(&mut self, node: usize) -> Held {
        if !self.nodes[node].runs {
            return Ok(());
        }
        // A batch may end anywhere.
        let most = if self.random.percent(20) { self.random.below(4) } else { usize::MAX };
        let it = &mut self.nodes[node];
        let taken = it.daemon.take_updates(&it.name, most);
        if it.daemon.heard {
            it.disk.table = it.daemon.table.nodes().cloned().collect();
        }
        let (boot, waits) = (it.boot, !it.daemon.queue.is_empty());
        if waits {
            let delay = Duration::from_millis(self.random.between(1, 1000));
            self.clock.after(delay, Happening::Updates { node, boot });
        }
        if let Some(dropped) = taken.dropped {
            return Err(Violation::new(
                "a database that lost its data empties no table",
                format!("node {node} has lost {dropped}"),
            ));
        }
        self.check_pods(node)?;
        let it = &mut self.nodes[node];
        if !waits && let Some((session, number)) = it.hears.take() {
            let answer = Answer::Heard;
            let delay = Duration::from_millis(self.random.between(0, 20));
            self.clock.after(delay, Happening::Answer { node, session, number, answer });
        }
        if taken.turned {
            let ready = self.nodes[node].daemon.ready;
            self.say(|| format!("node {node} takes pods: {ready}"));
            return self.go_on(node);
        }
        Ok(())
    }

    /// A daemon that has a subnet has those of all pods.
    fn check_pods(&self, node: usize) -> Held {
        let it = &self.nodes[node];
        if let Some(subnet) = it.daemon.about_to_go(&it.name) {
            return Err(Violation::new(
                "no pod gets an address of a subnet that is about to go",
                format!("node {node} takes pods, and loses {subnet} next"),
            ));
        }
        let in_force = it.in_force();
        let mut pods = it.disk.pods.iter();
        let lost = pods.find(|pod| !in_force.iter().any(|net| net.contains(*pod)));
        match lost {
            Some(pod) if !in_force.is_empty() => Err(Violation::new(
                "a subnet never changes while pods hold addresses in it",
                format!("node {node} has {in_force:?} in force, and {pod} is a pod's"),
            )),
            Some(_) | None => Ok(()),
        }
    }
}
