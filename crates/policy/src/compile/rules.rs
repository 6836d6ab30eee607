//! Rules, and the sets that they look into.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;

use overlay_proto::Protocol;

use super::index::Index;
use super::names::{Names, hashed, shortened};
use super::places::Places;
use super::{prefix, ranges};
use crate::object::{
    self, Block, ClusterNetworkPolicy, NetworkPolicy, Peer, Pod, PodSelection, PortMatch, Selector,
    Tier,
};
use crate::plan::{
    Addresses, Chain, Destination, Direction, Name, NamedPorts, Peers, Plan, PortRange, Ranges,
    Rule,
};
use crate::world::World;

/// What a chain is of. A policy is known by the value that the world has of it.
#[derive(Clone, Debug)]
pub(super) enum ChainKey {
    /// Of one NetworkPolicy.
    Network(Arc<NetworkPolicy>, Direction),
    /// Of the policies of a tier that a class has, in order.
    Tier(Tier, Vec<Arc<ClusterNetworkPolicy>>, Direction),
}

/// What a chain is called after: names of policies, whatever they say at the moment, so that a
/// chain keeps its name when its policy changes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct ChainId(Option<Tier>, Direction, Vec<(Arc<str>, Arc<str>)>);

impl ChainKey {
    pub(super) fn id(&self) -> ChainId {
        match self {
            Self::Network(policy, direction) => {
                let name = (policy.namespace.clone(), policy.name.clone());
                ChainId(None, *direction, vec![name])
            }
            Self::Tier(tier, policies, direction) => {
                let names = policies.iter().map(|policy| (Arc::from(""), policy.name.clone()));
                ChainId(Some(*tier), *direction, names.collect())
            }
        }
    }

    /// What it is, apart from the content of policies.
    fn identity(&self) -> (Option<Tier>, Direction, Vec<usize>) {
        match self {
            Self::Network(policy, direction) => {
                (None, *direction, vec![Arc::as_ptr(policy).addr()])
            }
            Self::Tier(tier, policies, direction) => {
                let policies = policies.iter().map(|policy| Arc::as_ptr(policy).addr());
                (Some(*tier), *direction, policies.collect())
            }
        }
    }

    pub(super) fn proposed_name(&self) -> String {
        match self {
            Self::Network(policy, direction) => {
                let name = format!("{}/{}", policy.namespace, policy.name);
                format!("{}{}", prefix(*direction), shortened(&name))
            }
            Self::Tier(tier, policies, direction) => {
                let names: Vec<&str> = policies.iter().map(|policy| &*policy.name).collect();
                hashed(&format!("{}{tier}-", prefix(*direction)), &names)
            }
        }
    }
}

// The key keeps the policy alive, so that no other one gets its place in memory.
impl PartialEq for ChainKey {
    fn eq(&self, other: &Self) -> bool {
        self.identity() == other.identity()
    }
}

impl Eq for ChainKey {}

impl Hash for ChainKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.identity().hash(state);
    }
}

/// A set that rules look into.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum SetKey {
    Pods(PodSelection),
    /// All ipBlocks of one rule.
    Blocks(Vec<Block>),
    Nodes(Selector),
    Ports(Vec<PortRange>),
    Named(Arc<str>, Protocol),
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
    /// The chain of `key`.
    pub(super) fn chain(&mut self, key: &ChainKey) -> Chain {
        let mut rules = Vec::new();
        match key {
            ChainKey::Network(policy, direction) => {
                let of = format!("{}/{}", policy.namespace, policy.name);
                self.rules(
                    &of,
                    *direction,
                    policy.rules(*direction).unwrap_or_default(),
                    &mut rules,
                );
            }
            ChainKey::Tier(tier, policies, direction) => {
                for policy in policies {
                    let of = format!("{tier}:{}", policy.name);
                    self.rules(&of, *direction, policy.rules(*direction), &mut rules);
                }
            }
        }
        let (ChainKey::Network(_, direction) | ChainKey::Tier(_, _, direction)) = key;
        Chain { direction: *direction, rules: rules.into() }
    }

    fn rules(
        &mut self,
        of: &str,
        direction: Direction,
        written: &[object::Rule],
        rules: &mut Vec<Rule>,
    ) {
        let of = shortened(of);
        for (number, rule) in written.iter().enumerate() {
            let comment: Arc<str> = format!("{of} {direction}[{number}]").into();
            let destinations = self.destinations(rule.ports.as_deref());
            let mut peers = Vec::new();
            let mut blocks = Vec::new();
            for peer in &rule.peers {
                let peer = match peer {
                    Peer::Anybody => Peers::Any,
                    Peer::Pods(selection) => {
                        Peers::Pods(self.name(SetKey::Pods(selection.clone())))
                    }
                    Peer::Nodes(selector) => Peers::Net(self.name(SetKey::Nodes(selector.clone()))),
                    Peer::Block(block) => {
                        blocks.push(block.clone());
                        continue;
                    }
                };
                // Of several that are one set one does.
                if !peers.contains(&peer) {
                    peers.push(peer);
                }
            }
            if !blocks.is_empty() {
                peers.push(Peers::Net(self.name(SetKey::Blocks(blocks))));
            }
            if peers.contains(&Peers::Any) {
                peers = vec![Peers::Any];
            }
            for peers in peers {
                rules.extend(destinations.iter().map(|to| Rule {
                    peers: peers.clone(),
                    to: to.clone(),
                    action: rule.action,
                    comment: comment.clone(),
                }));
            }
        }
    }

    fn destinations(&mut self, ports: Option<&[PortMatch]>) -> Vec<Destination> {
        let Some(ports) = ports else { return vec![Destination::Any] };
        let mut destinations = Vec::new();
        let numbers = ports.iter().filter_map(|port| match port {
            PortMatch::Range(range) => Some(*range),
            PortMatch::Named(..) => None,
        });
        let numbers = ranges::of_ports(numbers);
        if !numbers.is_empty() {
            destinations.push(Destination::Ports(self.name(SetKey::Ports(numbers))));
        }
        let mut named = BTreeSet::new();
        for port in ports {
            if let PortMatch::Named(name, protocol) = port {
                let protocols = protocol.map_or(Protocol::ALL.to_vec(), |protocol| vec![protocol]);
                named.extend(protocols.into_iter().map(|protocol| (name.clone(), protocol)));
            }
        }
        for (name, protocol) in named {
            destinations.push(Destination::Named(self.name(SetKey::Named(name, protocol))));
        }
        destinations
    }

    fn name(&mut self, key: SetKey) -> Name {
        let name = self.names.name(&key, || match &key {
            SetKey::Pods(selection) => hashed("pods-", selection),
            SetKey::Blocks(blocks) => hashed("net-", blocks),
            SetKey::Nodes(selector) => hashed("node-", selector),
            SetKey::Ports(ports) => hashed("port-", ports),
            SetKey::Named(name, protocol) => format!("name-{name}-{protocol}"),
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
        for (name, set) in &mut self.pods {
            let Some(SetKey::Pods(selection)) = self.keys.get(name) else { continue };
            for address in &addresses {
                let owner = places.owner(*address);
                let is_in = owner
                    .is_some_and(|pod| selection.selects(pod, world.namespace(&pod.namespace)));
                match address {
                    IpAddr::V4(address) => renew(&mut set.v4, *address, is_in),
                    IpAddr::V6(address) => renew(&mut set.v6, *address, is_in),
                }
            }
        }
        for (name, set) in &mut self.named {
            let Some(SetKey::Named(port, protocol)) = self.keys.get(name) else { continue };
            for address in &addresses {
                let owner = places.owner(*address).into_iter();
                let ports = owner.flat_map(|pod| pod.ports.iter());
                let ports = ports.filter(|it| it.name == *port && it.protocol == *protocol);
                let ports: Vec<u16> = ports.map(|port| port.port).collect();
                match address {
                    IpAddr::V4(address) => renew_ports(&mut set.v4, *address, &ports),
                    IpAddr::V6(address) => renew_ports(&mut set.v6, *address, &ports),
                }
            }
        }
    }

    /// Forgets which addresses blocks and nodes have.
    pub(super) fn forget_nets(&mut self) {
        self.nets.clear();
    }

    /// Puts into the sets of pods and of named ports that `plan` has what is in them now.
    pub(super) fn refresh(&self, plan: &mut Plan) {
        for (name, addresses) in &mut plan.pods {
            if let Some(known) = self.pods.get(name) {
                *addresses = known.clone();
            }
        }
        for (name, ports) in &mut plan.named_ports {
            if let Some(known) = self.named.get(name) {
                *ports = known.clone();
            }
        }
    }

    /// Puts every set that was marked into `plan`, and forgets all others.
    pub(super) fn fill(&mut self, world: &World, index: &Index<'_>, plan: &mut Plan) {
        let needed: HashSet<Name> = std::mem::take(&mut self.needed).into_iter().collect();
        let keys = &mut self.keys;
        keys.retain(|name, _| needed.contains(name));
        self.pods.retain(|name, _| needed.contains(name));
        self.nets.retain(|name, _| needed.contains(name));
        self.named.retain(|name, _| needed.contains(name));
        for (name, key) in keys.iter() {
            let name = name.clone();
            match key {
                SetKey::Pods(selection) => {
                    let known = self.pods.entry(name.clone());
                    let addresses = known.or_insert_with(|| index.addresses(selection));
                    plan.pods.insert(name, addresses.clone());
                }
                SetKey::Blocks(blocks) => {
                    let known = self.nets.entry(name.clone());
                    let ranges = known.or_insert_with(|| ranges::of_blocks(blocks, world));
                    plan.nets.insert(name, ranges.clone());
                }
                SetKey::Nodes(selector) => {
                    let known = self.nets.entry(name.clone());
                    let ranges = known.or_insert_with(|| ranges::of_nodes(selector, world));
                    plan.nets.insert(name, ranges.clone());
                }
                SetKey::Ports(ports) => {
                    plan.ports.insert(name, ports.as_slice().into());
                }
                SetKey::Named(port, protocol) => {
                    let known = self.named.entry(name.clone());
                    let ports = known.or_insert_with(|| index.named_ports(port, *protocol));
                    plan.named_ports.insert(name, ports.clone());
                }
            }
        }
        let kept: HashSet<&SetKey> = keys.values().collect();
        self.names.retain(|key| kept.contains(key));
    }
}

/// Has `value` in a sorted list, or not.
fn renew<T: Copy + Ord>(list: &mut Arc<[T]>, value: T, is_in: bool) {
    match (list.binary_search(&value), is_in) {
        (Err(at), true) => {
            *list = list[..at].iter().chain(&[value]).chain(&list[at..]).copied().collect();
        }
        (Ok(at), false) => *list = list[..at].iter().chain(&list[at + 1..]).copied().collect(),
        (Ok(_), true) | (Err(_), false) => {}
    }
}

/// Has these ports of `address` in a sorted list, and no others.
fn renew_ports<T: Copy + Ord>(list: &mut Arc<[(T, u16)]>, address: T, ports: &[u16]) {
    let known = list.iter().filter(|(other, _)| *other == address);
    if known.map(|(_, port)| port).eq(ports) {
        return;
    }
    let others = list.iter().copied().filter(|(other, _)| *other != address);
    let mut renewed: Vec<_> = others.chain(ports.iter().map(|port| (address, *port))).collect();
    renewed.sort_unstable();
    *list = renewed.into();
}
