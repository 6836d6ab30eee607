//! Frames of a pod against the rules, followed as the kernel does, without one.

use culvert_nft::Set;

use super::*;
use crate::pod_port::example;

const OWN_MAC: [u8; 6] = [0x0a, 0x58, 10, 244, 1, 2];
const OTHER_MAC: [u8; 6] = [0x0a, 0x58, 10, 244, 1, 3];
const OWN_IPV4: [u8; 4] = [10, 244, 1, 2];
const OTHER_IPV4: [u8; 4] = [10, 244, 1, 3];
const UDP: u8 = 17;
const HOP_BY_HOP: u8 = 0;
const FRAGMENT: u8 = 44;
const IPV6_LEN: usize = 40;
/// A header between IPv6 and ICMPv6: options that are padding, or of the first fragment.
const BETWEEN: [(u8, [u8; 8]); 2] =
    [(HOP_BY_HOP, [ICMPV6, 0, 1, 4, 0, 0, 0, 0]), (FRAGMENT, [ICMPV6, 0, 0, 1, 0, 0, 0, 1])];

fn ipv6(text: &str) -> [u8; 16] {
    text.parse::<Ipv6Addr>().unwrap().octets()
}

fn own_ipv6() -> [u8; 16] {
    ipv6("fd00:1::2")
}

fn other_ipv6() -> [u8; 16] {
    ipv6("fd00:1::3")
}

/// A frame from a MAC address.
fn frame(mac: [u8; 6], ether_type: [u8; 2], rest: &[u8]) -> Vec<u8> {
    [&[0xff; 6][..], &mac, &ether_type, rest].concat()
}

fn ipv4_from(address: [u8; 4]) -> Vec<u8> {
    let mut packet = [0; 28];
    (packet[0], packet[9]) = (0x45, UDP);
    packet[12..16].copy_from_slice(&address);
    frame(OWN_MAC, ETHER_TYPE_IPV4, &packet)
}

fn arp(mac: [u8; 6], address: [u8; 4]) -> Vec<u8> {
    let request = [&[0, 1, 8, 0, 6, 4, 0, 1][..], &mac, &address, &[0; 10]].concat();
    frame(OWN_MAC, ETHER_TYPE_ARP, &request)
}

fn ipv6_from(source: [u8; 16], next: u8, rest: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(rest.len()).unwrap().to_be_bytes();
    let header = [&[0x60, 0, 0, 0, high, low, next, 255][..], &source, &[0xff; 16]].concat();
    frame(OWN_MAC, ETHER_TYPE_IPV6, &[&header[..], rest].concat())
}

/// A solicitation or an advertisement about `target`.
fn neighbour(kind: u8, source: [u8; 16], target: [u8; 16], options: &[u8]) -> Vec<u8> {
    ipv6_from(source, ICMPV6, &neighbour_message(kind, target, options))
}

fn neighbour_message(kind: u8, target: [u8; 16], options: &[u8]) -> Vec<u8> {
    [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &target, options].concat()
}

/// A message of a router, or one that asks for routers.
fn router(kind: u8, source: [u8; 16], options: &[u8]) -> Vec<u8> {
    ipv6_from(source, ICMPV6, &[&[kind, 0, 0, 0, 0, 0, 0, 0], options].concat())
}

fn link_address(option: [u8; 2], mac: [u8; 6]) -> Vec<u8> {
    [&option[..], &mac].concat()
}

/// What the rules do with a frame that comes in by the port `input`.
fn passes(input: &str, frame: &[u8]) -> bool {
    let table = table(&[example(), PodPort { is_checked: false, ..other() }]);
    let rules = table.chains.iter().flat_map(|chain| &chain.rules);
    let verdict = rules.into_iter().find_map(|rule| follow(rule, &table.sets, input, frame));
    // kernel: the policy, where no rule decides.
    verdict.unwrap_or(true)
}

fn other() -> PodPort {
    PodPort { device: "culv1".to_owned(), ..example() }
}

/// What one rule does with a frame, if it is about it.
#[expect(clippy::wildcard_enum_match_arm, reason = "what the source check does not use")]
fn follow(rule: &[Expression], sets: &[Set], input: &str, frame: &[u8]) -> Option<bool> {
    let mut registers = [0; 32];
    let load = |register, bytes: &[u8], registers: &mut [u8; 32]| {
        let at = if register == Register::Two { 16 } else { 0 };
        let room = &mut registers[at..at + bytes.len().next_multiple_of(4)];
        room.fill(0);
        room[..bytes.len()].copy_from_slice(bytes);
    };
    for expression in rule {
        match expression {
            Expression::Meta(Meta::InputName, register) => {
                load(*register, &device_key(input), &mut registers);
            }
            Expression::Meta(Meta::UpperProtocol, register) => {
                load(*register, &[upper(frame).0], &mut registers);
            }
            Expression::Payload(field, register) => {
                let base = match field.base {
                    Base::Link => 0,
                    Base::Network => 14,
                    Base::Transport => upper(frame).1,
                };
                let begin = base + field.offset as usize;
                // kernel: a rule that asks for what is not there is not about the frame.
                let bytes = frame.get(begin..begin + field.len as usize)?;
                load(*register, bytes, &mut registers);
            }
            Expression::Compare(comparison, value) => {
                let is_equal = registers[..value.len()] == value[..];
                if is_equal != (*comparison == Comparison::Equal) {
                    return None;
                }
            }
            Expression::Lookup(membership, name) => {
                let is_in = sets.iter().filter(|set| set.name == *name).any(|set| {
                    set.elements.iter().any(|element| registers.starts_with(&element.key))
                });
                if is_in != (*membership == Membership::Inside) {
                    return None;
                }
            }
            Expression::Counter => {}
            Expression::Verdict(Verdict::Accept) => return Some(true),
            Expression::Verdict(Verdict::Drop) => return Some(false),
            other => panic!("the source check has no {other:?}"),
        }
    }
    None
}

/// The protocol behind the IP header and its extensions, and where in the frame that begins.
fn upper(frame: &[u8]) -> (u8, usize) {
    if frame[12..14] != ETHER_TYPE_IPV6 {
        return (frame[23], 34);
    }
    match frame[20] {
        HOP_BY_HOP | FRAGMENT => (frame[14 + IPV6_LEN], 14 + IPV6_LEN + 8),
        next => (next, 14 + IPV6_LEN),
    }
}

fn assert_passes(frame: &[u8]) {
    assert!(passes(&example().device, frame), "{frame:02x?}");
}

fn assert_stops(frame: &[u8]) {
    assert!(!passes(&example().device, frame), "{frame:02x?}");
    // It is the port that is checked, not the frame.
    assert!(passes("eth0", frame) && passes(&other().device, frame), "{frame:02x?}");
}

#[test]
fn a_pod_sends_from_its_own_addresses_and_from_no_other() {
    assert_passes(&ipv4_from(OWN_IPV4));
    assert_stops(&ipv4_from(OTHER_IPV4));
    let link_local = link_local(example().mac).octets();
    for own in [own_ipv6(), link_local] {
        assert_passes(&ipv6_from(own, UDP, &[0; 8]));
        // An echo request.
        assert_passes(&ipv6_from(own, ICMPV6, &[128, 0, 0, 0, 0, 1, 0, 1]));
    }
    for other in [other_ipv6(), ipv6("fe80::858:aff:fef4:103"), [0; 16]] {
        assert_stops(&ipv6_from(other, UDP, &[0; 8]));
        assert_stops(&ipv6_from(other, ICMPV6, &[128, 0, 0, 0, 0, 1, 0, 1]));
    }
    let mut foreign_mac = ipv4_from(OWN_IPV4);
    foreign_mac[6..12].copy_from_slice(&OTHER_MAC);
    assert_stops(&foreign_mac);
}

#[test]
fn a_pod_sends_no_frame_of_which_nobody_knows_whose_it_is() {
    for ether_type in [[0x81, 0x00], [0x88, 0xa8], [0x88, 0xcc], [0x88, 0x47]] {
        let tagged = [&[0, 1][..], &ETHER_TYPE_IPV4, &ipv4_from(OWN_IPV4)[14..]].concat();
        assert_stops(&frame(OWN_MAC, ether_type, &tagged));
    }
}

#[test]
fn a_pod_says_by_arp_nothing_but_where_it_is_itself() {
    assert_passes(&arp(OWN_MAC, OWN_IPV4));
    assert_stops(&arp(OWN_MAC, OTHER_IPV4));
    assert_stops(&arp(OTHER_MAC, OWN_IPV4));
    assert_stops(&arp(OWN_MAC, [0; 4]));
}

#[test]
fn a_pod_advertises_nothing_but_itself() {
    let advertises = |source, target, options: &[u8]| {
        neighbour(NEIGHBOUR_ADVERTISEMENT, source, target, options)
    };
    let own = link_address(TARGET_LINK_ADDRESS, OWN_MAC);
    assert_passes(&advertises(own_ipv6(), own_ipv6(), &[]));
    assert_passes(&advertises(own_ipv6(), own_ipv6(), &own));
    assert_stops(&advertises(own_ipv6(), other_ipv6(), &own));
    assert_stops(&advertises(other_ipv6(), own_ipv6(), &own));
    let others = link_address(TARGET_LINK_ADDRESS, OTHER_MAC);
    for options in [&others, &[&own[..], &others].concat(), &[&NONCE[..], &OWN_MAC].concat()] {
        assert_stops(&advertises(own_ipv6(), own_ipv6(), options));
    }
}

#[test]
fn a_pod_asks_for_its_neighbours_as_itself() {
    let asks =
        |source, target, options: &[u8]| neighbour(NEIGHBOUR_SOLICITATION, source, target, options);
    let own = link_address(SOURCE_LINK_ADDRESS, OWN_MAC);
    assert_passes(&asks(own_ipv6(), other_ipv6(), &own));
    assert_passes(&asks(own_ipv6(), other_ipv6(), &[]));
    assert_stops(&asks(other_ipv6(), other_ipv6(), &own));
    assert_stops(&asks(other_ipv6(), own_ipv6(), &[]));
    let others = link_address(SOURCE_LINK_ADDRESS, OTHER_MAC);
    for options in [&others, &[&own[..], &others].concat(), &[&NONCE[..], &OWN_MAC].concat()] {
        assert_stops(&asks(own_ipv6(), other_ipv6(), options));
    }
    // Whether somebody has the address that is to be its own.
    let nonce = [&NONCE[..], &[1, 2, 3, 4, 5, 6]].concat();
    assert_passes(&asks([0; 16], own_ipv6(), &[]));
    assert_passes(&asks([0; 16], own_ipv6(), &nonce));
    assert_stops(&asks([0; 16], other_ipv6(), &[]));
    assert_stops(&asks([0; 16], own_ipv6(), &own));
}

#[test]
fn a_pod_is_no_router_and_asks_for_routers_as_itself() {
    let own = link_address(SOURCE_LINK_ADDRESS, OWN_MAC);
    let others = link_address(SOURCE_LINK_ADDRESS, OTHER_MAC);
    assert_stops(&router(ROUTER_ADVERTISEMENT, own_ipv6(), &[0; 8]));
    assert_stops(&router(REDIRECT, own_ipv6(), &[0; 32]));
    assert_passes(&router(ROUTER_SOLICITATION, own_ipv6(), &[]));
    assert_passes(&router(ROUTER_SOLICITATION, own_ipv6(), &own));
    assert_stops(&router(ROUTER_SOLICITATION, other_ipv6(), &own));
    assert_stops(&router(ROUTER_SOLICITATION, own_ipv6(), &others));
}

#[test]
fn no_header_hides_what_a_pod_says_of_neighbours() {
    let own = link_address(TARGET_LINK_ADDRESS, OWN_MAC);
    let message = neighbour_message(NEIGHBOUR_ADVERTISEMENT, own_ipv6(), &own);
    for (next, header) in BETWEEN {
        let hidden = |message: &[u8]| ipv6_from(own_ipv6(), next, &[&header[..], message].concat());
        assert_stops(&hidden(&message));
        // As long as one with an option, and with one behind the packet's end, where a rule sees it
        // and its receiver does not: that one waits for the next fragment.
        let without = hidden(&message[..usize::from(NEIGHBOUR_BYTES)]);
        assert_stops(&without);
        assert_stops(&[&without[..], &own].concat());
        // Other messages may have one.
        assert_passes(&hidden(&[128, 0, 0, 0, 0, 1, 0, 1]));
    }
}
