//! Four answers to one question: what the objects say as a person reads them, what [`Judge`] says,
//! what the plans of all nodes let pass, and what may be opened between two addresses. Worlds are
//! made up at random; a failure names the seed.
//!
//! `CULVERT_POLICY_VERDICTS=1000000` asks for more than an ordinary run.

#![expect(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod interpreter;
mod random;
mod reference;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use culvert_policy::judge::{Packet, Traffic};
use culvert_policy::object::{Change, Key, Object};
use culvert_policy::plan::Direction;
use culvert_policy::{Compiler, Judge, Member, Plan, Site, World, read, write};
use overlay_proto::Protocol;
use random::Random;
use reference::Reference;
use serde_json::Value;

/// Packets of an ordinary run.
const VERDICTS: usize = 100_000;

fn verdicts() -> usize {
    std::env::var("CULVERT_POLICY_VERDICTS")
        .map_or(VERDICTS, |number| number.parse().expect("a number of verdicts"))
}

fn understood(objects: &[Value]) -> Vec<Object> {
    objects.iter().flat_map(|object| read::value(object).objects).collect()
}

fn world(objects: &[Value]) -> World {
    let mut world = World::new(understood(objects));
    world.set_members(members());
    world
}

fn members() -> BTreeMap<Arc<str>, Member> {
    let member = |overlay| Member { internal: Vec::new(), overlay };
    let overlays = random::overlays().into_iter();
    overlays.map(|(name, overlay)| (name.into(), member(overlay))).collect()
}

fn sites() -> Vec<Site> {
    let names = random::overlays().into_iter().map(|(name, _)| name);
    names.map(|name| Site { node: name.into(), ..Site::default() }).collect()
}

/// A cluster: the plan of each node, and the addresses of the node itself.
struct Cluster {
    nodes: Vec<(Arc<Plan>, Vec<IpAddr>, Vec<IpAddr>)>,
}

impl Cluster {
    fn new(world: &mut World) -> Self {
        let plan = |site: &Site| {
            let plan = Compiler::default().compile(world, site);
            let view = world.nodes().find(|view| *view.name == site.node).unwrap();
            let own: Vec<IpAddr> = view.addresses().collect();
            let pods = world.pods().filter(|pod| pod.is_selectable() && site.has(world, pod));
            let pods = pods.flat_map(|pod| pod.addresses.iter()).collect();
            (plan, own, pods)
        };
        Self { nodes: sites().iter().map(plan).collect() }
    }

    /// Whether every node lets the packet pass that it comes through.
    fn passes(&self, packet: Packet) -> bool {
        let touched = self.nodes.iter().filter(|(_, _, pods)| {
            pods.contains(&packet.source) || pods.contains(&packet.destination)
        });
        touched.into_iter().all(|(plan, own, _)| interpreter::passes(plan, own, packet))
    }
}

/// Addresses between which packets go.
fn places(world: &World) -> Vec<IpAddr> {
    let pods = world.pods().flat_map(|pod| pod.addresses.iter());
    let overlays = random::overlays().into_iter().flat_map(|(_, overlay)| overlay);
    pods.chain(overlays).chain(random::outside()).collect()
}

fn traffic(random: &mut Random) -> Traffic {
    match random.below(8) {
        0 => Traffic::Other,
        _ => Traffic::Port(*random.pick(&Protocol::ALL), *random.pick(&random::PORTS)),
    }
}

#[test]
fn judge_plan_and_openings_agree_with_what_the_objects_say() {
    let (mut asked, mut allowed, mut seed) = (0, 0, 0);
    while asked < verdicts() {
        seed += 1;
        let mut random = Random::new(seed);
        let objects = random::objects(&mut random);
        let mut world = world(&objects);
        let cluster = Cluster::new(&mut world);
        cluster.nodes.iter().for_each(|(plan, _, _)| interpreter::check(plan));
        let overlays = random::overlays();
        let reference = Reference { objects: &objects, overlays: &overlays };
        let judge = Judge::new(&world);
        let places = places(&world);
        let pods: Vec<IpAddr> = world.pods().flat_map(|pod| pod.addresses.iter()).collect();
        for _ in 0..400 {
            let mut place = || {
                let all = if random.one_in(4) || pods.is_empty() { &places } else { &pods };
                *random.pick(all)
            };
            let packet =
                Packet { source: place(), destination: place(), traffic: traffic(&mut random) };
            if packet.source.is_ipv4() != packet.destination.is_ipv4() {
                continue;
            }
            let verdict = judge.judge(packet);
            let told = || format!("seed {seed}, {packet:?}: {verdict:?}\n{objects:#?}");
            for (direction, way) in [(Direction::Egress, "Egress"), (Direction::Ingress, "Ingress")]
            {
                let expected = reference.allows(packet, way);
                let said = verdict.opinion(direction).is_allowed();
                assert_eq!(said, expected, "{way}, {}", told());
            }
            assert_eq!(cluster.passes(packet), verdict.is_allowed(), "plan, {}", told());
            let openings = judge.openings(packet.source, packet.destination);
            assert_eq!(openings.contain(packet.traffic), verdict.is_allowed(), "{}", told());
            if verdict.is_allowed() {
                let near = Direction::ALL.map(|way| judge.near_misses(packet, way));
                drop(near);
                allowed += 1;
            }
            asked += 1;
        }
    }
    // Worlds in which everything or nothing passes would show little.
    let part = allowed * 100 / asked;
    assert!((20..80).contains(&part), "{part} % of {asked} packets are allowed");
}

#[test]
fn every_object_is_read_again_of_what_is_written_of_it() {
    for seed in 1..1_000 {
        for object in understood(&random::objects(&mut Random::new(seed))) {
            let written = write::value(&object);
            assert_eq!(read::value(&written).objects, [object], "seed {seed}: {written:#}");
        }
    }
}

#[test]
fn a_plan_that_was_changed_step_by_step_is_the_one_made_anew() {
    for seed in 1..400 {
        let mut random = Random::new(seed);
        let (first, second) = (random::objects(&mut random), random::objects(&mut random));
        let mut world = world(&first);
        let sites = sites();
        let mut compilers: Vec<Compiler> = sites.iter().map(|_| Compiler::default()).collect();
        let mut objects: BTreeMap<Key, Object> =
            understood(&first).into_iter().map(|object| (object.key(), object)).collect();
        // One compiler a world: what changed is told once.
        let at = random.below(sites.len());
        compilers[at].compile(&mut world, &sites[at]);
        let (mut given, mut attached) = (BTreeMap::<Key, IpAddr>::new(), 0);
        for object in understood(&second) {
            let key = object.key();
            // What was known last of a pod that has gone is only known step by step.
            world.detach(given.remove(&key));
            let change = if random.one_in(3) && objects.contains_key(&object.key()) {
                objects.remove(&object.key());
                Change::Delete(object.key())
            } else {
                objects.insert(object.key(), object.clone());
                Change::Put(object)
            };
            world.apply(change);
            if let Some(Object::Pod(pod)) = objects.get(&key)
                && random.one_in(3)
            {
                attached += 1;
                let address = IpAddr::from([10, 244, 9, attached]);
                given.insert(key, address);
                world.attach(&pod.namespace, &pod.name, None, [address]);
            }
            if random.one_in(2) {
                let plan = compilers[at].compile(&mut world, &sites[at]);
                let mut anew = World::new(objects.values().cloned());
                anew.set_members(members());
                for (key, address) in &given {
                    let Key::Pod(namespace, name) = key else { continue };
                    anew.attach(namespace, name, None, [*address]);
                }
                let expected = Compiler::default().compile(&mut anew, &sites[at]);
                assert_eq!(plan, expected, "seed {seed}");
            }
        }
        world.detach(given.into_values());
        world.replace(understood(&first));
        let plan = compilers[at].compile(&mut world, &sites[at]);
        let mut anew = World::new(understood(&first));
        anew.set_members(members());
        assert_eq!(plan, Compiler::default().compile(&mut anew, &sites[at]), "seed {seed}");
    }
}
