//! ICMP errors that say a packet was too long, by those who have no right to say so.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use culvert_lab::probe::{self, Ping};
use culvert_lab::{Lab, LabBuilder, Netns, Node, UNDERLAY_PORT, clock, wait_until};
use etherparse::{IcmpEchoHeader, Icmpv4Type, Icmpv6Type, PacketBuilder, icmpv4, icmpv6};
use overlay_proto::Family;
use socket2::{Domain, Protocol, Socket, Type};

use crate::harness::{FAMILIES, SOON, assert_reaches, lab, run};
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

#[test]
fn no_packet_is_lost_in_a_flood_of_forged_errors() {
    a_flood_of_errors_loses_nothing(lab("nt-errors"));
}

#[test]
fn no_packet_is_lost_in_a_flood_of_forged_errors_over_an_ipv6_underlay() {
    a_flood_of_errors_loses_nothing(lab("nt-errors6").underlay(Family::V6));
}

/// Whoever sends errors about every source port, as many as it can, loses the node no packet of
/// flows that have a few packets each.
fn a_flood_of_errors_loses_nothing(builder: LabBuilder) {
    /// How long it lasts: thousands of errors, even on a machine that has other things to do.
    const FLOOD: Duration = Duration::from_secs(3);
    const FLOWS: usize = 64;
    /// `IPPROTO_RAW`: a socket that takes whole packets.
    const WHOLE_PACKETS: i32 = 255;
    let lab = builder.up().unwrap();
    let (node, peer) = (lab.node(1), lab.node(2));
    let (from, to) = (lab.pod(1, 1), lab.pod(2, 1));
    assert_reaches(from.netns(), to.ipv4());
    let inner = in_overlay(VNI, &Udp::new(from.ipv4(), to.ipv4(), &[0; 100]).bytes());
    let errors: Vec<Vec<u8>> = source_ports(node)
        .into_iter()
        .map(|port| unreachable(outsider(&lab), node.address(), &quote(node, peer, port, &inner)))
        .collect();
    let open = || {
        let domain = Domain::for_address(SocketAddr::new(node.address(), 0));
        Socket::new(domain, Type::RAW, Some(Protocol::from(WHOLE_PACKETS)))
    };
    let flood = lab.switch().run(open).unwrap().unwrap();
    let bind = || UdpSocket::bind((from.ipv4(), 0));
    let flows: Vec<UdpSocket> =
        (0..FLOWS).map(|_| from.netns().run(bind).unwrap().unwrap()).collect();
    let sink = to.netns().run(|| UdpSocket::bind((to.ipv4(), 0))).unwrap().unwrap();
    sink.set_nonblocking(true).unwrap();
    let (target, stop) = (sink.local_addr().unwrap(), AtomicBool::new(false));
    let (sent, arrived, claimed) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let drain = || {
        while sink.recv(&mut [0; 100]).is_ok() {
            arrived.fetch_add(1, Ordering::Relaxed);
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            let at_node = SocketAddr::new(node.address(), 0).into();
            while !stop.load(Ordering::Relaxed) {
                for error in &errors {
                    let is_sent = flood.send_to(error, &at_node).is_ok();
                    claimed.fetch_add(is_sent.into(), Ordering::Relaxed);
                }
                // Some processor has to be left for those who carry packets.
                thread::sleep(Duration::from_millis(1));
            }
        });
        let start = clock::now();
        while start.elapsed() < FLOOD {
            // No more is under way than the sink has room for, however slow the machine is.
            let under_way = sent.load(Ordering::Relaxed) - arrived.load(Ordering::Relaxed);
            if under_way <= FLOWS as u64 {
                for flow in &flows {
                    flow.send_to(b"a small flow", target).unwrap();
                    sent.fetch_add(1, Ordering::Relaxed);
                }
            }
            drain();
            thread::sleep(Duration::from_millis(2));
        }
        stop.store(true, Ordering::Relaxed);
    });
    // What is under way arrives a while later, where the machine has other things to do.
    let _late = wait_until(SOON, "all packets", || {
        drain();
        arrived.load(Ordering::Relaxed) >= sent.load(Ordering::Relaxed)
    });
    let [sent, arrived, claimed] = [sent, arrived, claimed].map(AtomicU64::into_inner);
    assert!(claimed > 3_000, "{claimed} errors are no flood");
    let status = node.status().unwrap();
    let drops = &status["drops"];
    assert_eq!(
        (&drops["underlay_refused"], &drops["too_big"], &drops["underlay_full"]),
        (&0.into(), &0.into(), &0.into()),
        "{claimed} errors: {drops}"
    );
    let by_kernel = peer.status().unwrap()["receive_drops"].as_u64();
    assert_eq!(arrived, sent, "{claimed} errors, {by_kernel:?} dropped by the kernel: {drops}");
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
    // The kernel asks no socket about this one, and believes it, which no socket of ours obeys.
    let any = echo_reply(node.address(), peer.address());
    for claim in CLAIMS {
        for port in &ports {
            let quote = quote(node, peer, *port, &inner);
            let error = too_big(outsider(&lab), node.address(), claim, &quote);
            probe::send_packet(lab.switch(), &error).unwrap();
        }
        let error = too_big(outsider(&lab), node.address(), claim, &any);
        probe::send_packet(lab.switch(), &error).unwrap();
        for family in FAMILIES {
            let ping = Ping::default().packet_len(mtu).timeout(Duration::from_secs(2));
            let answer = probe::ping(from.netns(), to.address(family), &ping).unwrap();
            assert!(answer.is_reply(), "{claim} claimed, {family}: {answer:?}");
        }
    }
    let route = route(node.netns(), peer.address());
    assert!(route.contains("mtu"), "the kernel has not believed any: {route}");
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
    let inner =
        in_overlay(VNI, &Udp::new(lab.pod(1, 1).ipv4(), lab.pod(2, 1).ipv4(), &[0; 100]).bytes());
    let tunnel = source_ports(node).into_iter().map(|port| quote(node, peer, port, &inner));
    let quotes: Vec<Vec<u8>> = tunnel.chain([echo_reply(node.address(), peer.address())]).collect();
    let subnets = node.subnets();
    let subnet = subnets.iter().find(|subnet| Family::of(subnet.addr()) == family).unwrap();
    let router = subnet.hosts().find(|address| *address != subnet.network()).unwrap();
    let (near, far) = (lab.pod(1, 1), lab.pod(2, 1));
    for claim in CLAIMS {
        for (pod, target) in [(&near, node.address()), (&near, router), (&far, router)] {
            for quote in &quotes {
                let error = too_big(pod.address(family), target, claim, quote);
                probe::send_packet(pod.netns(), &error).unwrap();
            }
        }
        // What was sent before has been handled once this is answered.
        assert_reaches(far.netns(), router);
        assert_reaches(near.netns(), router);
        assert_no_exception(node.netns(), peer.address(), claim);
    }
}

#[test]
fn nobody_has_a_say_about_packets_to_pods() {
    nobody_shortens_packets_to_pods(lab("nt-podmtu"));
}

#[test]
fn nobody_has_a_say_about_packets_to_pods_over_an_ipv6_underlay() {
    nobody_shortens_packets_to_pods(lab("nt-podmtu6").underlay(Family::V6));
}

/// A pod of the node, one behind the tunnel, and a host of the underlay claim that what the node
/// sent to a pod was too long: of that the kernel asks no socket, and shortens what it forwards.
fn nobody_shortens_packets_to_pods(builder: LabBuilder) {
    let lab = builder.pods(2).up().unwrap();
    let node = lab.node(1);
    let (near, other, far) = (lab.pod(1, 1), lab.pod(1, 2), lab.pod(2, 1));
    for family in FAMILIES {
        let subnets = node.subnets();
        let subnet = subnets.iter().find(|subnet| Family::of(subnet.addr()) == family).unwrap();
        let router = subnet.hosts().find(|address| *address != subnet.network()).unwrap();
        let quote = echo_reply(router, far.address(family));
        for claim in CLAIMS {
            for pod in [&near, &far] {
                let error = too_big(pod.address(family), router, claim, &quote);
                probe::send_packet(pod.netns(), &error).unwrap();
            }
            if family == Family::of(node.address()) {
                let error = too_big(outsider(&lab), node.address(), claim, &quote);
                probe::send_packet(lab.switch(), &error).unwrap();
            }
            // What was sent before has been handled once this is answered.
            assert_reaches(far.netns(), router);
            assert_reaches(near.netns(), router);
            assert_no_exception(node.netns(), far.address(family), claim);
        }
        let ping = Ping::default().packet_len(1400).timeout(Duration::from_secs(2));
        let answer = probe::ping(other.netns(), far.address(family), &ping).unwrap();
        assert!(answer.is_reply(), "{family}: {answer:?}");
    }
}

#[track_caller]
fn assert_no_exception(netns: &Netns, to: IpAddr, claim: u16) {
    let route = route(netns, to);
    assert!(!route.contains("mtu"), "{claim} claimed: {route}");
}

fn route(netns: &Netns, to: IpAddr) -> String {
    run(netns, "ip", &["route", "get", &to.to_string()])
}

/// What an error quotes of a datagram of the node's to its peer, from this port.
pub(crate) fn quote(node: &Node, peer: &Node, port: u16, inner: &[u8]) -> Vec<u8> {
    let mut quote = Udp::new(node.address(), peer.address(), inner).port(UNDERLAY_PORT).bytes();
    let udp = quote.len() - inner.len() - 8;
    quote[udp..udp + 2].copy_from_slice(&port.to_be_bytes());
    quote.truncate(udp + 8 + 64);
    quote
}

/// The ports that the node's daemon sends from.
pub(crate) fn source_ports(node: &Node) -> Vec<u16> {
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

/// "Port unreachable" about the packet that begins with `quote`.
pub(crate) fn unreachable(source: IpAddr, destination: IpAddr, quote: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let kind = icmpv4::DestUnreachableHeader::Port;
            PacketBuilder::ipv4(source.octets(), destination.octets(), 64)
                .icmpv4(Icmpv4Type::DestinationUnreachable(kind))
                .write(&mut bytes, quote)
                .unwrap();
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            PacketBuilder::ipv6(source.octets(), destination.octets(), 64)
                .icmpv6(Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::Port))
                .write(&mut bytes, quote)
                .unwrap();
        }
        (source, destination) => panic!("{source} and {destination} are of two families"),
    }
    bytes
}
