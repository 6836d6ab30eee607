//! The table: what leads from a port of the node to a pod, and what brings the answers back.
//!
//! A packet for an address of this machine is looked up by address and port, then by port alone,
//! and goes to the chain of the pod that has it, which translates. Who calls is seen by the pod as
//! he is, but for two: a pod of this node would be answered past the node, and 127.0.0.1 is nobody
//! whom a pod could answer. Both are marked and seem to be the bridge.

use std::collections::BTreeSet;
use std::net::IpAddr;

use culvert_nft::{
    Base, Chain, ChainKind, Comparison, Element, Expression, Field, Hook, KeyPart, LedTo,
    Membership, Meta, Register, Set, Table, Verdict,
};
use ipnet::IpNet;

use super::{FAMILY, HostPort, PodPorts, TABLE};

/// `NF_IP_PRI_RAW`, `NF_IP_PRI_NAT_DST`, `NF_IP_PRI_NAT_SRC`.
const RAW: i32 = -300;
const DESTINATION_NAT: i32 = -100;
const SOURCE_NAT: i32 = 100;

/// The bit in a packet's mark by which postrouting knows what seems to come from the bridge: that
/// of the stock plugin `portmap` (its `markMasqBit`, 13), which whoever else marks packets of pods
/// leaves alone. It is on the first packet of a connection only.
const MARK: u32 = 1 << 13;

/// The maps: by port; by address and port.
pub(super) const PORTS: &str = "ports";
pub(super) const PORTS_V4: &str = "ports_v4";
pub(super) const PORTS_V6: &str = "ports_v6";

/// What protocol and port take at the end of each map's key, as the kernel fills parts up.
pub(super) const PORT_KEY_LEN: usize = 8;

/// The pod subnets of this node.
const SUBNETS_V4: &str = "subnets_v4";
const SUBNETS_V6: &str = "subnets_v6";

/// The chain that marks what has to seem to come from the bridge.
const MARKING: &str = "marking";

const IPV4_SOURCE: Field = Field { base: Base::Network, offset: 12, len: 4 };
const IPV4_DESTINATION: Field = Field { base: Base::Network, offset: 16, len: 4 };
const IPV6_SOURCE: Field = Field { base: Base::Network, offset: 8, len: 16 };
const IPV6_DESTINATION: Field = Field { base: Base::Network, offset: 24, len: 16 };
/// First byte of an IPv4 address: 127 for all that mean this machine.
const IPV4_SOURCE_NET: Field = Field { len: 1, ..IPV4_SOURCE };
const IPV4_DESTINATION_NET: Field = Field { len: 1, ..IPV4_DESTINATION };
const LOOPBACK_NET: [u8; 1] = [127];
/// ::1, which no packet to a pod may come from; kernel: IPv6 knows no `route_localnet`.
const LOOPBACK_V6: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const DESTINATION_PORT: Field = Field { base: Base::Transport, offset: 2, len: 2 };

/// The whole table for these pods behind the bridge called `bridge`, whose subnets are `subnets`.
#[must_use]
pub fn table(pods: &[PodPorts], bridge: &str, subnets: &[IpNet]) -> Table {
    // An interval set refuses elements that overlap.
    let subnets = IpNet::aggregate(&subnets.iter().map(IpNet::trunc).collect());
    let intervals = |is_ipv4: bool| {
        let of_family = subnets.iter().filter(move |subnet| subnet.addr().is_ipv4() == is_ipv4);
        of_family.flat_map(interval).collect()
    };
    let set = |name: &str, key: &[KeyPart], elements| Set {
        name: name.to_owned(),
        key: key.to_vec(),
        is_interval: true,
        can_expire: false,
        decides: false,
        elements,
    };
    let map = |name: &str, key: &[KeyPart]| {
        let mut keys = BTreeSet::new();
        let own = pods.iter().flat_map(elements).filter(|(map, _element)| *map == name);
        // The kernel refuses a second pod for a port, and then the whole table.
        let own = own.filter(|(_map, element)| keys.insert(element.key.clone()));
        let elements = own.map(|(_map, element)| element).collect();
        Set { is_interval: false, decides: true, ..set(name, key, elements) }
    };
    let chain = |name, kind, hook, priority, rules| Chain { name, kind, hook, priority, rules };
    let marking = LedTo { name: MARKING.to_owned(), rules: marking().into() };
    Table {
        family: FAMILY,
        name: TABLE,
        sets: vec![
            map(PORTS, &[KeyPart::Protocol, KeyPart::Service]),
            map(PORTS_V4, &[KeyPart::Ipv4Address, KeyPart::Protocol, KeyPart::Service]),
            map(PORTS_V6, &[KeyPart::Ipv6Address, KeyPart::Protocol, KeyPart::Service]),
            set(SUBNETS_V4, &[KeyPart::Ipv4Address], intervals(true)),
            set(SUBNETS_V6, &[KeyPart::Ipv6Address], intervals(false)),
        ],
        chains: vec![
            chain("guard", ChainKind::Filter, Hook::Prerouting, RAW, guard(bridge)),
            chain("prerouting", ChainKind::Nat, Hook::Prerouting, DESTINATION_NAT, lookup()),
            chain("output", ChainKind::Nat, Hook::Output, DESTINATION_NAT, lookup()),
            chain("postrouting", ChainKind::Nat, Hook::Postrouting, SOURCE_NAT, seeming(bridge)),
        ],
        led_to: std::iter::once(marking).chain(pods.iter().map(chain_of)).collect(),
    }
}

/// What answers from a pod to 127.0.0.1 need is a bridge that takes packets for such addresses
/// (`route_localnet`). Pods are not to have that: they would reach what listens there only because
/// nobody else does. Answers pass here before their translation, and so are for the bridge.
fn guard(bridge: &str) -> Vec<Vec<Expression>> {
    let from_pods = Expression::input_name(Comparison::Equal, bridge);
    let drop = [Expression::Counter, Expression::Verdict(Verdict::Drop)];
    [IPV4_DESTINATION_NET, IPV4_SOURCE_NET]
        .map(|field| {
            let is_loopback = Expression::field_is(field, &LOOPBACK_NET);
            [&from_pods[..], &Expression::is_ipv4(), &is_loopback, &drop].concat()
        })
        .into()
}

/// Whose a port is, if the packet is for this machine.
fn lookup() -> Vec<Vec<Expression>> {
    let accept = [Expression::Verdict(Verdict::Accept)];
    let protocol_and_port = |first: u8| {
        [
            Expression::Meta(Meta::UpperProtocol, word(first)),
            Expression::Payload(DESTINATION_PORT, word(first + 1)),
        ]
    };
    let decide = |map: &str| [Expression::Decide(map.to_owned())];
    let by_address = |is_family: [Expression; 2], field, words, map| {
        let address = [Expression::Payload(field, Register::One)];
        [&is_family[..], &address, &protocol_and_port(words), &decide(map)].concat()
    };
    let is_loopback_v6 = Expression::field_is(IPV6_DESTINATION, &LOOPBACK_V6);
    vec![
        [&Expression::is_for_elsewhere()[..], &accept].concat(),
        [&Expression::is_ipv6()[..], &is_loopback_v6, &accept].concat(),
        by_address(Expression::is_ipv4(), IPV4_DESTINATION, 1, PORTS_V4),
        by_address(Expression::is_ipv6(), IPV6_DESTINATION, 4, PORTS_V6),
        [&protocol_and_port(0)[..], &decide(PORTS)].concat(),
    ]
}

/// The register of four bytes that many words into the key.
const fn word(place: u8) -> Register {
    Register::Word(place)
}

fn marking() -> Vec<Vec<Expression>> {
    let mark = Expression::set_mark_bits(MARK);
    let from_pods = |is_family: [Expression; 2], field, set| {
        [&is_family[..], &Expression::field_in(field, Membership::Inside, set), &mark].concat()
    };
    let to_localhost = Expression::field_is(IPV4_DESTINATION_NET, &LOOPBACK_NET);
    vec![
        from_pods(Expression::is_ipv4(), IPV4_SOURCE, SUBNETS_V4),
        from_pods(Expression::is_ipv6(), IPV6_SOURCE, SUBNETS_V6),
        [&Expression::is_ipv4()[..], &to_localhost, &mark].concat(),
    ]
}

fn seeming(bridge: &str) -> Vec<Vec<Expression>> {
    let to_pods = Expression::output_name(Comparison::Equal, bridge);
    let is_translated = Expression::is_to_service();
    let is_marked = Expression::mark_has(MARK);
    vec![[&to_pods[..], &is_translated, &is_marked, &[Expression::Masquerade]].concat()]
}

/// The chain of a pod.
pub(super) fn chain_of(pod: &PodPorts) -> LedTo {
    let mut rules = vec![vec![Expression::Verdict(Verdict::Jump(MARKING.to_owned()))]];
    for port in &pod.ports {
        let addresses = pod.addresses.iter().filter(|address| port.leads_to(**address));
        rules.extend(addresses.map(|address| translation(port, *address)));
    }
    LedTo { name: pod.device.clone(), rules: rules.into() }
}

fn translation(port: &HostPort, to: IpAddr) -> Vec<Expression> {
    let is_family = if to.is_ipv4() { Expression::is_ipv4() } else { Expression::is_ipv6() };
    let is_port = Expression::field_is(DESTINATION_PORT, &port.host_port.to_be_bytes());
    let mut rule =
        [&is_family[..], &Expression::upper_protocol_is(port.protocol.number()), &is_port].concat();
    match port.single_address() {
        Some(IpAddr::V4(address)) => {
            rule.extend(Expression::field_is(IPV4_DESTINATION, &address.octets()));
        }
        Some(IpAddr::V6(address)) => {
            rule.extend(Expression::field_is(IPV6_DESTINATION, &address.octets()));
        }
        None => {}
    }
    rule.extend([
        Expression::Load(octets(to)),
        Expression::LoadSecond(port.container_port.to_be_bytes().into()),
        Expression::TranslateDestination { is_ipv4: to.is_ipv4() },
    ]);
    rule
}

/// The elements of the maps that lead to the pod, each with its map.
pub(super) fn elements(pod: &PodPorts) -> Vec<(&'static str, Element)> {
    let led_to = |port: &HostPort| {
        let (protocol, number) = ([port.protocol.number()], port.host_port.to_be_bytes());
        let (map, element) = match port.single_address() {
            None => (PORTS, Element::of(&[&protocol, &number])),
            Some(IpAddr::V4(address)) => {
                (PORTS_V4, Element::of(&[&address.octets(), &protocol, &number]))
            }
            Some(IpAddr::V6(address)) => {
                (PORTS_V6, Element::of(&[&address.octets(), &protocol, &number]))
            }
        };
        (map, element.deciding(Verdict::Goto(pod.device.clone())))
    };
    let mut found: Vec<_> = pod.ports.iter().map(led_to).collect();
    found.sort();
    found.dedup();
    found
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().into(),
        IpAddr::V6(address) => address.octets().into(),
    }
}

fn interval(subnet: &IpNet) -> Vec<Element> {
    match subnet {
        IpNet::V4(net) => Element::interval(&net.network().octets(), &net.broadcast().octets()),
        IpNet::V6(net) => Element::interval(&net.network().octets(), &net.broadcast().octets()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Protocol, example};
    use super::*;

    fn subnets() -> Vec<IpNet> {
        ["10.244.1.0/24", "fd00:1::/64"].map(|net| net.parse().unwrap()).into()
    }

    #[test]
    fn each_port_has_one_element_in_the_map_of_its_kind() {
        let table = table(&[example()], "v-net-0", &subnets());
        let keys = |name: &str| {
            let set = table.sets.iter().find(|set| set.name == name).unwrap();
            set.elements.iter().map(|element| element.key.clone()).collect::<Vec<_>>()
        };
        assert_eq!(keys(PORTS), [[6, 0, 0, 0, 0x1f, 0x90, 0, 0]]);
        assert_eq!(keys(PORTS_V4), [[192, 168, 1, 11, 17, 0, 0, 0, 0, 53, 0, 0]]);
        let address: std::net::Ipv6Addr = "fd00::11".parse().unwrap();
        let expected = [&address.octets()[..], &[132, 0, 0, 0, 0x0f, 0x1c, 0, 0]].concat();
        assert_eq!(keys(PORTS_V6), [expected]);
    }

    #[test]
    fn a_port_without_address_has_a_rule_for_each_family_of_the_pod_and_another_one() {
        // The jump, two for 8080/tcp, one each for the others.
        assert_eq!(chain_of(&example()).rules.len(), 5);
        let single = PodPorts { addresses: vec!["10.244.1.2".parse().unwrap()], ..example() };
        assert_eq!(chain_of(&single).rules.len(), 3);
    }

    #[test]
    fn address_that_is_unspecified_is_any_of_its_family() {
        let port = HostPort {
            protocol: Protocol::Tcp,
            host_ip: Some("0.0.0.0".parse().unwrap()),
            host_port: 80,
            container_port: 8080,
        };
        let pod = PodPorts { ports: vec![port], ..example() };
        assert_eq!(elements(&pod)[0].0, PORTS);
        assert_eq!(chain_of(&pod).rules.len(), 2, "the jump, and IPv4");
    }
}
