//! Packets that are not plain: fragments, ICMP errors, extension headers.

use std::env;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use culvert_lab::probe::{Answer, Ping};
use culvert_lab::{Fault, Lab, Netns, Node, Pod, probe, wait_until};
use etherparse::IpNumber;
use rustix::net::sockopt::{self, Ipv4PathMtuDiscovery};

use crate::capture::Capture;
use crate::harness::{FAMILIES, SOON, lab, quick_ping};
use crate::packets::{PORT, Udp};

#[test]
fn fragmented_datagrams_arrive_whole() {
    let lab = lab("nt-frag").up().unwrap();
    let (client, server) = (lab.pod(1, 1), lab.pod(2, 1));
    for family in FAMILIES {
        for len in [1500, 8_000, 60_000] {
            let address = server.address(family);
            let timeout = Duration::from_secs(5);
            probe::udp_echo(client.netns(), server.netns(), address, len, timeout).unwrap();
        }
    }
}

#[test]
fn what_may_be_fragmented_crosses_a_path_narrower_than_the_device() {
    crosses_in_fragments(&lab("nt-fragpath").up().unwrap(), 1364);
}

#[test]
fn what_may_be_fragmented_crosses_a_narrow_path_sealed() {
    crosses_in_fragments(&lab("nt-fragseal").sealed("require").up().unwrap(), 1338);
}

/// Narrows the way to the second node; its pods and those of the first have no less than before.
fn crosses_in_fragments(lab: &Lab, mtu: u64) {
    let (from, to) = (lab.pod(1, 1), lab.pod(2, 1));
    narrow(lab, mtu);
    let before = counts(lab);
    // Whole packets that are too long, fragments that are, and so many that they fill trains. What
    // a pod has cut is put together where the bridge hands frames to the rules of IP, and cut again
    // by the MTU of the TUN device.
    for len in [1400, 1464, 3000, 60_000] {
        let ping = Ping::default().packet_len(len).may_fragment();
        let answer = probe::ping(from.netns(), to.ipv4(), &ping).unwrap();
        assert!(answer.is_reply(), "{len} bytes: {answer:?}");
        let echoed = echo_of_fragile(&from, &to, usize::from(len) - 28);
        assert!(echoed.is_ok(), "{len} bytes: {echoed:?}");
    }
    for ((fragmented, too_big), before) in counts(lab).into_iter().zip(before) {
        assert!(fragmented >= before.0 + 8, "{fragmented} after {before:?}");
        assert_eq!(too_big, before.1);
    }
}

/// The node's kernel puts an IPv6 pod's fragments together, and must cut them again as they were.
#[test]
fn what_an_ipv6_pod_has_fragmented_crosses_a_narrow_path() {
    let lab = lab("nt-frag6").up().unwrap();
    let (one, two) = (lab.pod(1, 1), lab.pod(2, 1));
    for number in [1, 2] {
        let netns = lab.node(number).netns();
        netns.set_sysctl("bridge/bridge-nf-call-ip6tables", "1").unwrap();
    }
    narrow(&lab, 1364);
    // Both learn the path; IPv6 has its senders fragment by that.
    for (from, to) in [(&one, &two), (&two, &one)] {
        let answer =
            probe::ping(from.netns(), to.ipv6(), &Ping::default().packet_len(1464)).unwrap();
        assert!(matches!(answer, Answer::TooBig { mtu: 1364..=1368, .. }), "{answer:?}");
    }
    let timeout = Duration::from_secs(5);
    // With 48 bytes of headers: shorter than the path, and between path and device, and longer.
    for len in [1300, 1330, 1400, 1416, 3000, 60_000] {
        let to = two.ipv6();
        let echoed = probe::udp_echo(one.netns(), two.netns(), to, len, timeout);
        assert!(echoed.is_ok(), "{len} bytes: {echoed:?}");
    }
    for (_, too_big) in counts(&lab) {
        assert_eq!(too_big, 0, "the kernel cuts, and tells");
    }
}

#[test]
fn a_ping_that_fills_the_wider_direction_is_answered_by_the_narrower() {
    let lab = lab("nt-oneside").up().unwrap();
    narrow(&lab, 1364);
    // kernel: a veth takes four bytes more than its MTU (a VLAN tag), a bridge gives none (6.18).
    let wider = u16::try_from(mtu_to_other(&lab, 2)).unwrap();
    assert!(wider > 1364, "the directions differ");
    let (from, to) = (lab.pod(2, 1), lab.pod(1, 1));
    let send =
        |len| probe::ping(from.netns(), to.ipv4(), &Ping::default().packet_len(len)).unwrap();
    let answer = send(wider);
    assert!(answer.is_reply(), "{wider} bytes: {answer:?}");
    let answer = send(wider + 1);
    let told = matches!(answer, Answer::TooBig { mtu, .. } if mtu == u32::from(wider));
    assert!(told, "{answer:?}");
}

/// Makes the way to the second node carry 1400 bytes, and waits until both know.
fn narrow(lab: &Lab, mtu: u64) {
    lab.inflict(&Fault::Narrow { node: "node2".to_owned(), mtu: 1400 }).unwrap();
    let known = || {
        quick_ping(lab.pod(1, 1).netns(), lab.pod(2, 1).ipv4());
        mtu_to_other(lab, 1) == mtu && (mtu..=mtu + 4).contains(&mtu_to_other(lab, 2))
    };
    wait_until(Duration::from_secs(90), "both nodes to know the path", known).unwrap();
}

fn mtu_to_other(lab: &Lab, node: u16) -> u64 {
    lab.node(node).status().unwrap()["peers"][0]["mtu"].as_u64().unwrap()
}

/// Of each node, how many packets it has fragmented, and how many were too long for that.
fn counts(lab: &Lab) -> Vec<(u64, u64)> {
    let count = |node: &Node| {
        let status = node.status().unwrap();
        let number = |value: &serde_json::Value| value.as_u64().unwrap();
        (number(&status["fragmented_packets"]), number(&status["drops"]["too_big"]))
    };
    lab.nodes().iter().map(count).collect()
}

/// Sends a datagram there and back that may be fragmented, by kernels that have learnt nothing of
/// the path.
fn echo_of_fragile(from: &Pod, to: &Pod, len: usize) -> io::Result<()> {
    let server = to.netns().run(|| UdpSocket::bind((to.ipv4(), 0))).unwrap()?;
    let client = connected(from.netns(), server.local_addr()?);
    for socket in [&server, &client] {
        sockopt::set_ip_mtu_discover(socket, Ipv4PathMtuDiscovery::OMIT)?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    }
    let payload: Vec<u8> = (0..len).map(|at| u8::try_from(at % 251).unwrap()).collect();
    let mut buffer = vec![0; len + 1];
    client.send(&payload)?;
    let (received, sender) = server.recv_from(&mut buffer)?;
    server.send_to(&buffer[..received], sender)?;
    let echoed = client.recv(&mut buffer)?;
    assert_eq!(buffer[..echoed], payload);
    Ok(())
}

#[test]
fn port_unreachable_comes_back_across_nodes() {
    let lab = lab("nt-closed").up().unwrap();
    for family in FAMILIES {
        let server = SocketAddr::new(lab.pod(2, 1).address(family), PORT);
        let client = connected(lab.pod(1, 1).netns(), server);
        client.send(b"anybody there").unwrap();
        client.set_read_timeout(Some(SOON)).unwrap();
        let error = client.recv(&mut [0; 16]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{family}");
    }
}

#[test]
fn packets_that_expire_at_the_other_node_are_answered_from_there() {
    let lab = lab("nt-expire").up().unwrap();
    let (client, server) = (lab.pod(1, 1), lab.pod(2, 1));
    for family in FAMILIES {
        let payload = format!("expires {family}");
        let packet = Udp::new(client.address(family), server.address(family), payload.as_bytes());
        let mut seen = Capture::start(client.netns());
        // One hop is its own node, the second the other.
        probe::send_packet(client.netns(), &packet.hop_limit(2).bytes()).unwrap();
        let time_exceeded = |packet: &Vec<u8>| match packet[0] >> 4 {
            4 => packet[9] == 1 && packet[20] == 11 && packet[12..15] == [10, 244, 2],
            _ => packet[6] == 58 && packet[40] == 3 && packet[15] == 2,
        };
        let look = || seen.packets().iter().any(time_exceeded);
        wait_until(SOON, &format!("{family} time exceeded"), look).unwrap();
    }
}

#[test]
fn ipv6_packets_with_extension_headers_cross() {
    let lab = lab("nt-exthdr").up().unwrap();
    let (client, server) = (lab.pod(1, 1), lab.pod(2, 1));
    let listener = connected(server.netns(), SocketAddr::new(client.ipv6(), PORT));
    listener.set_read_timeout(Some(SOON)).unwrap();
    let port = listener.local_addr().unwrap().port();

    for (payload, first, extensions) in extensions() {
        let packet = Udp::new(client.ipv6(), server.ipv6(), payload.as_bytes()).port(port);
        let bytes = packet.with_extensions(first, &extensions);
        probe::send_packet(client.netns(), &bytes).unwrap();
        let mut buffer = [0; 64];
        let len = listener.recv(&mut buffer).unwrap_or_else(|error| panic!("{payload}: {error}"));
        assert_eq!(buffer[..len], *payload.as_bytes());
    }
}

/// Variable that says how often [`no_packet_with_extension_headers_is_lost`] sends them all.
const RUNS_VARIABLE: &str = "CULVERT_TEST_RUNS";

/// How often without it.
const FEW_RUNS: u32 = 50;

#[test]
fn no_packet_with_extension_headers_is_lost() {
    let runs = match env::var(RUNS_VARIABLE) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{RUNS_VARIABLE} is no number: {text}")),
        Err(_) => FEW_RUNS,
    };
    let lab = lab("nt-exthdrs").up().unwrap();
    let (client, server) = (lab.pod(1, 1), lab.pod(2, 1));
    let listener = connected(server.netns(), SocketAddr::new(client.ipv6(), PORT));
    // Longer than a busy machine takes; each that is lost costs as much.
    listener.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let port = listener.local_addr().unwrap().port();
    let lost: u32 =
        (0..runs).map(|run| lost_in_one_run(&client, &server, &listener, port, run)).sum();
    let sent = runs * u32::try_from(extensions().len()).unwrap();
    // For whoever asks with `--nocapture`.
    println!("{sent} packets with extension headers sent, {lost} lost");
    assert_eq!(lost, 0, "of {sent}");
}

/// Sends one packet of each kind, and counts those that did not arrive as they were sent.
fn lost_in_one_run(client: &Pod, server: &Pod, listener: &UdpSocket, port: u16, run: u32) -> u32 {
    let arrives = |(name, first, headers): (&str, IpNumber, Vec<u8>)| {
        let payload = format!("{name} {run}");
        let packet = Udp::new(client.ipv6(), server.ipv6(), payload.as_bytes()).port(port);
        probe::send_packet(client.netns(), &packet.with_extensions(first, &headers)).unwrap();
        let mut buffer = [0; 64];
        // One that is late is not this one.
        while let Ok(len) = listener.recv(&mut buffer) {
            if buffer[..len] == *payload.as_bytes() {
                return true;
            }
        }
        false
    };
    extensions().into_iter().map(|kind| u32::from(!arrives(kind))).sum()
}

/// Extension headers before UDP: what they are, the kind of the first, and their bytes.
fn extensions() -> Vec<(&'static str, IpNumber, Vec<u8>)> {
    /// Eight bytes: next header, no more than these, and padding (RFC 8200 §4.2).
    const fn options(next: IpNumber) -> [u8; 8] {
        [next.0, 0, 1, 4, 0, 0, 0, 0]
    }
    let options_before = |next| options(next).to_vec();
    // Sixteen bytes; of a kind that nobody knows, which is to be passed over (RFC 8200 §4.2).
    // kernel: it takes no more than seven bytes of padding.
    let long = [&[IpNumber::UDP.0, 1, 0x1e, 12][..], &[0; 12]].concat();
    // Of a type that nobody knows, with no segments left, which is to be passed over (§4.4).
    let routing = [IpNumber::UDP.0, 0, 253, 0, 0, 0, 0, 0].to_vec();
    let two = [options(IpNumber::IPV6_DESTINATION_OPTIONS), options(IpNumber::UDP)].concat();
    let three = [
        &options(IpNumber::IPV6_DESTINATION_OPTIONS)[..],
        &options(IpNumber::IPV6_ROUTE_HEADER),
        &routing,
    ]
    .concat();
    vec![
        ("destination", IpNumber::IPV6_DESTINATION_OPTIONS, options_before(IpNumber::UDP)),
        ("hop-by-hop", IpNumber::IPV6_HEADER_HOP_BY_HOP, options_before(IpNumber::UDP)),
        ("long", IpNumber::IPV6_DESTINATION_OPTIONS, long),
        ("routing", IpNumber::IPV6_ROUTE_HEADER, routing),
        ("two", IpNumber::IPV6_HEADER_HOP_BY_HOP, two),
        ("three", IpNumber::IPV6_HEADER_HOP_BY_HOP, three),
    ]
}

/// A UDP socket in `netns` that hears from `peer` only.
fn connected(netns: &Netns, peer: SocketAddr) -> UdpSocket {
    let any: IpAddr = if peer.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let socket = netns.run(|| UdpSocket::bind(SocketAddr::new(any, 0))).unwrap().unwrap();
    socket.connect(peer).unwrap();
    socket
}
