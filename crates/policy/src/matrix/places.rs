//! Places that policies tell apart.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::object::{Block, Labels, Namespaces, Peer, Pod, PodSelection, PortMatch, Requirement};
use crate::plan::Direction;
use crate::world::{NamespacedName, World};

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
    /// A network that a policy names.
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
                [first, rest @ ..] => {
                    let common = rest.iter().fold(first.len(), |len, name| {
                        let same = first.bytes().zip(name.bytes()).take_while(|(a, b)| a == b);
                        len.min(same.count())
                    });
                    let begin = first.get(..common).unwrap_or_default();
                    write!(f, "{namespace}/{begin}* ({} pods)", names.len())
                }
            },
            Self::Network(block) => write!(f, "{block}"),
            Self::Elsewhere => f.write_str("elsewhere"),
        }
    }
}

/// What policies ask for.
#[derive(Default)]
struct Asked {
    labels: BTreeSet<Arc<str>>,
    ports: BTreeSet<Arc<str>>,
    blocks: BTreeSet<Block>,
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
                Peer::Anybody | Peer::Nodes(_) => {}
            }
        }
        for port in rule.ports.iter().flatten() {
            if let PortMatch::Named(name, _) = port {
                self.ports.insert(name.clone());
            }
        }
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
        Place::Network(_) | Place::Elsewhere => (Arc::from(""), None),
    });
    standing.extend(networks(worlds, &asked));
    standing
}

/// The networks that policies name, and the rest of the world.
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
    let mut found = Vec::new();
    for block in &asked.blocks {
        // One that as few other networks have as can be found soon.
        let candidates = candidates(block).filter(|it| !taken.contains(it));
        let has_it =
            |address: &IpAddr| asked.blocks.iter().filter(|block| block.contains(*address)).count();
        if let Some(address) = candidates.min_by_key(has_it) {
            found.push(standing(Place::Network(block.clone()), vec![address]));
        }
    }
    // Addresses for documentation, and one of each family that somebody has.
    const ELSEWHERE: [&str; 6] =
        ["203.0.113.1", "198.51.100.1", "192.0.2.1", "9.9.9.9", "2001:db8::1", "2620:fe::9"];
    let mut all: Vec<IpAddr> = ELSEWHERE.iter().filter_map(|text| text.parse().ok()).collect();
    all.retain(|address| {
        let named = |block: &Block| block.cidr.prefix_len() > 0 && block.contains(*address);
        !asked.blocks.iter().any(named)
    });
    found.push(standing(Place::Elsewhere, all));
    found
}

/// Some addresses of a block: its first ones, and those after each exception.
fn candidates(block: &Block) -> impl Iterator<Item = IpAddr> {
    /// Pods and nodes may have the first ones.
    const TRIED: u128 = 600;
    let starts = std::iter::once(block.cidr.network())
        .chain(block.except.iter().map(ipnet::IpNet::broadcast));
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
