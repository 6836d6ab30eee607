//! What must not get in by the ports of the other codecs.

use std::net::{SocketAddr, UdpSocket};

use culvert_lab::probe;
use culvert_lab::{Lab, wait_until};

use super::foreign::Kind;
use crate::capture::Capture;
use crate::harness::{SOON, lab};
use crate::packets::Udp;

/// The second node's tunnel end by the table, and the first one's by its underlay address.
const MAC: &str = "02:00:00:00:00:02";
const OWN: [u8; 6] = [0x02, 0xce, 192, 168, 1, 11];

/// What must not arrive, and what shows that everything before it was handled.
const EVIL: &[u8] = b"must not arrive";
const GOOD: &[u8] = b"may arrive";

/// A lab whose second node, by the table, speaks VXLAN and whose third speaks bare IP.
fn mixed(name: &str) -> Lab {
    let lab = lab(name).nodes(3).without_daemons().up().unwrap();
    let text = lab.table().to_toml();
    let [first, second, third] = entries(&text);
    let second = format!("{second}codec = \"vxlan\"\nmac = \"{MAC}\"\n");
    lab.write_table(&format!("{first}{second}{third}codec = \"ip-udp\"\n")).unwrap();
    lab.node(1).start().unwrap();
    lab.add_pod(1).unwrap();
    lab
}

/// The three entries of a table.
fn entries(text: &str) -> [String; 3] {
    let parts: Vec<String> =
        text.split("[[node]]").skip(1).map(|e| format!("[[node]]{e}")).collect();
    parts.try_into().unwrap()
}

/// A frame from the second node, of network `vni`.
fn frame(vni: u8, to: [u8; 6], kind: u16, inner: &[u8]) -> Vec<u8> {
    let mut bytes = vec![8, 0, 0, 0, 0, 0, vni, 0];
    bytes.extend(to);
    bytes.extend([2, 0, 0, 0, 0, 2]);
    bytes.extend(kind.to_be_bytes());
    bytes.extend(inner);
    bytes
}

fn send(lab: &Lab, from: u16, port: u16, datagram: &[u8]) {
    let socket = lab.node(from).netns().run(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
    socket.send_to(datagram, SocketAddr::new(lab.node(1).address(), port)).unwrap();
}

#[test]
fn what_does_not_belong_on_a_port_is_dropped_under_its_reason() {
    let lab = mixed("nt-codecs");
    let pod = lab.pod(1, 1);
    let udp = |node: u8, payload| Udp::new([10, 244, node, 2].into(), pod.ipv4(), payload).bytes();
    let (evil, own) = (udp(2, EVIL), udp(3, EVIL));
    let gpe = crate::packets::in_overlay(1, &evil);
    let (vxlan, ip_udp) = (Kind::Flannel.port(), Kind::Bare.port());
    let mut options = frame(1, OWN, 0x0800, &evil);
    options[0] |= 0x80;
    let mut reserved = frame(1, OWN, 0x0800, &evil);
    reserved[7] = 1;
    for (reason, from, port, datagram) in [
        // Each to the port of another codec, well formed for that or for its own.
        ("wrong_codec", 2, 4790, gpe.clone()),
        ("wrong_codec", 2, ip_udp, evil.clone()),
        ("wrong_codec", 3, 4790, crate::packets::in_overlay(1, &own)),
        ("wrong_codec", 3, vxlan, frame(1, OWN, 0x0800, &own)),
        ("too_short", 2, vxlan, gpe[..21].to_vec()),
        ("flags", 2, vxlan, gpe),
        ("flags", 2, vxlan, options),
        ("reserved", 2, vxlan, reserved),
        ("vni", 2, vxlan, frame(2, OWN, 0x0800, &evil)),
        ("ethertype", 2, vxlan, frame(1, [0xff; 6], 0x0806, &evil)),
        ("ethertype", 2, vxlan, frame(1, OWN, 0x8100, &evil)),
        ("destination_mac", 2, vxlan, frame(1, [0xff; 6], 0x0800, &evil)),
        ("destination_mac", 2, vxlan, frame(1, [2, 0, 0, 0, 0, 2], 0x0800, &evil)),
        ("inner_family_mismatch", 2, vxlan, frame(1, OWN, 0x86dd, &evil)),
        ("spoofed_source", 2, vxlan, frame(1, OWN, 0x0800, &own)),
        ("spoofed_source", 3, ip_udp, evil.clone()),
        ("next_protocol", 3, ip_udp, frame(1, OWN, 0x0800, &own)),
        ("too_short", 3, ip_udp, Vec::new()),
        ("inner_truncated", 3, ip_udp, own[..own.len() - 1].to_vec()),
    ] {
        let mut seen = Capture::start(pod.netns());
        let node = lab.node(1);
        let before = node.drops(reason).unwrap();
        let what = format!("{datagram:02x?} to {port} to be dropped for {reason}");
        // Again and again: a busy kernel loses packets between namespaces.
        let counted = || {
            send(&lab, from, port, &datagram);
            node.drops(reason).unwrap() > before
        };
        if let Err(error) = wait_until(SOON, &what, counted) {
            panic!("{error}: {}", node.status().unwrap()["drops"]);
        }
        let delivered = || {
            send(&lab, 2, vxlan, &frame(1, OWN, 0x0800, &udp(2, GOOD)));
            send(&lab, 3, ip_udp, &udp(3, GOOD));
            seen.has(GOOD)
        };
        wait_until(SOON, "what may arrive", delivered).unwrap();
        assert!(!seen.has(EVIL), "{what}");
    }
}

#[test]
fn pods_reach_no_port_of_any_codec() {
    let lab = mixed("nt-codecpod");
    let pod = lab.pod(1, 1);
    let mut seen = Capture::start(pod.netns());
    let inner = |node: u8| Udp::new([10, 244, node, 2].into(), pod.ipv4(), EVIL).bytes();
    for (node, port, datagram) in [
        (2, Kind::Flannel.port(), frame(1, OWN, 0x0800, &inner(2))),
        (3, Kind::Bare.port(), inner(3)),
    ] {
        let source = lab.node(node).address();
        let outer = Udp::new(source, lab.node(1).address(), &datagram).port(port);
        probe::send_packet(pod.netns(), &outer.bytes()).unwrap();
    }
    let good = Udp::new([10, 244, 3, 2].into(), pod.ipv4(), GOOD).bytes();
    let delivered = || {
        send(&lab, 3, Kind::Bare.port(), &good);
        seen.has(GOOD)
    };
    wait_until(SOON, "what may arrive", delivered).unwrap();
    let arrived = |packet: &Vec<u8>| packet.ends_with(EVIL) && packet[12..14] == [10, 244];
    let delivered = seen.packets().iter().filter(|packet| packet.len() > 20 && arrived(packet));
    // What the pod itself sent carries the whole datagram, and comes from a node's address.
    assert_eq!(delivered.count(), 0);
}
