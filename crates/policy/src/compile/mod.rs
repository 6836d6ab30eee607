//! From a world to the plan of one node.
//!
//! Only pods of the node are subjects; every other pod only appears in sets. What a change cannot
//! have touched is taken over from the plan before: of a set of pods only the addresses of pods
//! that came, went or changed are looked at again, and a chain is made again only if its policy is
//! another.

mod names;
mod places;
mod quick;
mod ranges;
mod rules;
mod selected;
mod sets;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::object::{ClusterNetworkPolicy, Pod, Tier};
use crate::plan::{Action, Chain, Class, Direction, End, Name, Plan, Target};
use crate::world::{Applying, Dirty, World};
use names::Names;
use places::Places;
use rules::{ChainId, ChainKey};
use sets::Sets;

/// The node whose plan it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Site {
    /// Its name, as pods have it.
    pub node: Arc<str>,
    /// Its pod subnets: a pod with an address in them is its own, if the pod's object does not say
    /// where it is.
    pub subnets: Vec<IpNet>,
    /// Addresses that neither send nor receive anything: those of pods of which nothing is known.
    pub closed: BTreeSet<IpAddr>,
}

/// Makes plans, and remembers what it made them of.
#[derive(Debug, Default)]
pub struct Compiler {
    sets: Sets,
    chains: HashMap<ChainKey, (Name, Arc<Chain>)>,
    names: Names<ChainId>,
    classes: Names<ClassKey>,
    places: Places,
    /// The plan that was made last, and for which site.
    last: Option<(Site, Arc<Plan>)>,
}

/// What pods of one class have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct ClassKey {
    direction: Direction,
    steps: Vec<Name>,
    end: End,
}

impl Site {
    /// Whether `pod` is on this node.
    #[must_use]
    pub fn has(&self, world: &World, pod: &Pod) -> bool {
        world.is_attached(pod)
            || match &pod.node {
                Some(node) => *node == self.node,
                None => pod
                    .addresses
                    .iter()
                    .any(|address| self.subnets.iter().any(|net| net.contains(&address))),
            }
    }
}

/// What pods of one class have in common: namespace and labels.
type Alike = (Arc<str>, usize, Direction);

impl Compiler {
    /// The plan for the node `site` of the world as it is now.
    pub fn compile(&mut self, world: &mut World, site: &Site) -> Arc<Plan> {
        let dirty = world.take_dirty();
        let world: &World = world;
        let mut places = std::mem::take(&mut self.places);
        places.renew(world, site, &dirty);
        self.forget(world, &places, &dirty);
        let plan = self.quick(world, site, &places, &dirty);
        let plan = Arc::new(plan.unwrap_or_else(|| self.whole(world, site, &places)));
        self.places = places;
        self.last = Some((site.clone(), Arc::clone(&plan)));
        plan
    }

    /// The plan, made of everything.
    fn whole(&mut self, world: &World, site: &Site, places: &Places) -> Plan {
        let mut plan = Plan::default();
        let mut used = Used::default();
        let mut classes: HashMap<Alike, Option<(Name, bool)>> = HashMap::new();
        let mut subjects: BTreeMap<IpAddr, &Arc<Pod>> = places.subjects().collect();
        // A pod is held by its policies as long as it has its addresses, known or not.
        subjects.extend(world.holders());
        for (address, pod) in subjects {
            for direction in Direction::ALL {
                // Pods of one namespace with the same labels are of one class.
                let alike = (pod.namespace.clone(), pod.labels.identity(), direction);
                let class = match classes.get(&alike) {
                    Some(class) => Option::clone(class),
                    None => {
                        let class = self.class_of(world, pod, direction, &mut plan, &mut used);
                        classes.insert(alike, class.clone());
                        class
                    }
                };
                if let Some((class, isolates)) = class {
                    insert(&mut plan, direction, address, Target::Class(class));
                    plan.selves.extend(itself(address, pod));
                    if isolates {
                        plan.isolated.insert(address);
                    }
                }
            }
        }
        for address in &site.closed {
            for direction in Direction::ALL {
                insert(&mut plan, direction, *address, Target::Closed);
            }
            plan.isolated.insert(*address);
        }
        self.chains.retain(|key, _| used.chains.contains(key));
        let kept: HashSet<ChainId> = used.chains.iter().map(ChainKey::id).collect();
        self.names.retain(|id| kept.contains(id));
        self.classes.retain(|key| used.classes.contains_key(key));
        self.sets.fill(world, places, &mut plan);
        plan
    }

    /// Forgets what `dirty` may have touched, or mends it where that is simple.
    fn forget(&mut self, world: &World, places: &Places, dirty: &Dirty) {
        if dirty.many_pods {
            self.sets.forget_pods();
        } else if !dirty.pods.is_empty() {
            self.sets.renew(world, places, &dirty.pods);
        }
        if dirty.nodes {
            self.sets.forget_nets();
        }
    }

    /// The class of `pod` in `direction`, which the plan then has, and whether it may drop
    /// anything; none if no policy applies.
    fn class_of(
        &mut self,
        world: &World,
        pod: &Pod,
        direction: Direction,
        plan: &mut Plan,
        used: &mut Used,
    ) -> Option<(Name, bool)> {
        let (keys, end) = chains_of(world, pod, direction)?;
        let steps: Vec<Name> = keys.into_iter().map(|key| self.chain(key, plan, used)).collect();
        let isolates = isolates(plan, &steps, end);
        let key = ClassKey { direction, steps, end };
        if let Some(name) = used.classes.get(&key) {
            return Some((name.clone(), isolates));
        }
        let name = self.classes.name(&key, || names::hashed(prefix(direction), &key));
        let steps = key.steps.as_slice().into();
        plan.classes.insert(name.clone(), Class { direction, steps, end });
        used.classes.insert(key, name.clone());
        Some((name, isolates))
    }

    /// The name of a chain, which the plan then has.
    fn chain(&mut self, key: ChainKey, plan: &mut Plan, used: &mut Used) -> Name {
        if let Some((name, chain)) = self.chains.get(&key) {
            if used.chains.insert(key) {
                self.sets.need(chain);
                plan.chains.insert(name.clone(), Chain::clone(chain));
            }
            return name.clone();
        }
        let name = self.names.name(&key.id(), || key.proposed_name());
        let chain = Arc::new(self.sets.chain(&key));
        self.sets.need(&chain);
        plan.chains.insert(name.clone(), Chain::clone(&chain));
        self.chains.insert(key.clone(), (name.clone(), chain));
        used.chains.insert(key);
        name
    }
}

/// The chains that packets of `pod` pass in `direction`, and what happens to those that none
/// decides about; none, if no policy applies.
fn chains_of(world: &World, pod: &Pod, direction: Direction) -> Option<(Vec<ChainKey>, End)> {
    let applying = world.applying(pod, direction);
    if applying.is_empty() {
        return None;
    }
    let Applying { admin, network, audit, baseline } = applying;
    let (mut keys, mut end) = (Vec::new(), End::Accept);
    keys.extend(tier(Tier::Admin, direction, admin));
    if !network.is_empty() {
        keys.extend(network.into_iter().map(|policy| ChainKey::Network(policy, direction)));
        end = End::Deny;
    } else if !baseline.is_empty() {
        // What is only being tried out must not keep a packet from the tier behind it.
        keys.extend(tier(Tier::Baseline, direction, baseline));
    } else if !audit.is_empty() {
        keys.extend(audit.into_iter().map(|policy| ChainKey::Network(policy, direction)));
        end = End::Audit;
    }
    Some((keys, end))
}

/// Whether a class of these steps may drop anything.
fn isolates(plan: &Plan, steps: &[Name], end: End) -> bool {
    let denies = |step: &Name| {
        let chain = plan.chains.get(step);
        chain.is_some_and(|chain| chain.rules.iter().any(|rule| rule.action == Action::Deny))
    };
    end == End::Deny || steps.iter().any(denies)
}

/// What the plan that is being made has.
#[derive(Default)]
struct Used {
    chains: HashSet<ChainKey>,
    classes: HashMap<ClassKey, Name>,
}

fn tier(
    tier: Tier,
    direction: Direction,
    policies: Vec<Arc<ClusterNetworkPolicy>>,
) -> Option<ChainKey> {
    (!policies.is_empty()).then_some(ChainKey::Tier(tier, policies, direction))
}

/// What names of a direction begin with.
const fn prefix(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "i-",
        Direction::Egress => "e-",
    }
}

fn insert(plan: &mut Plan, direction: Direction, address: IpAddr, target: Target) {
    let map = match direction {
        Direction::Ingress => &mut plan.ingress,
        Direction::Egress => &mut plan.egress,
    };
    map.insert(address, target);
}

/// Pairs of `address` with addresses of its pod, of one family.
fn itself(address: IpAddr, pod: &Pod) -> impl Iterator<Item = (IpAddr, IpAddr)> {
    let others = pod.addresses.iter().filter(move |other| other.is_ipv4() == address.is_ipv4());
    others.map(move |other| (address, other))
}
