//! The addressing plan: which name, address and subnet each node and pod of a lab has.
//!
//! Owns arithmetic only, so that it is the same for whoever asks: the builder, the command line, a
//! test. Never touches the kernel. Nodes and pods count from 1.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use anyhow::{bail, ensure};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use overlay_proto::Family;
use serde::{Deserialize, Serialize};

/// Most nodes in a lab: node N has the underlay address 192.168.1.(10 + N), and one octet holds
/// 245.
pub(super) const MAX_NODES: u16 = 200;

/// Most pods on a node: its IPv4 subnet has 253 addresses that are neither network, bridge nor
/// broadcast.
pub(super) const MAX_PODS: u16 = 250;

/// Longest name of a lab: its directory and a node's are part of the admin socket's path, which the
/// kernel limits to 107 bytes.
const MAX_NAME_LEN: usize = 40;

/// A node's underlay address ends in its number plus this.
const FIRST_NODE_OCTET: u16 = 10;

/// How a [`Family`] is written in the lab's description and on its command line.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, clap::ValueEnum)]
#[serde(remote = "Family")]
pub(super) enum Underlay {
    /// IP version 4.
    #[serde(rename = "ipv4")]
    #[value(name = "ipv4")]
    V4,
    /// IP version 6.
    #[serde(rename = "ipv6")]
    #[value(name = "ipv6")]
    V6,
}

impl From<Underlay> for Family {
    fn from(underlay: Underlay) -> Self {
        match underlay {
            Underlay::V4 => Self::V4,
            Underlay::V6 => Self::V6,
        }
    }
}

/// The IP versions of the pods of a lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Families {
    /// Pods with an IPv4 address.
    Ipv4,
    /// Pods with an IPv6 address.
    Ipv6,
    /// Pods with one of each.
    Dual,
}

impl Families {
    /// The families, IPv4 first.
    #[must_use]
    pub const fn each(self) -> &'static [Family] {
        match self {
            Self::Ipv4 => &[Family::V4],
            Self::Ipv6 => &[Family::V6],
            Self::Dual => &[Family::V4, Family::V6],
        }
    }
}

impl fmt::Display for Families {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ipv4 => "IPv4",
            Self::Ipv6 => "IPv6",
            Self::Dual => "dual-stack",
        })
    }
}

/// A place in a lab: what `culvert lab exec` takes, and what follows the lab's name in the name of
/// a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// The underlay switch, which is also the world outside the cluster.
    Switch,
    /// A node.
    Node(u16),
    /// A pod on a node.
    Pod(u16, u16),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Switch => f.write_str("switch"),
            Self::Node(node) => write!(f, "node{node}"),
            Self::Pod(node, pod) => write!(f, "node{node}-pod{pod}"),
        }
    }
}

impl FromStr for Place {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let parsed = match text.split_once('-') {
            None if text == "switch" => Some(Self::Switch),
            None => number_after("node", text).map(Self::Node),
            Some((node, pod)) => number_after("node", node)
                .zip(number_after("pod", pod))
                .map(|(node, pod)| Self::Pod(node, pod)),
        };
        match parsed {
            Some(place) => Ok(place),
            None => bail!("`{text}` is no place in a lab: say `switch`, `node1` or `node1-pod1`"),
        }
    }
}

/// The number in `text` after `word`, written the one way that `Display` writes it.
fn number_after(word: &str, text: &str) -> Option<u16> {
    let digits = text.strip_prefix(word)?;
    let canonical = digits.bytes().all(|b| b.is_ascii_digit()) && !digits.starts_with('0');
    if canonical { digits.parse().ok() } else { None }
}

/// The shape of a lab, from which every name and address in it follows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Name of the lab, and the first part of the name of each of its namespaces.
    pub name: String,
    /// Number of nodes.
    pub nodes: u16,
    /// Number of pods that each node starts with.
    pub pods: u16,
    /// Families of the pod network.
    pub families: Families,
    /// Family that the nodes reach one another by.
    #[serde(with = "Underlay")]
    pub underlay: Family,
    /// MTU of the underlay, in bytes.
    pub underlay_mtu: u16,
}

impl Plan {
    /// Checks that names and addresses for this shape exist.
    ///
    /// # Errors
    ///
    /// The name cannot name a namespace, or there are more nodes or pods than addresses.
    pub fn check(&self) -> anyhow::Result<()> {
        check_name(&self.name)?;
        ensure!(
            (1..=MAX_NODES).contains(&self.nodes),
            "a lab has 1 to {MAX_NODES} nodes, not {}: node N has the underlay address \
             192.168.1.(10 + N)",
            self.nodes
        );
        ensure!(
            self.pods <= MAX_PODS,
            "a node has at most {MAX_PODS} pods, not {}: its IPv4 subnet is a /24",
            self.pods
        );
        // 1280 is the least that an IPv6 link may have (RFC 8200, section 5).
        ensure!(
            self.underlay_mtu >= 1280,
            "the underlay's MTU is at least 1280 bytes, not {}",
            self.underlay_mtu
        );
        Ok(())
    }

    /// Name of the namespace at `place`.
    #[must_use]
    pub fn namespace(&self, place: Place) -> String {
        namespace(&self.name, place)
    }

    /// The underlay address of `node` in `family`. Nodes have both, whatever the underlay's family.
    #[must_use]
    pub fn node_address_in(&self, node: u16, family: Family) -> IpAddr {
        let octet = FIRST_NODE_OCTET + node;
        match family {
            Family::V4 => Ipv4Addr::new(192, 168, 1, octet.to_be_bytes()[1]).into(),
            Family::V6 => Ipv6Addr::new(0xfd00, 0x192, 0x168, 1, 0, 0, 0, as_written(octet)).into(),
        }
    }

    /// The address by which the other nodes reach `node`.
    #[must_use]
    pub fn node_address(&self, node: u16) -> IpAddr {
        self.node_address_in(node, self.underlay)
    }

    /// The pod subnets of `node`, one per family.
    #[must_use]
    pub fn subnets(&self, node: u16) -> Vec<IpNet> {
        self.families.each().iter().map(|family| subnet(node, *family)).collect()
    }

    /// The networks that hold every pod of the lab, one per family.
    #[must_use]
    pub fn cluster_networks(&self) -> Vec<IpNet> {
        self.families
            .each()
            .iter()
            .map(|family| match family {
                Family::V4 => v4_net([10, 244, 0, 0], 16),
                Family::V6 => v6_net([0xfd00, 0x10, 0x244, 0, 0, 0, 0, 0], 48),
            })
            .collect()
    }
}

/// Checks that `name` can name a lab.
///
/// # Errors
///
/// It is empty, too long, or has a character that does not belong in the name of a namespace.
pub(super) fn check_name(name: &str) -> anyhow::Result<()> {
    let plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    ensure!(
        plain && !name.is_empty() && !name.starts_with('-') && name.len() <= MAX_NAME_LEN,
        "`{name}` cannot name a lab: use 1 to {MAX_NAME_LEN} of a-z, 0-9 and `-`, not `-` first"
    );
    Ok(())
}

/// Name of the namespace at `place` of the lab `lab`.
pub(super) fn namespace(lab: &str, place: Place) -> String {
    format!("{lab}-{place}")
}

/// The place that the namespace `namespace` has in the lab `lab`; none if it belongs elsewhere.
pub(super) fn place_of(lab: &str, namespace: &str) -> Option<Place> {
    namespace.strip_prefix(lab)?.strip_prefix('-')?.parse().ok()
}

/// The switch's address on the underlay, and every node's default gateway.
pub(super) fn switch_address(family: Family) -> IpNet {
    match family {
        Family::V4 => v4_net([192, 168, 1, 1], 24),
        Family::V6 => v6_net([0xfd00, 0x192, 0x168, 1, 0, 0, 0, 1], 64),
    }
}

/// An address of the underlay that no machine has.
pub(super) fn nobody(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(192, 168, 1, 254).into(),
        Family::V6 => Ipv6Addr::new(0xfd00, 0x192, 0x168, 1, 0, 0, 0, 0xfffe).into(),
    }
}

/// An address outside the cluster: the switch answers for it, and has no route to any pod.
pub(super) fn outside(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(203, 0, 113, 1).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1).into(),
    }
}

fn subnet(node: u16, family: Family) -> IpNet {
    match family {
        Family::V4 => v4_net([10, 244, node.to_be_bytes()[1], 0], 24),
        Family::V6 => v6_net([0xfd00, 0x10, 0x244, as_written(node), 0, 0, 0, 0], 64),
    }
}

/// The hexadecimal number that is written like `number` in decimal, so that node 12 is `::12` as
/// well as `.12`. Numbers to 9999 fit.
fn as_written(number: u16) -> u16 {
    (number / 1000 % 10) << 12 | (number / 100 % 10) << 8 | (number / 10 % 10) << 4 | (number % 10)
}

fn v4_net(octets: [u8; 4], len: u8) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(octets.into(), len))
}

fn v6_net(groups: [u16; 8], len: u8) -> IpNet {
    IpNet::V6(Ipv6Net::new_assert(groups.into(), len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_the_ones_everybody_learns_with() {
        let plan = plan(Families::Dual, Family::V4);
        assert_eq!(plan.node_address(1).to_string(), "192.168.1.11");
        assert_eq!(plan.node_address_in(12, Family::V6).to_string(), "fd00:192:168:1::22");
        assert_eq!(
            plan.subnets(3).iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["10.244.3.0/24", "fd00:10:244:3::/64"]
        );
        assert_eq!(
            plan.cluster_networks().iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["10.244.0.0/16", "fd00:10:244::/48"]
        );
        assert_eq!(plan.namespace(Place::Pod(1, 2)), "lab-node1-pod2");
    }

    #[test]
    fn no_two_nodes_share_an_address_or_a_subnet() {
        let plan = plan(Families::Dual, Family::V6);
        let networks = plan.cluster_networks();
        let mut seen = std::collections::BTreeSet::new();
        for node in 1..=MAX_NODES {
            assert!(seen.insert(plan.node_address_in(node, Family::V4).to_string()));
            assert!(seen.insert(plan.node_address(node).to_string()));
            for (subnet, network) in plan.subnets(node).iter().zip(&networks) {
                assert!(network.contains(subnet), "{subnet} in {network}");
                assert!(seen.insert(subnet.to_string()));
            }
        }
        assert!(!seen.contains("192.168.1.1"));
    }

    #[test]
    fn too_many_nodes_are_refused_with_the_limit() {
        let mut plan = plan(Families::Ipv4, Family::V4);
        plan.nodes = MAX_NODES + 1;
        assert!(plan.check().unwrap_err().to_string().contains("1 to 200 nodes, not 201"));
    }

    #[test]
    fn names_of_places_read_back() {
        for place in [Place::Switch, Place::Node(1), Place::Node(200), Place::Pod(12, 250)] {
            assert_eq!(place.to_string().parse::<Place>().unwrap(), place);
            assert_eq!(place_of("lab", &namespace("lab", place)), Some(place));
        }
        for text in ["", "node", "node0", "node01", "node1-", "node1-pod", "node+1", "pod1", "1"] {
            assert!(text.parse::<Place>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_lab_does_not_claim_what_belongs_to_another() {
        assert_eq!(place_of("lab", "lab2-node1"), None);
        assert_eq!(place_of("lab", "lab-2-node1"), None);
        assert_eq!(place_of("lab", "label-switch"), None);
        assert_eq!(place_of("lab", "lab"), None);
    }

    #[test]
    fn names_that_cannot_name_a_namespace_are_refused() {
        for name in ["", "-a", "A", "a/b", "a.b", "a b", &"a".repeat(41)] {
            assert!(check_name(name).is_err(), "{name}");
        }
        check_name("a-1").unwrap();
    }

    fn plan(families: Families, underlay: Family) -> Plan {
        Plan { name: "lab".into(), nodes: 3, pods: 2, families, underlay, underlay_mtu: 1500 }
    }
}
