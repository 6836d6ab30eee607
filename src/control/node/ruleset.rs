//! The node's nftables table: what it says, as a value.
//!
//! Nodes know one another by their addresses, so nobody but a node's daemon may send to a tunnel's
//! port under an address of the node. A pod can write any address into a packet or get the node's
//! by masquerade, an unprivileged process has the node's anyway, and a service address can turn a
//! harmless packet into one for a tunnel. The table stops all of these: pods by the device that
//! they come by, processes by the mark that only the daemon's sockets have, translated packets by
//! the connection that a tunnel's own datagrams never have.
//!
//! IPv6 lets any process send from any address (`IPV6_FREEBIND`), a pod's as well, or another
//! node's. The table leaves that to root.
//!
//! Those datagrams are not tracked, because one entry per flow of every pod would fill the
//! connection table. Traffic that leaves the cluster is masqueraded; what cannot be is dropped. Pod
//! to pod, and node to pod, is never translated.
//!
//! Not here: accepting forwarded traffic. A `FORWARD` chain elsewhere whose policy is drop, such as
//! Docker's, drops what it drops whatever another table accepts; the administrator has to allow the
//! cluster network there.

use std::collections::BTreeSet;
use std::net::IpAddr;

use culvert_dataplane::platform::udp::SOCKET_MARK;
use culvert_nft::{
    Base, Chain, ChainKind, Comparison, Element, Expression, Field, Hook, KeyPart, Membership,
    Place, Register, Set, Table, TableFamily, Verdict,
};
use culvert_node::node_file::gateway;
use culvert_node::pod_port::DEVICE_GROUP;
use ipnet::IpNet;
use overlay_proto::Family;
use overlay_proto::oam::REFLECTOR_PORT;

use super::{NodeSpec, path_errors};

/// Name of the table, which is ours alone.
pub(super) const TABLE_NAME: &str = "culvert";

/// Its family: one table for IPv4 and IPv6.
pub(super) const FAMILY: TableFamily = TableFamily::Inet;

/// The table with its family, as the program `nft` names it.
pub(super) const TABLE: &str = "inet culvert";

/// Name of the set of UDP ports that this node's tunnels use.
const TUNNEL_PORTS: &str = "tunnel_ports";

/// Name of the set of UDP ports of all codecs: whatever this node's table says, another node may
/// listen there.
const CODEC_PORTS: &str = "codec_ports";

/// Name of the set of IPv6 addresses that this node has in its subnets.
const OWN_ADDRESSES: &str = "own_v6";

/// `NF_IP_PRI_RAW`: before connections are tracked.
const RAW: i32 = -300;

/// `NF_IP_PRI_NAT_SRC`.
const SOURCE_NAT: i32 = 100;

/// `NF_IP_PRI_FILTER`.
pub(super) const FILTER: i32 = 0;

/// `IPPROTO_UDP`.
const UDP: u8 = 17;

/// The first half of an IPv6 packet's source, and that of the link-local addresses.
const IPV6_SOURCE_PREFIX: Field = Field { base: Base::Network, offset: 8, len: 8 };
const LINK_LOCAL: [u8; 8] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0];

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
    let in_use: BTreeSet<u16> = spec.underlay_ports.iter().copied().collect();
    let of_any_codec = spec.codec_ports.iter().copied().chain(in_use.clone()).collect();
    sets.extend([port_set(TUNNEL_PORTS, &in_use), port_set(CODEC_PORTS, &of_any_codec)]);
    let mut chains = vec![
        prerouting(spec, &families),
        input(),
        path_errors::chain(spec, &families),
        output(spec, &families),
        arrivals(spec, &families),
    ];
    let ipv6 = families.iter().find(|cluster| cluster.family == Family::V6);
    if ipv6.is_some() {
        sets.push(own_addresses(spec));
    }
    chains.push(sources(spec, ipv6));
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
    chains.push(after_translation(spec, &families));
    Table { family: FAMILY, name: TABLE_NAME, sets, chains, led_to: Vec::new() }
}

fn port_set(name: &str, ports: &BTreeSet<u16>) -> Set {
    Set {
        name: name.to_owned(),
        key: vec![KeyPart::Service],
        is_interval: false,
        can_expire: false,
        decides: false,
        elements: ports.iter().map(|port| Element::of(&[&port.to_be_bytes()])).collect(),
    }
}

pub(super) const ACCEPT: [Expression; 1] = [Expression::Verdict(Verdict::Accept)];
pub(super) const DROP: [Expression; 2] = [Expression::Counter, Expression::Verdict(Verdict::Drop)];

/// What comes in, before it is tracked. All but UDP is through after the second rule.
fn prerouting(spec: &NodeSpec, families: &[ClusterFamily]) -> Chain {
    let from_pods = Expression::input_name(Comparison::Equal, &spec.bridge);
    let not_from_pods = Expression::input_name(Comparison::NotEqual, &spec.bridge);
    // What arrives from the tunnel to such a port is somebody's payload, not ours.
    let not_inner = Expression::input_name(Comparison::NotEqual, &spec.tun);
    let mut rules = vec![
        // By the bridge a packet has the bridge as its device, so this one passed no rule for pods.
        [&Expression::input_group_is(DEVICE_GROUP)[..], &DROP].concat(),
        [&Expression::upper_protocol(Comparison::NotEqual, UDP)[..], &ACCEPT].concat(),
        [&not_from_pods[..], &not_inner, &port_in(TUNNEL_PORTS), &[Expression::NoTrack], &ACCEPT]
            .concat(),
    ];
    // Among themselves pods use the ports as they like. Accepting ends this chain only.
    rules.extend(families.iter().map(|family| {
        [&from_pods[..], &port_in(CODEC_PORTS), &family.to_cluster(), &ACCEPT].concat()
    }));
    rules.push([&from_pods[..], &port_in(CODEC_PORTS), &DROP].concat());
    Chain {
        name: "prerouting",
        kind: ChainKind::Filter,
        hook: Hook::Prerouting,
        priority: RAW,
        rules,
    }
}

/// What comes in for this node: a tunnel's datagram that is tracked was sent to something else and
/// got here by translation.
fn input() -> Chain {
    let rule = [&udp_port_in(TUNNEL_PORTS)[..], &Expression::is_tracked(), &DROP].concat();
    Chain {
        name: "input",
        kind: ChainKind::Filter,
        hook: Hook::Input,
        priority: FILTER,
        rules: vec![rule],
    }
}

/// What comes in by no device of ours and goes on to others. Packets of other nodes' pods come by
/// the tunnel, which knows whose they are; those of this node's by the bridge. So what comes
/// otherwise is from no pod. Who has a route of his own to pods may use it, except where nodes
/// speak sealed alone: there pods hear the outside when they have asked it, or as a service.
fn arrivals(spec: &NodeSpec, families: &[ClusterFamily]) -> Chain {
    let by = |device: &str| Expression::input_name(Comparison::Equal, device);
    let devices = [&spec.bridge, &spec.tun].into_iter().chain(predecessor(spec));
    let mut rules: Vec<Vec<Expression>> =
        devices.map(|device| [&by(device)[..], &ACCEPT].concat()).collect();
    // kernel: a packet from outside under an address of this machine is noticed for IPv4 only.
    rules.push([&Expression::is_from_here()[..], &DROP].concat());
    let to_service = [&Expression::is_to_service()[..], &ACCEPT].concat();
    if !spec.masquerade {
        // Another node's pod may ask this node for a service under its own address.
        rules.push(to_service.clone());
    }
    rules.extend(families.iter().map(|family| [&family.of_cluster()[..], &DROP].concat()));
    if spec.sealed_only {
        rules.push(to_service);
        rules.push([&Expression::is_reply()[..], &ACCEPT].concat());
        rules.extend(families.iter().map(|family| [&family.to_cluster()[..], &DROP].concat()));
    }
    Chain {
        name: "arrivals",
        kind: ChainKind::Filter,
        hook: Hook::Forward,
        priority: FILTER,
        rules,
    }
}

/// What this node sends, before anybody can change its mark: to a tunnel's port of another node
/// nobody sends but the daemon.
///
/// While a predecessor carries, what it sends has no process: root's and the kernel's passes then.
fn output(spec: &NodeSpec, families: &[ClusterFamily]) -> Chain {
    let is_daemon = Expression::mark_is(SOCKET_MARK);
    let mut rules = vec![
        [&Expression::upper_protocol(Comparison::NotEqual, UDP)[..], &ACCEPT].concat(),
        // Of any codec: this node may speak sealed alone, and others not yet.
        [&Expression::field_in(UDP_DESTINATION, Membership::Outside, CODEC_PORTS)[..], &ACCEPT]
            .concat(),
        [&is_daemon[..], &[Expression::NoTrack], &ACCEPT].concat(),
    ];
    // Pods use the ports as they like, so the node's processes may talk to them.
    rules.extend(families.iter().map(|family| [&family.to_cluster()[..], &ACCEPT].concat()));
    if predecessor(spec).is_some() {
        rules.push([&Expression::is_unprivileged()[..], &DROP].concat());
        rules.push([&[Expression::NoTrack][..], &ACCEPT].concat());
    } else {
        rules.push(DROP.to_vec());
    }
    Chain { name: "output", kind: ChainKind::Filter, hook: Hook::Output, priority: RAW, rules }
}

/// The device beside ours that carries yet.
fn predecessor(spec: &NodeSpec) -> Option<&String> {
    spec.predecessor.as_ref().filter(|before| before.carries).map(|before| &before.device)
}

/// What this node's processes send: from addresses of the pod networks only if they are its own, to
/// its pods from no address but this machine's, and to other nodes nothing that these take for a
/// question of this one's daemon. What a proxy in the kernel sends on has no
/// process, nor has what the kernel itself tells its neighbours.
fn sources(spec: &NodeSpec, ipv6: Option<&ClusterFamily>) -> Chain {
    let is_ipv6 = ClusterFamily::is_ip(Family::V6);
    let is_process = Expression::is_unprivileged();
    let in_cluster = ipv6.map(|family| {
        let cluster =
            Expression::field_in(family.source(), Membership::Inside, &family.cluster_set());
        let foreign = Expression::field_in(family.source(), Membership::Outside, OWN_ADDRESSES);
        [&is_process[..], &is_ipv6, &cluster, &foreign, &DROP].concat()
    });
    // The daemon's own leave by its sockets, and not by the TUN.
    let questions = [
        &Expression::output_name(Comparison::Equal, &spec.tun)[..],
        &is_process,
        &Expression::upper_protocol_is(UDP),
        &Expression::field_is(UDP_DESTINATION, &REFLECTOR_PORT.to_be_bytes()),
        &DROP,
    ]
    .concat();
    let to_pods = Expression::output_name(Comparison::Equal, &spec.bridge);
    let link_local = |comparison| {
        [
            Expression::Payload(IPV6_SOURCE_PREFIX, Register::One),
            Expression::Compare(comparison, LINK_LOCAL.to_vec()),
        ]
    };
    // A link-local address is one device's, any other the whole machine's.
    let to_pods =
        [(Comparison::Equal, Place::OutputDevice), (Comparison::NotEqual, Place::Anywhere)].map(
            |(comparison, place)| {
                let from_elsewhere = Expression::is_from_elsewhere(place);
                let source = link_local(comparison);
                [&to_pods[..], &is_process, &is_ipv6, &source, &from_elsewhere, &DROP].concat()
            },
        );
    Chain {
        name: "sources",
        kind: ChainKind::Filter,
        hook: Hook::Output,
        priority: FILTER,
        // kernel: IPv4 refuses to send from what is no address of the machine.
        rules: in_cluster.into_iter().chain([questions]).chain(to_pods).collect(),
    }
}

/// The addresses that this node has in its own subnets: the TUN's and the bridge's.
fn own_addresses(spec: &NodeSpec) -> Set {
    let elements: BTreeSet<_> = spec
        .local_subnets
        .iter()
        .flat_map(|subnet| [subnet.network(), gateway(subnet).addr()])
        .filter_map(|address| match address {
            IpAddr::V6(address) => Some(address.octets()),
            IpAddr::V4(_) => None,
        })
        .collect();
    Set {
        name: OWN_ADDRESSES.to_owned(),
        key: vec![KeyPart::Ipv6Address],
        is_interval: false,
        can_expire: false,
        decides: false,
        elements: elements.iter().map(|address| Element::of(&[address])).collect(),
    }
}

/// What leaves by another device than ours, under the addresses and ports that it leaves with.
fn after_translation(spec: &NodeSpec, families: &[ClusterFamily]) -> Chain {
    let to_ours =
        |device: &str| [&Expression::output_name(Comparison::Equal, device)[..], &ACCEPT].concat();
    let mut rules = vec![to_ours(&spec.bridge), to_ours(&spec.tun)];
    // Pods use the ports as they like, by whatever way their packets take.
    rules.extend(families.iter().map(|family| [&family.to_cluster()[..], &ACCEPT].concat()));
    rules.push(
        // As in `input`: it was sent to another port or address, by a pod or by a process.
        [&udp_port_in(TUNNEL_PORTS)[..], &Expression::is_tracked(), &DROP].concat(),
    );
    let translated: Vec<_> = families.iter().filter(|family| family.translated).collect();
    if !translated.is_empty() {
        // Somebody outside reached the pod under its own address, by a route of the
        // administrator's.
        rules.push([&Expression::is_reply()[..], &ACCEPT].concat());
    }
    // Connection tracking does not translate what it calls invalid, nor what is not tracked.
    rules.extend(translated.iter().map(|family| [&family.pods_to_outside()[..], &DROP].concat()));
    Chain {
        name: "after_translation",
        kind: ChainKind::Filter,
        hook: Hook::Postrouting,
        priority: SOURCE_NAT + 1,
        rules,
    }
}

/// Matches UDP, of which all there is at this place, to a port of the set.
fn port_in(set: &str) -> [Expression; 2] {
    Expression::field_in(UDP_DESTINATION, Membership::Inside, set)
}

/// Matches UDP to a port of the set.
fn udp_port_in(set: &str) -> [Expression; 4] {
    let [protocol, is_udp] = Expression::upper_protocol_is(UDP);
    let [port, is_in] = port_in(set);
    [protocol, is_udp, port, is_in]
}

/// Masquerades what pods send to the outside.
fn translation(family: &ClusterFamily) -> Vec<Expression> {
    // Fully random: two flows that race for one source port lose packets (DNS waits 5 s).
    [&family.pods_to_outside()[..], &[Expression::Masquerade]].concat()
}

/// One address family that the cluster has a network of.
pub(super) struct ClusterFamily {
    pub(super) family: Family,
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
        match self.family {
            Family::V4 => "v4",
            Family::V6 => "v6",
        }
    }

    /// Matches packets of the family (`NFPROTO_IPV4`, `NFPROTO_IPV6`).
    fn is_family(&self) -> [Expression; 2] {
        Self::is_ip(self.family)
    }

    pub(super) fn is_ip(family: Family) -> [Expression; 2] {
        match family {
            Family::V4 => Expression::is_ipv4(),
            Family::V6 => Expression::is_ipv6(),
        }
    }

    /// Matches what bears an address of the cluster as its source.
    fn of_cluster(&self) -> Vec<Expression> {
        let source = Expression::field_in(self.source(), Membership::Inside, &self.cluster_set());
        [self.is_family(), source].concat()
    }

    /// Matches what goes to the cluster.
    fn to_cluster(&self) -> Vec<Expression> {
        let destination =
            Expression::field_in(self.destination(), Membership::Inside, &self.cluster_set());
        [self.is_family(), destination].concat()
    }

    /// Matches what bears the address of a pod of this node and goes to one host outside the
    /// cluster.
    fn pods_to_outside(&self) -> Vec<Expression> {
        let from_here = Expression::field_in(self.source(), Membership::Inside, &self.local_set());
        let to_outside =
            Expression::field_in(self.destination(), Membership::Outside, &self.cluster_set());
        let [multicast, mask] = self.multicast();
        let to_one = [
            Expression::Payload(self.destination(), Register::One),
            Expression::Mask(mask),
            Expression::Compare(Comparison::NotEqual, multicast),
        ];
        [&self.is_family()[..], &from_here, &to_outside, &to_one].concat()
    }

    const fn source(&self) -> Field {
        let (offset, len) = match self.family {
            Family::V4 => (12, 4),
            Family::V6 => (8, 16),
        };
        Field { base: Base::Network, offset, len }
    }

    pub(super) const fn destination(&self) -> Field {
        let (offset, len) = match self.family {
            Family::V4 => (16, 4),
            Family::V6 => (24, 16),
        };
        Field { base: Base::Network, offset, len }
    }

    /// Destinations that have no single answering host, as prefix and mask: 224.0.0.0/4, ff00::/8.
    fn multicast(&self) -> [Vec<u8>; 2] {
        let (len, prefix, mask) = match self.family {
            Family::V4 => (4, 0xe0, 0xf0),
            Family::V6 => (16, 0xff, 0xff),
        };
        [prefix, mask].map(|first| {
            let mut bytes = vec![0; len];
            bytes[0] = first;
            bytes
        })
    }

    fn set(&self, name: &str, networks: &[IpNet]) -> Set {
        let address = match self.family {
            Family::V4 => KeyPart::Ipv4Address,
            Family::V6 => KeyPart::Ipv6Address,
        };
        Set {
            name: name.to_owned(),
            key: vec![address],
            is_interval: true,
            can_expire: false,
            decides: false,
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
    Family::BOTH
        .into_iter()
        .map(|family| {
            let of = |networks: &[IpNet]| {
                let networks: Vec<IpNet> = networks
                    .iter()
                    .filter(|network| Family::of(network.addr()) == family)
                    .map(IpNet::trunc)
                    .collect();
                // An interval set refuses elements that overlap.
                IpNet::aggregate(&networks)
            };
            let local = of(&spec.local_subnets);
            ClusterFamily {
                family,
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
    use crate::control::node::Predecessor;
    use crate::control::node::fixture::{net, spec};

    fn chain_names(table: &Table) -> Vec<&str> {
        table.chains.iter().map(|chain| chain.name).collect()
    }

    #[test]
    fn both_families_are_translated_and_kept_from_the_tunnel() {
        let table = ruleset(&spec());
        let sets: Vec<_> = table.sets.iter().map(|set| set.name.as_str()).collect();
        let expected = [
            "local_v4",
            "cluster_v4",
            "local_v6",
            "cluster_v6",
            TUNNEL_PORTS,
            CODEC_PORTS,
            "own_v6",
        ];
        assert_eq!(sets, expected);
        let expected = [
            "prerouting",
            "input",
            "path_errors",
            "output",
            "arrivals",
            "sources",
            "postrouting",
            "after_translation",
        ];
        assert_eq!(chain_names(&table), expected);
        let rules: Vec<_> = table.chains.iter().map(|chain| chain.rules.len()).collect();
        assert_eq!(rules, [6, 1, 8, 6, 5, 4, 2, 8]);
    }

    #[test]
    fn what_carried_before_is_let_through_until_it_does_not_any_more() {
        let with = |carries| {
            let device = "flannel.1".to_owned();
            ruleset(&NodeSpec { predecessor: Some(Predecessor { device, carries }), ..spec() })
        };
        assert_eq!(with(false), ruleset(&spec()), "its name alone opens nothing");
        let chain = |table: &Table, name| {
            table.chains.iter().find(|chain| chain.name == name).unwrap().rules.clone()
        };
        let table = with(true);
        let from = Expression::input_name(Comparison::Equal, "flannel.1");
        assert_eq!(chain(&table, "arrivals")[2], [&from[..], &ACCEPT].concat());
        let output = chain(&table, "output");
        let dropped = [&Expression::is_unprivileged()[..], &DROP].concat();
        assert_eq!(output[output.len() - 2], dropped, "no process gets a way out by that");
    }

    #[test]
    fn without_masquerade_nothing_is_translated() {
        let table = ruleset(&NodeSpec { masquerade: false, ..spec() });
        let expected = [
            "prerouting",
            "input",
            "path_errors",
            "output",
            "arrivals",
            "sources",
            "after_translation",
        ];
        assert_eq!(chain_names(&table), expected);
        assert!(table.sets.iter().all(|set| !set.name.starts_with("local_")));
    }

    #[test]
    fn overlapping_and_adjacent_subnets_are_joined() {
        let table = ruleset(&NodeSpec {
            local_subnets: ["10.244.3.0/24", "10.244.2.0/24", "10.244.2.128/25"].map(net).into(),
            ..spec()
        });
        let expected = Element::interval(&[10, 244, 2, 0], &[10, 244, 3, 255]);
        assert_eq!(table.sets[0].elements, expected.into_iter().collect());
    }

    #[test]
    fn addresses_of_the_nodes_processes_are_those_of_tun_and_bridge() {
        let own = ruleset(&spec()).sets.pop().unwrap();
        let addresses =
            ["fd00:10:244:1::", "fd00:10:244:1::1"].map(|text| net(&format!("{text}/128")));
        let expected = addresses.map(|net| match net.addr() {
            IpAddr::V6(address) => Element::of(&[&address.octets()]),
            IpAddr::V4(_) => unreachable!("there is none"),
        });
        assert_eq!(own.elements, expected.into_iter().collect());
        let ipv4 = |nets: Vec<IpNet>| nets.into_iter().filter(|net| net.addr().is_ipv4()).collect();
        let table = ruleset(&NodeSpec {
            cluster_networks: ipv4(spec().cluster_networks),
            local_subnets: ipv4(spec().local_subnets),
            ..spec()
        });
        assert!(table.sets.iter().all(|set| set.name != OWN_ADDRESSES));
        let sources = table.chains.iter().find(|chain| chain.name == "sources").unwrap();
        assert_eq!(sources.rules.len(), 3, "what goes to bridge and TUN, whatever the families");
    }

    #[test]
    fn pods_are_kept_from_the_ports_of_every_codec() {
        let table = ruleset(&NodeSpec { underlay_ports: vec![4790, 9999], ..spec() });
        let ports = |name| {
            let set = table.sets.iter().find(|set| set.name == name).unwrap();
            set.elements.iter().map(|element| element.key.clone()).collect::<Vec<_>>()
        };
        let keys = |ports: &[u16]| {
            ports.iter().map(|port| port.to_be_bytes().to_vec()).collect::<Vec<_>>()
        };
        assert_eq!(ports(TUNNEL_PORTS), keys(&[4790, 9999]));
        assert_eq!(ports(CODEC_PORTS), keys(&[4790, 8285, 8472, 9999]));
    }
}
