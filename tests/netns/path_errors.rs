//! ICMP errors that say a packet was too long, by those who have no right to say so.

use std::net::IpAddr;
use std::time::Duration;

use culvert_lab::probe::{self, Ping};
use culvert_lab::{Lab, LabBuilder, Netns, Node, UNDERLAY_PORT};
use etherparse::{IcmpEchoHeader, Icmpv4Type, Icmpv6Type, PacketBuilder, icmpv4};
use overlay_proto::Family;

use crate::harness::{FAMILIES, assert_reaches, lab, run};
use crate::packets::{Udp, VNI, in_overlay};

/// What is claimed: absurd, plausible, and below what IPv6 promises.
const CLAIMS: [u16; 5] = [68, 576, 1000, 1300, 1400];

#[test]
fn a_forged_error_about_a_tunnel_datagram_changes_nothing() {
    errors_of_strangers_change_nothing(lab("nt-forge"), 1464);
}

#[test]
fn a_forged_error_about_a_tunnel_datagram_changes_nothing_over_an_ipv6_underlay() {
    errors_of_strangers_change_nothing(lab("nt-forge6").underlay(Family::V6), 1444);
}

#[test]
fn pods_have_no_say_about_the_way_between_nodes() {
    pods_change_no_route(lab("nt-podsay"));
}

#[test]
fn pods_have_no_say_about_the_way_between_nodes_over_an_ipv6_underlay() {
    pods_change_no_route(lab("nt-podsay6").underlay(Family::V6));
}

/// A host of the underlay that knows every port and all bytes of what the first node sends to the
/// second claims that it was too long.
fn errors_of_strangers_change_nothing(builder: LabBuilder, mtu: u16) {
    let lab = builder.up().unwrap();
    let (node, peer) = (lab.node(1), lab.node(2));
    let (from, to) = (lab.pod(1, 1), lab.pod(2, 1));
    assert_reaches(from.netns(), to.ipv4());
    let ports = source_ports(node);
    assert!(ports.len() >= 16, "{ports:?}");
    let payload = vec![0; usize::from(mtu) - 28];
    let inner = in_overlay(VNI, &Udp::new(from.ipv4(), to.ipv4(), &payload).bytes());
    for claim in CLAIMS {
        for port in &ports {
            let mut quote =
                Udp::new(node.address(), peer.address(), &inner).port(UNDERLAY_PORT).bytes();
            let udp = quote.len() - inner.len() - 8;
            quote[udp..udp + 2].copy_from_slice(&port.to_be_bytes());
            quote.truncate(udp + 8 + 64);
            let error = too_big(outsider(&lab), node.address(), claim, &quote);
            probe::send_packet(lab.switch(), &error).unwrap();
        }
        for family in FAMILIES {
            let ping = Ping::default().packet_len(mtu).timeout(Duration::from_secs(2));
            let answer = probe::ping(from.netns(), to.address(family), &ping).unwrap();
            assert!(answer.is_reply(), "{claim} claimed, {family}: {answer:?}");
        }
    }
    let status = node.status().unwrap();
    assert_eq!(status["peers"][0]["mtu"], mtu, "{status}");
    assert_eq!(status["drops"]["underlay_refused"], 0, "{status}");
    let log = node.log_tail();
    let lines = log.lines().filter(|line| line.contains("ICMP error")).count();
    assert!(lines <= 1, "{lines} lines about it: {log}");
}

/// A pod of the node and one behind the tunnel claim that what the node sent to its peer was too
/// long.
fn pods_change_no_route(builder: LabBuilder) {
    let lab = builder.pods(2).up().unwrap();
    let (node, peer) = (lab.node(1), lab.node(2));
    let family = Family::of(node.address());
    let quote = echo_reply(node.address(), peer.address());
    let subnets = node.subnets();
    let subnet = subnets.iter().find(|subnet| Family::of(subnet.addr()) == family).unwrap();
    let router = subnet.hosts().find(|address| *address != subnet.network()).unwrap();
    let (near, far) = (lab.pod(1, 1), lab.pod(2, 1));
    for claim in CLAIMS {
        for (pod, target) in [(&near, node.address()), (&near, router), (&far, router)] {
            let error = too_big(pod.address(family), target, claim, &quote);
            probe::send_packet(pod.netns(), &error).unwrap();
        }
        // What was sent before has been handled once this is answered.
        assert_reaches(far.netns(), router);
        assert_reaches(near.netns(), router);
        assert_no_exception(node.netns(), peer.address(), claim);
    }
    // The same about what the node sends into the pod networks is theirs to say.
    let tun = subnet.network();
    let quote = echo_reply(tun, far.address(family));
    let error = too_big(far.address(family), tun, 1300, &quote);
    probe::send_packet(far.netns(), &error).unwrap();
    assert_reaches(far.netns(), router);
    let route = route(node.netns(), far.address(family));
    assert!(route.contains("mtu 1300"), "{route}");
}

#[track_caller]
fn assert_no_exception(netns: &Netns, to: IpAddr, claim: u16) {
    let route = route(netns, to);
    assert!(!route.contains("mtu"), "{claim} claimed: {route}");
}

fn route(netns: &Netns, to: IpAddr) -> String {
    run(netns, "ip", &["route", "get", &to.to_string()])
}

/// The ports that the node's daemon sends from.
fn source_ports(node: &Node) -> Vec<u16> {
    let text = run(node.netns(), "ss", &["-Hlun", "-a"]);
    let local = text.lines().filter_map(|line| line.split_whitespace().nth(3));
    let ports = local.filter_map(|local| {
        let (address, port) = local.rsplit_once(':')?;
        let address: IpAddr = address.trim_matches(['[', ']']).parse().ok()?;
        (address == node.address()).then(|| port.parse::<u16>().ok())?
    });
    ports.filter(|port| *port != UNDERLAY_PORT).collect()
}

/// An address of the underlay that no node has.
fn outsider(lab: &Lab) -> IpAddr {
    match Family::of(lab.node(1).address()) {
        Family::V4 => "192.168.1.1".parse().unwrap(),
        Family::V6 => "fd00:192:168:1::1".parse().unwrap(),
    }
}

/// What a node may have sent; the kernel asks no socket whether one did.
fn echo_reply(source: IpAddr, destination: IpAddr) -> Vec<u8> {
    let mut bytes = Vec::new();
    let id = IcmpEchoHeader { id: 1, seq: 1 };
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            PacketBuilder::ipv4(source.octets(), destination.octets(), 64)
                .icmpv4(Icmpv4Type::EchoReply(id))
                .write(&mut bytes, &[0; 64])
                .unwrap();
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            PacketBuilder::ipv6(source.octets(), destination.octets(), 64)
                .icmpv6(Icmpv6Type::EchoReply(id))
                .write(&mut bytes, &[0; 64])
                .unwrap();
        }
        (source, destination) => panic!("{source} and {destination} are of two families"),
    }
    bytes
}

/// "Fragmentation needed" or "packet too big" about the packet that begins with `quote`.
fn too_big(source: IpAddr, destination: IpAddr, mtu: u16, quote: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let kind = icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: mtu };
            PacketBuilder::ipv4(source.octets(), destination.octets(), 64)
                .icmpv4(Icmpv4Type::DestinationUnreachable(kind))
                .write(&mut bytes, quote)
                .unwrap();
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            PacketBuilder::ipv6(source.octets(), destination.octets(), 64)
                .icmpv6(Icmpv6Type::PacketTooBig { mtu: mtu.into() })
                .write(&mut bytes, quote)
                .unwrap();
        }
        (source, destination) => panic!("{source} and {destination} are of two families"),
    }
    bytes
}
