//! What machine and API server ask, answer and tell one another.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use culvert_claims::Update;
use culvert_claims::kubernetes::{
    Desired, Ended, Follower, Identity, Node as Object, Patch, Request, Sight, Watched,
};
use serde_json::Value;

use super::api::{Api, Patched};
use super::trouble::{self, TROUBLES};
use super::{Kubernetes, TAINT};
use crate::harness::{
    Answer, Call, End, Happening, Held, News, Node, Protocol, Step, Trouble, World,
};
use crate::random::Random;
use crate::report::Violation;

/// How long the server keeps a watch open.
const WATCH: Duration = Duration::from_secs(60);

/// What a node asked for.
pub(crate) enum Answered {
    Listed(Vec<Object>, String),
    Patched,
}

/// The number of a watch, and the version up to which it has told.
#[derive(Clone, Copy)]
pub(crate) struct Watch {
    number: u64,
    version: u64,
}

/// The server ends a watch.
pub(crate) struct WatchEnds {
    node: usize,
    session: u64,
    number: u64,
}

impl Protocol for Kubernetes {
    const PATIENCE: Duration = Duration::from_secs(30);
    const NOTICED: Duration = Duration::from_secs(20);
    const SLOW: RangeInclusive<u64> = 1..=40_000;
    const RECOVERY: Duration = Duration::from_secs(200);
    const TROUBLES: &'static [Trouble<trouble::Trouble>] = TROUBLES;

    type Node = Follower;
    type Request = Request;
    type Asker = ();
    type Answer = Answered;
    type Watch = Watch;
    /// With the number of the watch that tells it.
    type Watched = (Watched, u64);
    type Event = WatchEnds;
    type Trouble = trouble::Trouble;

    fn new(_random: &mut Random) -> Self {
        Self { api: Api::new(), subnet: 0, watches: 0 }
    }

    fn join(world: &mut World<Self>, number: u64) -> usize {
        world.add_follower(&format!("node{number}"))
    }

    fn start(&self, node: &mut Node<Self>) {
        node.own = Follower::new(identity(&node.name), node.disk.table.clone());
    }

    fn begin(node: &mut Node<Self>) {
        // Another key after each start.
        let keys = node.keys(node.boot);
        node.own.begin(node.told_ready);
        node.own.set_keys(keys);
    }

    fn request(node: &mut Node<Self>, now: Instant) -> Request {
        node.own.request(now)
    }

    fn update(node: &mut Node<Self>) -> Option<(Update, bool)> {
        Some((node.own.update()?, false))
    }

    fn step(world: &mut World<Self>, node: usize, request: Request) -> Step<Self> {
        match request {
            Request::Wait(until) => Step::Wait(until),
            Request::Heard => Step::Heard,
            Request::Pods(subnets) => Step::Pods(subnets),
            Request::End(Ended::Asked) => {
                world.say(|| format!("node {node} begins anew"));
                Step::End(End::Again)
            }
            Request::End(Ended::Gone) => {
                world.count("a watch was left behind");
                Step::End(End::Later)
            }
            request => Step::Ask(request),
        }
    }

    fn tell(world: &mut World<Self>, node: usize, news: News<Self>) {
        let it = &mut world.nodes[node];
        match news {
            News::Answer(Answered::Listed(nodes, version)) => it.own.listed(nodes, version),
            News::Answer(Answered::Patched) => {}
            News::Heard(ready) => it.own.heard(ready),
            News::Pods(held) => it.own.pods(held),
            News::Watching(_now) => it.own.watching(),
            News::Watched((watched, _)) => {
                if watched == Watched::Ended {
                    it.watch = None;
                }
                it.own.watched(watched);
            }
            News::Ready(ready) => it.own.ready(ready),
            News::Reload => it.own.reload(),
            // Its address is its kubelet's to tell.
            News::Moved => {}
        }
    }

    fn asker(_node: &Node<Self>) {}

    fn serve(world: &mut World<Self>, call: Call<Self>) -> Result<Option<Answer<Self>>, Violation> {
        let Call { node, session, request, .. } = call;
        Ok(Some(match request {
            Request::List => {
                let api = &world.protocol.api;
                let nodes = api.nodes.values().map(object).collect();
                Answer::Own(Answered::Listed(nodes, api.version.to_string()))
            }
            Request::Patch(patch) => {
                world.patch(node, &patch)?;
                Answer::Own(Answered::Patched)
            }
            Request::Watch(version) => {
                world.protocol.watches += 1;
                let number = world.protocol.watches;
                if world.is_session(node, session) {
                    let version = version.parse().unwrap();
                    world.nodes[node].watch = Some(Watch { number, version });
                    let ends = WatchEnds { node, session, number };
                    world.clock.after(WATCH, Happening::Own(ends));
                }
                Answer::Watching
            }
            Request::Heard | Request::Pods(_) | Request::Wait(_) | Request::End(_) => {
                return Ok(None);
            }
        }))
    }

    fn news(world: &mut World<Self>, node: usize, watch: Watch) -> Vec<(Watched, u64)> {
        let Watch { number, version } = watch;
        let api = &world.protocol.api;
        let Some(changes) = api.since(version) else { return vec![(Watched::Gone, number)] };
        let mut told: Vec<Watched> = changes
            .iter()
            .map(|change| match (object(&change.node), change.deleted) {
                (node, true) => Watched::Deleted(node),
                (node, false) => Watched::Put(node),
            })
            .collect();
        world.nodes[node].watch = Some(Watch { number, version: api.version });
        if !told.is_empty() && world.random.percent(20) {
            told.push(Watched::Bookmark(world.protocol.api.version.to_string()));
        }
        told.into_iter().map(|watched| (watched, number)).collect()
    }

    fn listens(node: &Node<Self>, (_, number): &(Watched, u64)) -> bool {
        node.watch.is_some_and(|watch| watch.number == *number)
    }

    fn happen(world: &mut World<Self>, event: WatchEnds) -> Held {
        let WatchEnds { node, session, number } = event;
        if world.is_session(node, session) && world.is_connected(node) {
            world.send(node, (Watched::Ended, number));
        }
        Ok(())
    }

    fn trouble(
        world: &mut World<Self>,
        what: trouble::Trouble,
        node: usize,
        _time: Duration,
    ) -> Held {
        world.trouble_in_kubernetes(what, node);
        Ok(())
    }

    fn heal(world: &mut World<Self>) {
        world.heal_kubernetes();
    }

    fn check_settled(world: &World<Self>) -> Held {
        world.check_nodes(false)
    }

    fn check(world: &World<Self>) -> Held {
        world.check_nodes(true)
    }

    fn writes(&self) -> u64 {
        self.api.patches
    }
}

impl World<Kubernetes> {
    /// Changes the Node of a node, unless that touches what is somebody else's.
    fn patch(&mut self, node: usize, patch: &Patch) -> Held {
        let name = self.nodes[node].name.clone();
        let others = |api: &Api| -> Vec<Value> {
            let taints = api.nodes.get(&name).and_then(|node| node["spec"]["taints"].as_array());
            let taints = taints.into_iter().flatten();
            taints.filter(|taint| taint["key"] != TAINT).cloned().collect()
        };
        let before = others(&self.protocol.api);
        if self.protocol.api.patch(&name, patch) == Patched::Conflict {
            self.count("a change came too late");
        }
        if others(&self.protocol.api) != before {
            let detail = format!("node {node}: {patch:?} on {before:?}");
            return Err(Violation::new("nobody else's taint is touched", detail));
        }
        self.tell_watches();
        Ok(())
    }
}

/// What a node is told by its configuration.
pub(super) fn identity(name: &str) -> Identity {
    Identity {
        name: name.to_owned(),
        sight: Sight { port: 4790, flannel: None },
        desired: Desired::new(None, 4790, TAINT),
    }
}

/// The part of a Node that the daemon reads.
fn object(node: &Value) -> Object {
    let object: Object = serde_json::from_value(node.clone()).unwrap();
    object.slim()
}
