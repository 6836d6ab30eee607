//! The node's nftables table: what it says, as a value.
//!
//! The tunnel's own datagrams are not tracked, because one entry per flow of every pod would fill
//! the connection table; traffic that leaves the cluster is masqueraded. Pod to pod, and node to
//! pod, is never translated. No pod reaches a tunnel's port of a node: nodes know one another by
//! their addresses, which a pod can write into a packet, or get by masquerade. What pods may tell the
//! node of packets that are too long is in `path_errors`.
//!
//! Not here: accepting forwarded traffic. A `FORWARD` chain elsewhere whose policy is drop, such as
//! Docker's, drops what it drops whatever another table accepts; the administrator has to allow the
//! cluster network there.

use ipnet::IpNet;

use super::{NodeSpec, path_errors};
use crate::platform::nft::{
    Base, Chain, ChainKind, Comparison, Element, Expression, Family, Field, Hook, KeyPart,
    Membership, Meta, Register, Set, Table, Verdict,
};

/// Name of the table, which is ours alone.
pub(super) const TABLE_NAME: &str = "culvert";

/// Its family: one table for IPv4 and IPv6.
pub(super) const FAMILY: Family = Family::Inet;

/// The table with its family, as the program `nft` names it.
pub(super) const TABLE: &str = "inet culvert";

/// Name of the set of UDP ports that tunnels use.
const TUNNEL_PORTS: &str = "tunnel_ports";

/// `NF_IP_PRI_RAW`: before connections are tracked.
const RAW: i32 = -300;

/// `NF_IP_PRI_NAT_SRC`.
const SOURCE_NAT: i32 = 100;

/// `IPPROTO_UDP`.
const UDP: u8 = 17;

const UDP_DESTINATION: Field = Field { base: Base::Transport, offset: 2, len: 2 };

/// The table of the node that `spec` describes.
pub(super) fn ruleset(spec: &NodeSpec) -> Table {
    let families = families(spec);
    let mut sets = Vec::new();
    for family in &families {
        if family.translated {
            sets.push(family.set(&family.local_set(), &family.local));
        }
        sets.push(family.set(&family.cluster_set(), &family.cluster));
    }
    sets.push(Set {
        name: TUNNEL_PORTS.to_owned(),
        key: vec![KeyPart::Service],
        is_interval: false,
        can_expire: false,
        elements: spec
            .underlay_ports
            .iter()
            .map(|port| Element::of(&[&port.to_be_bytes()]))
            .collect(),
    });
    let mut chains =
        vec![prerouting(spec, &families), output(), path_errors::input(spec, &families)];
    let translations: Vec<_> =
        families.iter().filter(|family| family.translated).map(translation).collect();
    if !translations.is_empty() {
        chains.push(Chain {
            name: "postrouting",
            kind: ChainKind::Nat,
            hook: Hook::Postrouting,
            priority: SOURCE_NAT,
            rules: translations,
        });
    }
    Table { family: FAMILY, name: TABLE_NAME, sets, chains }
}

fn prerouting(spec: &NodeSpec, families: &[ClusterFamily]) -> Chain {
    let from_pods = Expression::input_name(Comparison::Equal, &spec.bridge);
    // Among themselves pods use the ports as they like. Accepting ends this chain only.
    let mut rules: Vec<_> = families
        .iter()
        .map(|family| {
            let to_cluster = Expression::field_in(
                family.destination(),
                Membership::Inside,
                &family.cluster_set(),
            );
            [
                &from_pods[..],
                &to_tunnel(),
                &family.is_family(),
                &to_cluster,
                &[Expression::Verdict(Verdict::Accept)],
            ]
            .concat()
        })
        .collect();
    rules.push([&from_pods[..], &to_tunnel(), &[Expression::Verdict(Verdict::Drop)]].concat());
    // What arrives from the tunnel to such a port is somebody's payload, not ours.
    let not_inner = Expression::input_name(Comparison::NotEqual, &spec.tun);
    rules.push([&to_tunnel()[..], &not_inner, &[Expression::NoTrack]].concat());
    Chain {
        name: "prerouting",
        kind: ChainKind::Filter,
        hook: Hook::Prerouting,
        priority: RAW,
        rules,
    }
}

fn output() -> Chain {
    Chain {
        name: "output",
        kind: ChainKind::Filter,
        hook: Hook::Output,
        priority: RAW,
        rules: vec![[&to_tunnel()[..], &[Expression::NoTrack]].concat()],
    }
}

/// Matches what goes to a tunnel's port.
fn to_tunnel() -> [Expression; 4] {
    let [protocol, is_udp] = Expression::upper_protocol_is(UDP);
    let [port, is_tunnel] = Expression::field_in(UDP_DESTINATION, Membership::Inside, TUNNEL_PORTS);
    [protocol, is_udp, port, is_tunnel]
}

/// Masquerades what pods send to the outside.
fn translation(family: &ClusterFamily) -> Vec<Expression> {
    let from_here = Expression::field_in(family.source(), Membership::Inside, &family.local_set());
    let to_outside =
        Expression::field_in(family.destination(), Membership::Outside, &family.cluster_set());
    let [multicast, mask] = family.multicast();
    let to_one = [
        Expression::Payload(family.destination(), Register::One),
        Expression::Mask(mask),
        Expression::Compare(Comparison::NotEqual, multicast),
    ];
    [
        &family.is_family()[..],
        &from_here,
        &to_outside,
        &to_one,
        // Fully random: two flows that race for one source port lose packets (DNS waits 5 s).
        &[Expression::Masquerade],
    ]
    .concat()
}

/// One address family that the cluster has a network of.
pub(super) struct ClusterFamily {
    pub(super) is_ipv4: bool,
    /// Whether what local pods send to the outside is masqueraded.
    translated: bool,
    local: Vec<IpNet>,
    cluster: Vec<IpNet>,
}

impl ClusterFamily {
    fn local_set(&self) -> String {
        format!("local_{}", self.suffix())
    }

    pub(super) fn cluster_set(&self) -> String {
        format!("cluster_{}", self.suffix())
    }

    const fn suffix(&self) -> &'static str {
        if self.is_ipv4 { "v4" } else { "v6" }
    }

    /// Matches packets of the family (`NFPROTO_IPV4`, `NFPROTO_IPV6`).
    fn is_family(&self) -> [Expression; 2] {
        Self::is_ip(self.is_ipv4)
    }

    pub(super) fn is_ip(is_ipv4: bool) -> [Expression; 2] {
        let number = if is_ipv4 { 2 } else { 10 };
        [
            Expression::Meta(Meta::Family, Register::One),
            Expression::Compare(Comparison::Equal, vec![number]),
        ]
    }

    const fn source(&self) -> Field {
        let (offset, len) = if self.is_ipv4 { (12, 4) } else { (8, 16) };
        Field { base: Base::Network, offset, len }
    }

    pub(super) const fn destination(&self) -> Field {
        let (offset, len) = if self.is_ipv4 { (16, 4) } else { (24, 16) };
        Field { base: Base::Network, offset, len }
    }

    /// Destinations that have no single answering host, as prefix and mask: 224.0.0.0/4, ff00::/8.
    fn multicast(&self) -> [Vec<u8>; 2] {
        let (len, prefix, mask) = if self.is_ipv4 { (4, 0xe0, 0xf0) } else { (16, 0xff, 0xff) };
        [prefix, mask].map(|first| {
            let mut bytes = vec![0; len];
            bytes[0] = first;
            bytes
        })
    }

    fn set(&self, name: &str, networks: &[IpNet]) -> Set {
        Set {
            name: name.to_owned(),
            key: vec![if self.is_ipv4 { KeyPart::Ipv4Address } else { KeyPart::Ipv6Address }],
            is_interval: true,
            can_expire: false,
            elements: networks
                .iter()
                .flat_map(|network| match network {
                    IpNet::V4(net) => {
                        Element::interval(&net.network().octets(), &net.broadcast().octets())
                    }
                    IpNet::V6(net) => {
                        Element::interval(&net.network().octets(), &net.broadcast().octets())
                    }
                })
                .collect(),
        }
    }
}

/// The families of the cluster, IPv4 first.
fn families(spec: &NodeSpec) -> Vec<ClusterFamily> {
    [true, false]
        .into_iter()
        .map(|is_ipv4| {
            let of = |networks: &[IpNet]| {
                let networks: Vec<IpNet> = networks
                    .iter()
                    .filter(|network| network.addr().is_ipv4() == is_ipv4)
                    .map(IpNet::trunc)
                    .collect();
                // An interval set refuses elements that overlap.
                IpNet::aggregate(&networks)
            };
            let local = of(&spec.local_subnets);
            ClusterFamily {
                is_ipv4,
                translated: spec.masquerade && !local.is_empty(),
                local,
                cluster: of(&spec.cluster_networks),
            }
        })
        .filter(|family| !family.cluster.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::node::fixture::{net, spec};

    fn chain_names(table: &Table) -> Vec<&str> {
        table.chains.iter().map(|chain| chain.name).collect()
    }

    #[test]
    fn both_families_are_translated_and_kept_from_the_tunnel() {
        let table = ruleset(&spec());
        let sets: Vec<_> = table.sets.iter().map(|set| set.name.as_str()).collect();
        assert_eq!(sets, ["local_v4", "cluster_v4", "local_v6", "cluster_v6", TUNNEL_PORTS]);
        assert_eq!(chain_names(&table), ["prerouting", "output", "input", "postrouting"]);
        let rules: Vec<_> = table.chains.iter().map(|chain| chain.rules.len()).collect();
        assert_eq!(rules, [4, 1, 8, 2]);
    }

    #[test]
    fn without_masquerade_nothing_is_translated() {
        let table = ruleset(&NodeSpec { masquerade: false, ..spec() });
        assert_eq!(chain_names(&table), ["prerouting", "output", "input"]);
        assert!(table.sets.iter().all(|set| !set.name.starts_with("local_")));
    }

    #[test]
    fn overlapping_and_adjacent_subnets_are_joined() {
        let table = ruleset(&NodeSpec {
            local_subnets: ["10.244.3.0/24", "10.244.2.0/24", "10.244.2.128/25"].map(net).into(),
            ..spec()
        });
        let expected = Element::interval(&[10, 244, 2, 0], &[10, 244, 3, 255]);
        assert_eq!(table.sets[0].elements, expected);
    }

    #[test]
    fn pods_are_kept_from_the_ports_of_every_codec() {
        let table = ruleset(&NodeSpec { underlay_ports: vec![4790, 8472, 8285], ..spec() });
        let ports = table.sets.iter().find(|set| set.name == TUNNEL_PORTS).unwrap();
        let keys: Vec<_> = ports.elements.iter().map(|element| element.key.clone()).collect();
        assert_eq!(keys, [4790_u16, 8472, 8285].map(|port| port.to_be_bytes().to_vec()));
    }
}
