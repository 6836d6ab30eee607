//! Places that policies tell apart.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::object::{
    Block, Labels, Namespaces, Peer, Pod, PodSelection, PortMatch, Requirement, Selector,
};
use crate::plan::Direction;
use crate::world::{NamespacedName, NodeView, World};

/// A row and column of a matrix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Pods of one namespace that no policy tells apart.
    Pods {
        /// Their namespace.
        namespace: Arc<str>,
        /// Their names, sorted.
        names: Vec<Arc<str>>,
    },
    /// Nodes that policies name, and do not tell apart.
    Nodes {
        /// Their names, sorted.
        names: Vec<Arc<str>>,
    },
    /// A network that a policy names, or leaves out of one.
    Network(Block),
    /// Addresses that no policy names.
    Elsewhere,
}

/// A place, and who stands for it in each world.
pub(super) struct Standing {
    pub(super) place: Place,
    /// Addresses of one that stands for all.
    pub(super) addresses: Vec<Vec<IpAddr>>,
    /// Addresses of another one of the same place; of the same one if it is alone.
    pub(super) others: Vec<Vec<IpAddr>>,
}

impl Place {
    /// Whether it is pods.
    #[must_use]
    pub const fn is_pods(&self) -> bool {
        matches!(self, Self::Pods { .. })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pods { namespace, names } => match names.as_slice() {
                [] => write!(f, "{namespace}/"),
                [name] => write!(f, "{namespace}/{name}"),
                [..] => write!(f, "{namespace}/{}* ({} pods)", common(names), names.len()),
            },
            Self::Nodes { names } => match names.as_slice() {
                [name] => write!(f, "node {name}"),
                [..] => write!(f, "node {}* ({} nodes)", common(names), names.len()),
            },
            Self::Network(block) => write!(f, "{block}"),
            Self::Elsewhere => f.write_str("elsewhere"),
        }
    }
}

/// What all of these names begin with.
fn common(names: &[Arc<str>]) -> &str {
    let [first, rest @ ..] = names else { return "" };
    let len = rest.iter().fold(first.len(), |len, name| {
        let same = first.bytes().zip(name.bytes()).take_while(|(a, b)| a == b);
        len.min(same.count())
    });
    first.get(..len).unwrap_or_default()
}

/// What policies ask for.
#[derive(Default)]
struct Asked {
    labels: BTreeSet<Arc<str>>,
    ports: BTreeSet<Arc<str>>,
    blocks: BTreeSet<Block>,
    nodes: BTreeSet<Selector>,
}

impl Asked {
    fn of(worlds: &[&World]) -> Self {
        let mut asked = Self::default();
        for world in worlds {
            for policy in world.network_policies() {
                asked.selection(&policy.selection());
                for direction in Direction::ALL {
                    policy
                        .rules(direction)
                        .unwrap_or_default()
                        .iter()
                        .for_each(|it| asked.rule(it));
                }
            }
            for policy in world.cluster_policies() {
                asked.selection(&policy.subjects);
                for direction in Direction::ALL {
                    policy.rules(direction).iter().for_each(|rule| asked.rule(rule));
                }
            }
        }
        asked
    }

    fn selection(&mut self, selection: &PodSelection) {
        for requirement in selection.pods.requirements() {
            match requirement {
                Requirement::In(key, _)
                | Requirement::NotIn(key, _)
                | Requirement::Exists(key)
                | Requirement::DoesNotExist(key) => _ = self.labels.insert(key.clone()),
                Requirement::Never => {}
            }
        }
        // A group is of one namespace, so that labels of namespaces tell no pods apart in it.
        let (Namespaces::Named(_) | Namespaces::Matching(_)) = &selection.namespaces;
    }

    fn rule(&mut self, rule: &crate::object::Rule) {
        for peer in &rule.peers {
            match peer {
                Peer::Pods(selection) => self.selection(selection),
                Peer::Block(block) => _ = self.blocks.insert(block.clone()),
                Peer::Nodes(selector) => _ = self.nodes.insert(selector.clone()),
                Peer::Anybody => {}
            }
        }
        for port in rule.ports.iter().flatten() {
            if let PortMatch::Named(name, _) = port {
                self.ports.insert(name.clone());
            }
        }
    }

    /// Every network that policies name or leave out, but the whole of a family. Of two of them
    /// one lies in the other, or they have no address in common.
    fn networks(&self) -> BTreeSet<IpNet> {
        let all = self.blocks.iter().flat_map(|it| it.except.iter().chain([&it.cidr]));
        all.copied().filter(|net| net.prefix_len() > 0).collect()
    }

    /// By what policies can tell `node` from others; nothing if none means it.
    fn traits_of_node(&self, node: NodeView<'_>) -> Option<Vec<bool>> {
        let labels = node.labels();
        let selected =
            self.nodes.iter().map(|selector| labels.is_some_and(|it| selector.matches(it)));
        let blocks = self.blocks.iter().filter(|block| block.cidr.prefix_len() > 0);
        let named = blocks.map(|block| node.internal().any(|address| block.contains(address)));
        let traits: Vec<bool> = selected.chain(named).collect();
        traits.contains(&true).then_some(traits)
    }

    /// What is asked of one pod.
    fn traits(&self, pod: &Pod) -> Traits {
        let labels = pod.labels.iter().filter(|(key, _)| self.labels.contains(*key));
        let ports = pod.ports.iter().filter(|port| self.ports.contains(&port.name));
        let blocks = self.blocks.iter().map(|block| {
            let mut addresses = pod.addresses.iter();
            addresses.any(|address| block.contains(address))
        });
        Traits {
            labels: labels.map(|(key, value)| (key.clone(), value.clone())).collect(),
            ports: ports
                .map(|port| format!("{}/{}/{}", port.name, port.protocol, port.port))
                .collect(),
            blocks: blocks.collect(),
            families: (pod.addresses.v4.is_some(), pod.addresses.v6.is_some()),
        }
    }
}

/// By what policies can tell a pod from another one of its namespace.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Traits {
    labels: Labels,
    ports: Vec<String>,
    blocks: Vec<bool>,
    families: (bool, bool),
}

/// Every place of the worlds; of pods those that all worlds have.
pub(super) fn places(worlds: &[&World]) -> Vec<Standing> {
    let asked = Asked::of(worlds);
    let mut groups: BTreeMap<(Arc<str>, Vec<Traits>), Vec<NamespacedName>> = BTreeMap::new();
    let [first, others @ ..] = worlds else { return Vec::new() };
    for pod in first.pods() {
        let mut all = vec![&**pod];
        all.extend(
            others.iter().filter_map(|world| world.pod(&pod.namespace, &pod.name).map(|it| &**it)),
        );
        let is_good = |pod: &&Pod| pod.is_selectable() && !pod.addresses.is_empty();
        if all.len() != worlds.len() || !all.iter().all(is_good) {
            continue;
        }
        let traits = all.iter().map(|pod| asked.traits(pod)).collect();
        let group = groups.entry((pod.namespace.clone(), traits)).or_default();
        group.push((pod.namespace.clone(), pod.name.clone()));
    }
    let mut standing: Vec<Standing> = groups
        .into_iter()
        .map(|((namespace, _), pods)| {
            let addresses = |at: usize| -> Vec<Vec<IpAddr>> {
                let (namespace, name) = &pods[at.min(pods.len() - 1)];
                let pods = worlds.iter().map(|world| world.pod(namespace, name));
                pods.map(|pod| pod.map_or(Vec::new(), |it| it.addresses.iter().collect())).collect()
            };
            let (addresses, others) = (addresses(0), addresses(1));
            let names = pods.into_iter().map(|(_, name)| name).collect();
            Standing { place: Place::Pods { namespace, names }, addresses, others }
        })
        .collect();
    standing.sort_by_key(|it| match &it.place {
        Place::Pods { namespace, names } => (namespace.clone(), names.first().cloned()),
        Place::Nodes { .. } | Place::Network(_) | Place::Elsewhere => (Arc::from(""), None),
    });
    standing.extend(nodes(worlds, &asked));
    standing.extend(networks(worlds, &asked));
    standing
}

/// The nodes that policies name, of those that all worlds have.
fn nodes(worlds: &[&World], asked: &Asked) -> Vec<Standing> {
    let mut all: BTreeMap<&Arc<str>, Vec<NodeView<'_>>> = BTreeMap::new();
    for node in worlds.iter().flat_map(|world| world.nodes()) {
        all.entry(node.name).or_default().push(node);
    }
    let mut groups: BTreeMap<Vec<Option<Vec<bool>>>, Vec<Arc<str>>> = BTreeMap::new();
    for (name, views) in &all {
        let traits: Vec<_> = views.iter().map(|node| asked.traits_of_node(*node)).collect();
        if views.len() == worlds.len() && traits.iter().any(Option::is_some) {
            groups.entry(traits).or_default().push(Arc::clone(name));
        }
    }
    let standing = groups.into_values().map(|names| {
        let first = names.first().and_then(|name| all.get(name));
        let views = first.into_iter().flatten();
        let addresses: Vec<Vec<IpAddr>> = views.map(|node| node.addresses().collect()).collect();
        let others = addresses.clone();
        Standing { place: Place::Nodes { names }, addresses, others }
    });
    standing.collect()
}

/// The networks that policies name or leave out, and the rest of the world. Each is stood for by an
/// address that is in none of those within it, so that no difference between two worlds is missed.
fn networks(worlds: &[&World], asked: &Asked) -> Vec<Standing> {
    let mut taken: BTreeSet<IpAddr> = BTreeSet::new();
    for world in worlds {
        taken.extend(world.pods().flat_map(|pod| pod.addresses.iter()));
        taken.extend(world.nodes().flat_map(|node| node.addresses()));
    }
    let standing = |place, addresses: Vec<IpAddr>| {
        let all = vec![addresses; worlds.len()];
        Standing { place, addresses: all.clone(), others: all }
    };
    let networks = asked.networks();
    let whole = |cidr: &IpNet| Block { cidr: *cidr, except: BTreeSet::new() };
    let is_named = |cidr: &&IpNet| asked.blocks.iter().any(|block| block.cidr == **cidr);
    let left_out = networks.iter().filter(|cidr| !is_named(cidr)).map(whole);
    let blocks: BTreeSet<Block> = asked.blocks.iter().cloned().chain(left_out).collect();
    let mut found = Vec::new();
    for block in blocks {
        let candidates = candidates(&block, &networks).filter(|it| !taken.contains(it));
        let has_it = |address: &IpAddr| networks.iter().filter(|it| it.contains(address)).count();
        if let Some(address) = candidates.min_by_key(has_it) {
            found.push(standing(Place::Network(block), vec![address]));
        }
    }
    // Addresses for documentation, and one of each family that somebody has.
    const ELSEWHERE: [&str; 6] =
        ["203.0.113.1", "198.51.100.1", "192.0.2.1", "9.9.9.9", "2001:db8::1", "2620:fe::9"];
    let mut all: Vec<IpAddr> = ELSEWHERE.iter().filter_map(|text| text.parse().ok()).collect();
    let is_free = |it: &IpAddr| !taken.contains(it) && !networks.iter().any(|net| net.contains(it));
    all.retain(is_free);
    for everything in [IpNet::from(Ipv4Net::default()), Ipv6Net::default().into()] {
        // Whoever leaves out every address for documentation names all of them.
        if !all.iter().any(|it| everything.contains(it)) {
            let block = whole(&everything);
            let mut rest = candidates(&block, &networks).filter(|it| !it.is_unspecified());
            all.extend(rest.find(is_free));
        }
    }
    found.push(standing(Place::Elsewhere, all));
    found
}

/// Some addresses of a block: its first ones, and those after each network that lies within.
fn candidates<'a>(
    block: &'a Block,
    networks: &'a BTreeSet<IpNet>,
) -> impl Iterator<Item = IpAddr> + 'a {
    /// Pods and nodes may have the first ones.
    const TRIED: u128 = 600;
    let within = networks.iter().filter(|net| block.cidr.contains(*net));
    let starts = std::iter::once(block.cidr.network()).chain(within.map(IpNet::broadcast));
    let near = starts.flat_map(|start| (0..TRIED).filter_map(move |step| later(start, step)));
    near.chain([block.cidr.broadcast()]).filter(|address| block.contains(*address))
}

fn later(address: IpAddr, step: u128) -> Option<IpAddr> {
    match address {
        IpAddr::V4(address) => {
            let number = u32::from(address).checked_add(u32::try_from(step).ok()?)?;
            Some(IpAddr::V4(number.into()))
        }
        IpAddr::V6(address) => Some(IpAddr::V6(u128::from(address).checked_add(step)?.into())),
    }
}
