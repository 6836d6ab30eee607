//! The sets that rules look into.

use std::cell::LazyCell;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use overlay_proto::Protocol;

use super::names::{Names, hashed};
use super::places::Places;
use super::{ranges, selected};
use crate::object::{Block, Pod, PodSelection, Selector};
use crate::plan::{
    Addresses, Chain, Destination, Name, NamedPorts, Peers, Plan, PortRange, Ranges,
};
use crate::world::{NodeView, World};

/// A set that rules look into.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum SetKey {
    Pods(PodSelection),
    /// All ipBlocks of one rule.
    Blocks(Vec<Block>),
    Nodes(Selector),
    Ports(Vec<PortRange>),
    /// Ports of this name anywhere.
    Named(Arc<str>, Protocol),
    /// Those of this node's pods, which are all that anything can come to: of a port called `http`
    /// a cluster has more than of all else together.
    OwnNamed(Arc<str>, Protocol),
}

/// The sets of plans, and what is in them.
#[derive(Debug, Default)]
pub(super) struct Sets {
    names: Names<SetKey>,
    keys: HashMap<Name, SetKey>,
    needed: BTreeSet<Name>,
    pods: HashMap<Name, Addresses>,
    nets: HashMap<Name, Ranges>,
    named: HashMap<Name, NamedPorts>,
}

impl Sets {
    /// The name of a set, by which it is known from here on.
    pub(super) fn name(&mut self, key: SetKey) -> Name {
        let name = self.names.name(&key, || match &key {
            SetKey::Pods(selection) => hashed("pods-", selection),
            SetKey::Blocks(blocks) => hashed("net-", blocks),
            SetKey::Nodes(selector) => hashed("node-", selector),
            SetKey::Ports(ports) => hashed("port-", ports),
            SetKey::Named(name, protocol) => format!("name-{name}-{protocol}"),
            SetKey::OwnNamed(name, protocol) => format!("own-{name}-{protocol}"),
        });
        self.keys.entry(name.clone()).or_insert(key);
        name
    }

    /// Marks the sets that `chain` looks into.
    pub(super) fn need(&mut self, chain: &Chain) {
        for rule in chain.rules.iter() {
            if let Peers::Pods(name) | Peers::Net(name) = &rule.peers {
                self.needed.insert(name.clone());
            }
            if let Destination::Ports(name) | Destination::Named(name) = &rule.to {
                self.needed.insert(name.clone());
            }
        }
    }

    /// Forgets what is in every set of pods, and where named ports are.
    pub(super) fn forget_pods(&mut self) {
        self.pods.clear();
        self.named.clear();
    }

    /// Puts the addresses that `pods` have or had where they belong now.
    pub(super) fn renew(&mut self, world: &World, places: &Places, pods: &[Arc<Pod>]) {
        let addresses: BTreeSet<IpAddr> =
            pods.iter().flat_map(|pod| pod.addresses.iter()).collect();
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for address in addresses {
            let owner = places.owner(address);
            match address {
                IpAddr::V4(address) => v4.push((address, owner)),
                IpAddr::V6(address) => v6.push((address, owner)),
            }
        }
        for (name, set) in &mut self.pods {
            let Some(SetKey::Pods(selection)) = self.keys.get(name) else { continue };
            let is_in = |pod: &Pod| selection.selects(pod, world.namespace(&pod.namespace));
            renew(&mut set.v4, &v4, |one| *one, |address, pod| is_in(pod).then_some(address));
            renew(&mut set.v6, &v6, |one| *one, |address, pod| is_in(pod).then_some(address));
        }
        for (name, set) in &mut self.named {
            let Some(SetKey::Named(port, protocol)) = self.keys.get(name) else { continue };
            let of = |pod: &Pod| selected::ports_of(pod, port, *protocol).collect::<Vec<u16>>();
            renew(
                &mut set.v4,
                &v4,
                |(address, _)| *address,
                |address, pod| of(pod).into_iter().map(move |port| (address, port)),
            );
            renew(
                &mut set.v6,
                &v6,
                |(address, _)| *address,
                |address, pod| of(pod).into_iter().map(move |port| (address, port)),
            );
        }
    }

    /// Forgets which addresses blocks and nodes have.
    pub(super) fn forget_nets(&mut self) {
        self.nets.clear();
    }

    /// Puts into the sets of pods and of named ports that `plan` has what is in them now.
    pub(super) fn refresh(&self, places: &Places, plan: &mut Plan) {
        for (name, addresses) in &mut plan.pods {
            if let Some(known) = self.pods.get(name) {
                *addresses = known.clone();
            }
        }
        for (name, ports) in &mut plan.named_ports {
            if let Some(SetKey::OwnNamed(port, protocol)) = self.keys.get(name) {
                let now = selected::ports_at(places.subjects(), port, *protocol);
                // One that is the same stays the value by which that is seen at a look.
                if *ports != now {
                    *ports = now;
                }
            } else if let Some(known) = self.named.get(name) {
                *ports = known.clone();
            }
        }
    }

    /// Puts every set that was marked into `plan`, and forgets all others.
    pub(super) fn fill(&mut self, world: &World, places: &Places, plan: &mut Plan) {
        let needed: HashSet<Name> = std::mem::take(&mut self.needed).into_iter().collect();
        self.keys.retain(|name, _| needed.contains(name));
        self.pods.retain(|name, _| needed.contains(name));
        self.nets.retain(|name, _| needed.contains(name));
        self.named.retain(|name, _| needed.contains(name));
        self.fill_pods(world);
        let nodes: LazyCell<Vec<NodeView<'_>>, _> = LazyCell::new(|| world.nodes().collect());
        for (name, key) in &self.keys {
            let name = name.clone();
            match key {
                SetKey::Pods(_) => {
                    let addresses = self.pods.get(&name).cloned().unwrap_or_default();
                    plan.pods.insert(name, addresses);
                }
                SetKey::Blocks(blocks) => {
                    let known = self.nets.entry(name.clone());
                    let ranges = known.or_insert_with(|| ranges::of_blocks(blocks, &nodes));
                    plan.nets.insert(name, ranges.clone());
                }
                SetKey::Nodes(selector) => {
                    let known = self.nets.entry(name.clone());
                    let ranges = known.or_insert_with(|| ranges::of_nodes(selector, &nodes));
                    plan.nets.insert(name, ranges.clone());
                }
                SetKey::Ports(ports) => {
                    plan.ports.insert(name, ports.as_slice().into());
                }
                SetKey::Named(port, protocol) => {
                    let known = self.named.entry(name.clone());
                    let ports =
                        known.or_insert_with(|| selected::named_ports(world, port, *protocol));
                    plan.named_ports.insert(name, ports.clone());
                }
                SetKey::OwnNamed(port, protocol) => {
                    let ports = selected::ports_at(places.subjects(), port, *protocol);
                    plan.named_ports.insert(name, ports);
                }
            }
        }
        let kept: HashSet<&SetKey> = self.keys.values().collect();
        self.names.retain(|key| kept.contains(key));
    }

    /// Fills the sets of pods of which nothing is known.
    fn fill_pods(&mut self, world: &World) {
        let selections = self.keys.iter().filter_map(|(name, key)| {
            let SetKey::Pods(selection) = key else { return None };
            (!self.pods.contains_key(name)).then_some((name, selection))
        });
        let (names, selections): (Vec<&Name>, Vec<&PodSelection>) = selections.unzip();
        if !names.is_empty() {
            let found = selected::addresses(world, &selections);
            self.pods.extend(names.into_iter().cloned().zip(found));
        }
    }
}

/// Makes a sorted list have of each of these addresses, which are sorted too, what its owner `has`
/// there, and nothing else of it.
fn renew<A: Copy + Ord, T: Copy + Ord, I: IntoIterator<Item = T>>(
    list: &mut Arc<[T]>,
    addresses: &[(A, Option<&Arc<Pod>>)],
    address: impl Fn(&T) -> A,
    has: impl Fn(A, &Pod) -> I,
) {
    let owned = addresses.iter().filter_map(|(address, owner)| Some((*address, (*owner)?)));
    let mut now: Vec<T> = owned.flat_map(|(address, owner)| has(address, owner)).collect();
    now.sort_unstable();
    let had = addresses.iter().flat_map(|(changed, _)| {
        let first = list.partition_point(|one| address(one) < *changed);
        list[first..].iter().take_while(|one| address(one) == *changed)
    });
    if had.eq(&now) {
        return;
    }
    let is_changed = |one: &T| {
        let place = addresses.binary_search_by(|(changed, _)| changed.cmp(&address(one)));
        place.is_ok()
    };
    let mut renewed: Vec<T> = list.iter().copied().filter(|one| !is_changed(one)).collect();
    renewed.extend(now);
    // Of two parts that are sorted it takes no more than one look at each.
    renewed.sort();
    *list = renewed.into();
}
