//! The operator's view: versions of the subnet table, one after the other, some of them broken.

use std::net::IpAddr;

use culvert_dataplane::engine::{Foreign, NodeEntry, Overlay, TunnelOptions};
use ipnet::IpNet;
use overlay_proto::Vni;

use crate::random::Random;

pub(crate) const PORT: u16 = 4790;

/// Subnets that are ever given out, of each family.
const POOL: usize = 12;

/// One version of the table.
#[derive(Clone, Debug)]
pub(crate) struct Version {
    pub(crate) nodes: Vec<NodeEntry>,
    /// Whether it must be refused whole.
    pub(crate) broken: bool,
}

impl Version {
    /// Which node owns `address`; the slow way, on purpose.
    pub(crate) fn owner(&self, address: IpAddr) -> Option<usize> {
        self.nodes.iter().find_map(|node| {
            node.subnets.iter().any(|subnet| subnet.contains(&address)).then(|| index(&node.name))
        })
    }

    pub(crate) fn entry(&self, node: usize) -> Option<&NodeEntry> {
        self.nodes.iter().find(|entry| entry.name == name(node))
    }
}

/// The operator: what the table is now, and what it was.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) overlay: Overlay,
    pub(crate) versions: Vec<Version>,
    pub(crate) v6_underlay: bool,
    free: Vec<IpNet>,
}

pub(crate) fn name(node: usize) -> String {
    format!("node{node}")
}

fn index(name: &str) -> usize {
    name.trim_start_matches("node").parse().unwrap()
}

impl Cluster {
    /// `nodes` nodes with one or two subnets of each family.
    pub(crate) fn new(nodes: usize, random: &mut Random) -> Self {
        let mut free: Vec<IpNet> = Vec::new();
        for index in 0..POOL {
            // Neighbours that differ in their last bits only, so that a wrong length shows.
            free.push(format!("10.244.{}.{}/25", index / 2, index % 2 * 128).parse().unwrap());
            free.push(format!("fd00:10:244:{index:x}::/64").parse().unwrap());
        }
        let overlay = Overlay {
            vni: Vni::new(u32::try_from(random.between(0, 0xff_ffff)).unwrap()).unwrap(),
            networks: vec!["10.244.0.0/16".parse().unwrap(), "fd00:10:244::/48".parse().unwrap()],
            port: PORT,
            foreign: Foreign::default(),
        };
        let v6_underlay = random.percent(30);
        let mut cluster = Self { overlay, versions: Vec::new(), v6_underlay, free };
        let mut first = Version { nodes: Vec::new(), broken: false };
        for node in 0..nodes {
            first.nodes.push(cluster.newcomer(node, random));
        }
        cluster.versions.push(first);
        cluster
    }

    /// The underlay address of a node: the same in all versions.
    pub(crate) fn address(&self, node: usize) -> IpAddr {
        let host = u8::try_from(10 + node).unwrap();
        if self.v6_underlay {
            IpAddr::from([0xfd01, 0, 0, 0, 0, 0, 0, u16::from(host)])
        } else {
            IpAddr::from([192, 168, 1, host])
        }
    }

    /// The node behind an underlay address.
    pub(crate) fn node_at(&self, address: IpAddr) -> Option<usize> {
        (0..16).find(|node| self.address(*node) == address)
    }

    /// The newest version that is not broken.
    pub(crate) fn newest(&self) -> &Version {
        self.versions.iter().rev().find(|version| !version.broken).unwrap()
    }

    fn newcomer(&mut self, node: usize, random: &mut Random) -> NodeEntry {
        let mut subnets = Vec::new();
        for want_v4 in [true, false, true] {
            if subnets.len() == 2 && random.percent(60) {
                break;
            }
            subnets.extend(self.grant(want_v4, random));
        }
        NodeEntry {
            name: name(node),
            address: self.address(node),
            subnets,
            tunnel_options: TunnelOptions::default(),
        }
    }

    fn grant(&mut self, v4: bool, random: &mut Random) -> Option<IpNet> {
        let fitting: Vec<_> = self.free.iter().copied().filter(|net| is_v4(net) == v4).collect();
        let granted = (!fitting.is_empty()).then(|| random.pick(&fitting))?;
        self.free.retain(|subnet| *subnet != granted);
        Some(granted)
    }

    /// Makes the next version and returns its number.
    pub(crate) fn change(&mut self, nodes: usize, random: &mut Random) -> usize {
        let mut next = self.newest().clone();
        let (from, to) = (random.below(next.nodes.len()), random.below(next.nodes.len()));
        match random.below(6) {
            // A subnet moves, and its old owner keeps at least one of each family.
            0 | 1 if from != to => {
                if let Some(subnet) = spare(&next.nodes[from], random) {
                    next.nodes[from].subnets.retain(|own| *own != subnet);
                    next.nodes[to].subnets.push(subnet);
                }
            }
            // Two nodes swap all that they have.
            2 if from != to => {
                let moved = std::mem::take(&mut next.nodes[from].subnets);
                let other = std::mem::replace(&mut next.nodes[to].subnets, moved);
                next.nodes[from].subnets = other;
            }
            3 => next.nodes[from].subnets.extend(self.grant(random.percent(50), random)),
            // A node leaves, and its subnets are free again.
            4 if next.nodes.len() > 2 => {
                let gone = next.nodes.remove(from);
                self.free.extend(gone.subnets);
            }
            _ => {
                let missing = (0..nodes).find(|node| next.entry(*node).is_none());
                if let Some(node) = missing {
                    next.nodes.push(self.newcomer(node, random));
                }
            }
        }
        next.nodes.retain(|node| !node.subnets.is_empty());
        self.versions.push(next);
        self.versions.len() - 1
    }

    /// Publishes a version with a mistake in it, which every node must refuse.
    pub(crate) fn blunder(&mut self, random: &mut Random) -> usize {
        let mut next = self.newest().clone();
        next.broken = true;
        let (from, to) = (0, next.nodes.len() - 1);
        match random.below(4) {
            0 => {
                let taken = next.nodes[from].subnets[0];
                next.nodes[to].subnets.push(taken);
            }
            1 => next.nodes[to].address = next.nodes[from].address,
            2 => next.nodes[to].name = next.nodes[from].name.clone(),
            _ => next.nodes[to].subnets.push("10.99.0.0/24".parse().unwrap()),
        }
        self.versions.push(next);
        self.versions.len() - 1
    }

    /// An address of some subnet, given out or not.
    pub(crate) fn any_pod(&self, v4: bool, random: &mut Random) -> IpAddr {
        let of_nodes = self.newest().nodes.iter().flat_map(|node| &node.subnets);
        let all: Vec<_> =
            of_nodes.chain(&self.free).copied().filter(|net| is_v4(net) == v4).collect();
        pod(&random.pick(&all), random.below(3))
    }
}

fn is_v4(net: &IpNet) -> bool {
    matches!(net, IpNet::V4(_))
}

/// The address of a pod in `subnet`; the bridge has the first.
pub(crate) fn pod(subnet: &IpNet, which: usize) -> IpAddr {
    subnet.hosts().nth(1 + which).unwrap()
}

/// The bridge's address in `subnet`.
pub(crate) fn router(subnet: &IpNet) -> IpAddr {
    match subnet {
        IpNet::V4(net) => IpAddr::from((u32::from(net.network()) + 1).to_be_bytes()),
        IpNet::V6(net) => IpAddr::from((u128::from(net.network()) + 1).to_be_bytes()),
    }
}

fn spare(node: &NodeEntry, random: &mut Random) -> Option<IpNet> {
    let spare: Vec<_> = node
        .subnets
        .iter()
        .copied()
        .filter(|net| node.subnets.iter().filter(|own| is_v4(own) == is_v4(net)).count() > 1)
        .collect();
    (!spare.is_empty()).then(|| random.pick(&spare))
}
