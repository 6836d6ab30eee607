//! Steering: what one pod of the node sends another goes through the node.
//!
//! A bridge hands frames from pod to pod past the rules for packets, and connection tracking on
//! bridges is a module that many kernels lack. So frames between pods get the bridge's own hardware
//! address: the node routes them, and they pass the same rules as all others. What is left to the
//! bridge is what cannot be routed (neighbour discovery, multicast, broadcast, link-local
//! addresses); of that, pods that a policy isolates send and get neighbour discovery alone.

use std::collections::BTreeSet;

use culvert_nft::{
    Base, Chain, ChainKind, Comparison, Element, Expression, Field, Hook, KeyPart, Membership,
    Meta, Register, Set, Table, TableFamily, Verdict,
};
use culvert_node::pod_port::DEVICE_GROUP;
use overlay_proto::Mac;

use super::render::NEIGHBOUR_DISCOVERY;

/// Its family: it sees the frames of a bridge.
pub(super) const FAMILY: TableFamily = TableFamily::Bridge;

/// Name of the table, which is ours alone.
pub(super) const TABLE: &str = "culvert-policy";

/// After the source check (-300), which must see what a pod wrote.
const PRIORITY: i32 = -290;

/// `NF_BR_PRI_FILTER_BRIDGED`, more or less.
const FILTER: i32 = 0;

/// Name of the set of isolated pods' ports.
const ISOLATED: &str = "isolated";

const DESTINATION_MAC: Field = Field { base: Base::Link, offset: 0, len: 6 };
const ETHER_TYPE: Field = Field { base: Base::Link, offset: 12, len: 2 };
const ICMPV6_TYPE: Field = Field { base: Base::Transport, offset: 0, len: 1 };
const IPV6_DESTINATION: Field = Field { base: Base::Network, offset: 24, len: 16 };

const ETHER_TYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHER_TYPE_ARP: [u8; 2] = [0x08, 0x06];
const ETHER_TYPE_IPV6: [u8; 2] = [0x86, 0xdd];
const ICMPV6: u8 = 58;

/// Bytes of ARP about IPv4 (RFC 826), and the same filled up to the shortest frame of Ethernet.
/// More would be a message from pod to pod.
const ARP_BYTES: [u32; 2] = [28, 46];

/// The bit of a hardware address that says that it is a group's.
const GROUP_BIT: [u8; 6] = [1, 0, 0, 0, 0, 0];

/// fe80::/10, and its mask.
const LINK_LOCAL: [u8; 16] = first_two(0xfe, 0x80);
const LINK_LOCAL_MASK: [u8; 16] = first_two(0xff, 0xc0);

/// `PACKET_HOST`: the frame is for this machine.
const FOR_THIS_MACHINE: u8 = 0;

const fn first_two(first: u8, second: u8) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[0] = first;
    bytes[1] = second;
    bytes
}

/// The table for a bridge that has the address `mac`, with the ports of isolated pods.
pub(super) fn table(mac: Mac, isolated: &BTreeSet<String>) -> Table {
    let elements = isolated.iter().map(|device| {
        let mut name = device.as_bytes().to_vec();
        name.resize(16, 0);
        Element::of(&[&name])
    });
    let base = |name, hook, priority, rules| Chain {
        name,
        kind: ChainKind::Filter,
        hook,
        priority,
        rules,
    };
    Table {
        family: FAMILY,
        name: TABLE,
        sets: vec![Set {
            name: ISOLATED.to_owned(),
            key: vec![KeyPart::InterfaceName],
            is_interval: false,
            can_expire: false,
            decides: false,
            elements: elements.collect(),
        }],
        chains: vec![
            base("steer", Hook::Prerouting, PRIORITY, steer(mac)),
            base("forward", Hook::Forward, FILTER, forward()),
        ],
        led_to: Vec::new(),
    }
}

fn steer(mac: Mac) -> Vec<Vec<Expression>> {
    let accept = [Expression::Verdict(Verdict::Accept)];
    let is_group = [
        Expression::Payload(DESTINATION_MAC, Register::One),
        Expression::Mask(GROUP_BIT.to_vec()),
        Expression::Compare(Comparison::NotEqual, vec![0; 6]),
    ];
    let of_others = [
        Expression::Meta(Meta::InputGroup, Register::One),
        Expression::Compare(Comparison::NotEqual, DEVICE_GROUP.to_ne_bytes().to_vec()),
    ];
    let to_link_local = [
        Expression::Payload(IPV6_DESTINATION, Register::One),
        Expression::Mask(LINK_LOCAL_MASK.to_vec()),
        Expression::Compare(Comparison::Equal, LINK_LOCAL.to_vec()),
    ];
    let to_node = Expression::field_is(DESTINATION_MAC, &mac.octets());
    let mut rules = vec![
        [&of_others[..], &accept].concat(),
        [&to_node[..], &accept].concat(),
        [&is_group[..], &accept].concat(),
    ];
    rules.extend(neighbour_discovery());
    let is_ipv6 = Expression::field_is(ETHER_TYPE, &ETHER_TYPE_IPV6);
    rules.push([&is_ipv6[..], &to_link_local, &accept].concat());
    rules.extend([ETHER_TYPE_IPV4, ETHER_TYPE_IPV6].map(|kind| {
        let steps = [
            Expression::Load(mac.octets().to_vec()),
            Expression::SetPayload(DESTINATION_MAC),
            Expression::Load(vec![FOR_THIS_MACHINE]),
            Expression::SetMeta(Meta::PacketType),
        ];
        [&Expression::field_is(ETHER_TYPE, &kind)[..], &steps].concat()
    }));
    rules
}

fn forward() -> Vec<Vec<Expression>> {
    let accept = [Expression::Verdict(Verdict::Accept)];
    let drop = [Expression::Counter, Expression::Verdict(Verdict::Drop)];
    let isolated = |name| {
        [
            Expression::Meta(name, Register::One),
            Expression::Lookup(Membership::Inside, ISOLATED.to_owned()),
        ]
    };
    let mut rules: Vec<_> = ARP_BYTES
        .map(|bytes| {
            let is_arp = Expression::field_is(ETHER_TYPE, &ETHER_TYPE_ARP);
            let is_whole = [
                Expression::Meta(Meta::Length, Register::One),
                Expression::Compare(Comparison::Equal, bytes.to_ne_bytes().to_vec()),
            ];
            [&is_arp[..], &is_whole, &accept].concat()
        })
        .into();
    rules.extend(neighbour_discovery());
    // Where frames of the bridge pass the rules of IP (br_netfilter), one whose destination is
    // translated to a pod of the node is bridged after all, behind the chain above, and has passed
    // the rules when it leaves. No other frame of a pod's port to one pod comes as far as here.
    let of_pods = [
        Expression::Meta(Meta::InputGroup, Register::One),
        Expression::Compare(Comparison::Equal, DEVICE_GROUP.to_ne_bytes().to_vec()),
        Expression::Payload(DESTINATION_MAC, Register::One),
        Expression::Mask(GROUP_BIT.to_vec()),
        Expression::Compare(Comparison::Equal, vec![0; 6]),
    ];
    let not_link_local = [
        Expression::Payload(IPV6_DESTINATION, Register::One),
        Expression::Mask(LINK_LOCAL_MASK.to_vec()),
        Expression::Compare(Comparison::NotEqual, LINK_LOCAL.to_vec()),
    ];
    let is_ipv4 = Expression::field_is(ETHER_TYPE, &ETHER_TYPE_IPV4);
    let is_ipv6 = Expression::field_is(ETHER_TYPE, &ETHER_TYPE_IPV6);
    rules.push([&of_pods[..], &is_ipv4, &accept].concat());
    rules.push([&of_pods[..], &is_ipv6, &not_link_local, &accept].concat());
    rules.push([&isolated(Meta::InputName)[..], &drop].concat());
    rules.push([&isolated(Meta::OutputName)[..], &drop].concat());
    rules
}

/// Lets neighbour discovery be.
fn neighbour_discovery() -> [Vec<Expression>; 2] {
    NEIGHBOUR_DISCOVERY.map(|kind| {
        [
            &Expression::field_is(ETHER_TYPE, &ETHER_TYPE_IPV6)[..],
            &Expression::upper_protocol_is(ICMPV6),
            &Expression::field_is(ICMPV6_TYPE, &[kind]),
            &[Expression::Verdict(Verdict::Accept)],
        ]
        .concat()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_get_the_address_of_the_bridge_and_isolated_ports_are_known_by_name() {
        let mac = Mac::new([0x02, 0xcf, 10, 244, 1, 0]);
        let table = table(mac, &BTreeSet::from(["culv1".to_owned()]));
        let names: Vec<_> = table.chains.iter().map(|chain| chain.name).collect();
        assert_eq!(names, ["steer", "forward"]);
        let steered = table.chains[0].rules.iter().filter(|rule| {
            rule.contains(&Expression::Load(mac.octets().to_vec()))
                && rule.contains(&Expression::SetPayload(DESTINATION_MAC))
                && rule.contains(&Expression::SetMeta(Meta::PacketType))
        });
        assert_eq!(steered.count(), 2, "IPv4 and IPv6");
        let forwarded = &table.chains[1].rules;
        let is_arp =
            |rule: &&Vec<_>| rule[..2] == Expression::field_is(ETHER_TYPE, &ETHER_TYPE_ARP);
        assert_eq!(forwarded.iter().filter(is_arp).count(), 2);
        let is_bounded = |rule: &Vec<_>| rule[2] == Expression::Meta(Meta::Length, Register::One);
        assert!(forwarded.iter().filter(is_arp).all(is_bounded), "none is let through by its kind");
        let key = &table.sets[0].elements.iter().next().unwrap().key;
        assert_eq!((key.len(), &key[..6]), (16, &b"culv1\0"[..]));
    }
}
