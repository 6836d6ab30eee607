//! What machine and store ask, answer and tell one another.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use culvert_claims::Update;
use culvert_claims::etcd::{
    Claims, Ended, Event, Found, KeyValue, Memory, Request, Unwritten, Watched,
};

use super::Etcd;
use super::marks::Marks;
use super::node::{Claimant, address};
use super::trouble::{self, TROUBLES};
use crate::harness::{
    Answer, Call, End, Happening, Held, News, Node, Protocol, Step, Trouble, World,
};
use crate::random::Random;
use crate::report::Violation;

/// What a node asked for.
pub(crate) enum Answered {
    Found(Found),
    Keys(Vec<Option<KeyValue>>),
    Leased(i64),
    Kept(bool),
    Done(bool),
    NoLease,
    Remembered(Memory, bool),
}

/// A lease may be over.
pub(crate) struct Expiry(i64);

/// The range and the next revision of a watch.
#[derive(Clone)]
pub(crate) struct Watch {
    first: String,
    end: String,
    revision: i64,
}

impl Protocol for Etcd {
    const PATIENCE: Duration = Duration::from_secs(5);
    const NOTICED: Duration = Duration::from_secs(10);
    const SLOW: RangeInclusive<u64> = 100..=20_000;
    /// How long nodes are missed that a database does not have, and time to claim after that.
    const RECOVERY: Duration = Duration::from_secs(400);
    const TROUBLES: &'static [Trouble<trouble::Trouble>] = TROUBLES;

    type Node = Claimant;
    type Request = Request;
    type Asker = Marks;
    type Answer = Answered;
    type Watch = Watch;
    /// With the revision up to which it tells.
    type Watched = (Watched, i64);
    type Event = Expiry;
    type Trouble = trouble::Trouble;

    fn new(random: &mut Random) -> Self {
        Self::draw(random)
    }

    fn join(world: &mut World<Self>, number: u64) -> usize {
        world.add_claimant(&format!("node{number}"), address(number))
    }

    fn start(&self, node: &mut Node<Self>) {
        let (memory, known) = (node.own.memory.clone(), node.disk.table.clone());
        node.own.claims = Claims::new(self.identity.clone(), memory, known);
        node.own.went_back = false;
        node.own.seen = (0, 0);
    }

    fn begin(node: &mut Node<Self>) {
        let keys = node.public_keys();
        let own = &mut node.own;
        own.claims.set_keys(keys);
        own.told_address = own.address;
        own.claims.begin(own.address);
    }

    fn request(node: &mut Node<Self>, now: Instant) -> Request {
        node.own.claims.request(now)
    }

    fn update(node: &mut Node<Self>) -> Option<(Update, bool)> {
        let update = node.own.claims.update()?;
        let everything = matches!(update, Update::Everything(_));
        Some((update, everything && std::mem::take(&mut node.own.went_back)))
    }

    fn step(world: &mut World<Self>, node: usize, request: Request) -> Step<Self> {
        match request {
            Request::Wait(until) => Step::Wait(Some(until)),
            Request::Heard => Step::Heard,
            Request::Pods(subnets) => Step::Pods(subnets),
            Request::Remember(memory) => {
                let written = !(world.trouble && world.random.percent(3));
                // Whoever dies while it is written finds the old or the new.
                if written && world.random.percent(50) {
                    world.nodes[node].own.memory = memory.clone();
                }
                Step::Own(Answered::Remembered(memory, written))
            }
            Request::End(Ended::Asked) => Step::End(End::Again),
            Request::End(Ended::Raced) => {
                world.count("a node was too late");
                Step::End(End::Later)
            }
            Request::End(Ended::Failed(failure)) => {
                let failure = failure.to_string();
                if failure.contains("forgotten changes") {
                    world.count("a watch was left behind");
                }
                Step::End(End::Lost(failure))
            }
            request => Step::Ask(request),
        }
    }

    fn check_waiting(world: &World<Self>, node: usize) -> Held {
        world.check_followed(node)
    }

    fn tell(world: &mut World<Self>, node: usize, news: News<Self>) {
        let epoch = world.protocol.store.epoch;
        let own = &mut world.nodes[node].own;
        match news {
            News::Answer(Answered::Found(found)) => {
                // What was seen of another database, whose revision was higher.
                own.went_back = own.seen.0 != epoch && own.seen.1 > found.revision;
                own.seen = (epoch, found.revision);
                own.claims.read(&found);
            }
            News::Answer(Answered::Keys(keys)) => own.claims.keys(keys),
            News::Answer(Answered::Leased(lease)) => own.claims.granted(lease),
            News::Answer(Answered::Kept(alive)) => own.claims.kept(alive),
            News::Answer(Answered::Done(done)) => own.claims.transacted(done),
            News::Answer(Answered::NoLease) => {}
            News::Answer(Answered::Remembered(memory, true)) => {
                own.memory = memory;
                own.claims.remembered(Ok(()));
            }
            News::Answer(Answered::Remembered(_, false)) => {
                own.claims.remembered(Err(Unwritten::new("the disk is full")));
                world.count("a disk was full");
            }
            News::Heard(ready) => own.claims.heard(ready),
            News::Pods(held) => own.claims.pods(held),
            News::Watching(now) => own.claims.watching(now),
            News::Watched((watched, revision)) => {
                own.seen.1 = own.seen.1.max(revision);
                own.claims.watched(&watched);
                world.say(|| format!("node {node} is told up to {revision}"));
            }
            News::Moved => {
                own.told_address = own.address;
                own.claims.moved(own.address);
            }
            News::Ready(ready) => own.claims.ready(ready),
            // Whoever has things read again may have changed the key, or only that.
            News::Reload => {
                own.reloads += 1;
                let reloads = own.reloads;
                if reloads.is_multiple_of(2) {
                    let keys = world.nodes[node].public_keys();
                    world.nodes[node].own.claims.set_keys(keys);
                    world.count("a node changed its key");
                }
                if reloads % 4 != 2 {
                    world.nodes[node].own.claims.reload();
                }
            }
        }
    }

    fn asker(node: &Node<Self>) -> Marks {
        Marks::of(node)
    }

    fn serve(world: &mut World<Self>, call: Call<Self>) -> Result<Option<Answer<Self>>, Violation> {
        let now = world.clock.now();
        let Call { node, session, request, asker, .. } = call;
        let store = &mut world.protocol.store;
        let answer = match request {
            Request::Read { first, end } => Answered::Found(store.read(&first, &end)),
            Request::Keys(keys) => {
                let found = keys.iter().map(|key| store.data.keys.get(key).cloned());
                Answered::Keys(found.collect())
            }
            Request::Grant(length) => {
                let id = store.grant(length, now);
                world.expires(id, now + length);
                Answered::Leased(id)
            }
            Request::KeepAlive(id) => {
                let end = store.keep_alive(id, now);
                if let Some(end) = end {
                    world.expires(id, end);
                }
                Answered::Kept(end.is_some())
            }
            Request::Transact(transaction) => {
                let answer = world.transact(node, &transaction, &asker)?;
                world.tell_watches();
                answer
            }
            Request::Watch { first, end, revision } => {
                if world.is_session(node, session) {
                    world.nodes[node].watch = Some(Watch { first, end, revision });
                }
                return Ok(Some(Answer::Watching));
            }
            Request::Heard
            | Request::Pods(_)
            | Request::Remember(_)
            | Request::Wait(_)
            | Request::End(_) => return Ok(None),
        };
        Ok(Some(Answer::Own(answer)))
    }

    fn refusal(answer: &Answer<Self>) -> Option<&'static str> {
        matches!(answer, Answer::Own(Answered::NoLease)).then_some("requested lease not found")
    }

    fn news(world: &mut World<Self>, node: usize, watch: Watch) -> Vec<(Watched, i64)> {
        let (told, next) = world.protocol.store.told(&watch.first, &watch.end, watch.revision);
        let ended = told == Some(Watched::Compacted);
        world.nodes[node].watch = (!ended).then_some(Watch { revision: next, ..watch });
        let told = told.map(|watched| (watched, next - 1));
        if let Some((watched, revision)) = &told {
            let what = || brief(watched);
            world.say(|| format!("node {node} is to be told up to {revision}: {}", what()));
        }
        told.into_iter().collect()
    }

    fn happen(world: &mut World<Self>, Expiry(lease): Expiry) -> Held {
        let now = world.clock.now();
        // A store that is away ends no lease.
        if !world.up {
            world.expires(lease, now + Duration::from_secs(1));
            return Ok(());
        }
        if world.protocol.store.expire(lease, now) {
            world.count("a lease ran out");
        }
        world.tell_watches();
        Ok(())
    }

    fn trouble(
        world: &mut World<Self>,
        what: trouble::Trouble,
        node: usize,
        time: Duration,
    ) -> Held {
        world.trouble_in_etcd(what, node, time)
    }

    fn heal(world: &mut World<Self>) {
        world.heal_etcd();
    }

    fn check_settled(world: &World<Self>) -> Held {
        world.check_owners()
    }

    fn check(world: &World<Self>) -> Held {
        world.check_all()
    }

    fn writes(&self) -> u64 {
        self.store.writes
    }
}

impl World<Etcd> {
    /// Has the store look at that moment whether a lease is over.
    pub(super) fn expires(&mut self, lease: i64, moment: Duration) {
        self.clock.at(moment, Happening::Own(Expiry(lease)));
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
