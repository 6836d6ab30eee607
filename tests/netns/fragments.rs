//! Packets that are not plain: fragments, ICMP errors, extension headers.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use culvert_lab::{Netns, probe, wait_until};
use etherparse::IpNumber;

use crate::capture::Capture;
use crate::harness::{FAMILIES, SOON, lab};
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

    /// Eight bytes: next header, no more than these, and padding (RFC 8200 §4.2).
    const fn options(next: IpNumber) -> [u8; 8] {
        [next.0, 0, 1, 4, 0, 0, 0, 0]
    }
    let destination = options(IpNumber::UDP).to_vec();
    let two = [options(IpNumber::IPV6_DESTINATION_OPTIONS), options(IpNumber::UDP)].concat();
    for (payload, first, extensions) in [
        ("destination options", IpNumber::IPV6_DESTINATION_OPTIONS, destination.clone()),
        ("hop-by-hop options", IpNumber::IPV6_HEADER_HOP_BY_HOP, destination),
        ("both", IpNumber::IPV6_HEADER_HOP_BY_HOP, two),
    ] {
        let packet = Udp::new(client.ipv6(), server.ipv6(), payload.as_bytes()).port(port);
        let bytes = packet.with_extensions(first, &extensions);
        probe::send_packet(client.netns(), &bytes).unwrap();
        let mut buffer = [0; 64];
        let len = listener.recv(&mut buffer).unwrap_or_else(|error| panic!("{payload}: {error}"));
        assert_eq!(buffer[..len], *payload.as_bytes());
    }
}

/// A UDP socket in `netns` that hears from `peer` only.
fn connected(netns: &Netns, peer: SocketAddr) -> UdpSocket {
    let any: IpAddr = if peer.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let socket = netns.run(|| UdpSocket::bind(SocketAddr::new(any, 0))).unwrap().unwrap();
    socket.connect(peer).unwrap();
    socket
}
