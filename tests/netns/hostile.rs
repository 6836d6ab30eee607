//! What must not get in, and what must not get out: each packet is dropped under its own reason,
//! and no pod sees it.

use std::net::IpAddr;

use culvert_lab::{Lab, Netns, Node, UNDERLAY_PORT, probe, wait_until};
use overlay_proto::Family;

use crate::capture::Capture;
use crate::harness::{FAMILIES, SOON, lab, run};
use crate::packets::{Udp, VNI, in_overlay, send_to_daemon};

/// What every packet carries that must not arrive.
const EVIL: &[u8] = b"must not arrive";

/// What the packet carries that shows that everything before it was handled.
const GOOD: &[u8] = b"may arrive";

#[test]
fn what_a_peer_may_not_send_is_dropped_under_its_reason() {
    drops_what_a_peer_may_not_send(&lab("nt-hostile").nodes(3).up().unwrap());
}

#[test]
fn what_a_peer_may_not_send_is_dropped_under_its_reason_over_an_ipv6_underlay() {
    let lab = lab("nt-hostile6").nodes(3).underlay(Family::V6);
    drops_what_a_peer_may_not_send(&lab.up().unwrap());
}

#[test]
fn datagrams_of_strangers_are_dropped() {
    let lab = lab("nt-stranger").up().unwrap();
    let (from, to) = (lab.pod(2, 1).ipv4(), lab.pod(1, 1).ipv4());
    let datagram = in_overlay(VNI, &Udp::new(from, to, EVIL).bytes());
    // The switch is a neighbour on the underlay and no node of the table.
    assert_dropped(&lab, lab.switch(), "unknown_peer", &datagram);
}

#[test]
fn nobody_on_the_underlay_speaks_for_a_pod_without_a_tunnel() {
    for underlay in FAMILIES {
        let lab = lab("nt-naked").nodes(3).pods(2).underlay(underlay).up().unwrap();
        assert_takes_no_naked_packet(&lab, underlay, false);
    }
}

#[test]
fn where_all_is_sealed_nobody_on_the_underlay_reaches_pods_without_a_tunnel() {
    for underlay in FAMILIES {
        let lab =
            lab("nt-nakedseal").nodes(3).pods(2).underlay(underlay).sealed("require").up().unwrap();
        assert_takes_no_naked_packet(&lab, underlay, true);
    }
}

/// Has a machine on the underlay route packets to a node that are for a pod of it, or for another
/// node's, from every address that might be believed.
#[track_caller]
fn assert_takes_no_naked_packet(lab: &Lab, family: Family, sealed: bool) {
    let (node, victim, far) = (lab.node(2), lab.pod(2, 1), lab.pod(3, 1));
    for pod in [&victim, &far] {
        let (to, via) = (pod.address(family), node.address());
        lab.switch().ip(&format!("route add {to} via {via}\n")).unwrap();
    }
    let own = lab.pod(2, 2).address(family);
    let mut claims = vec![lab.pod(1, 1).address(family), own];
    if sealed {
        claims.extend([lab.node(1).address(), lab.outside(family)]);
    }
    for pod in [&victim, &far] {
        let mut seen = Capture::start(pod.netns());
        let to = pod.address(family);
        for claimed in &claims {
            probe::send_packet(lab.switch(), &Udp::new(*claimed, to, EVIL).bytes()).unwrap();
        }
        let honest = Udp::new(lab.pod(1, 1).address(family), to, GOOD).bytes();
        seen.wait_for(GOOD, || probe::send_packet(lab.pod(1, 1).netns(), &honest).unwrap());
        assert!(!seen.has(EVIL), "{to}");
    }
}

#[test]
fn pods_cannot_speak_for_pods_of_other_nodes() {
    let lab = lab("nt-spoof").nodes(3).up().unwrap();
    // The bridge lets nothing of it through to the daemon, which has a check of its own.
    for family in FAMILIES {
        let victim = lab.pod(2, 1);
        let mut seen = Capture::start(victim.netns());
        let (claimed, to) = (lab.pod(3, 1).address(family), victim.address(family));
        let pod = lab.pod(1, 1);
        probe::send_packet(pod.netns(), &Udp::new(claimed, to, EVIL).bytes()).unwrap();
        let honest = Udp::new(pod.address(family), to, GOOD).bytes();
        seen.wait_for(GOOD, || probe::send_packet(pod.netns(), &honest).unwrap());
        assert!(!seen.has(EVIL), "{family}");
    }
    assert_eq!(lab.node(1).drops("foreign_source").unwrap(), 0);
    uncheck_pods(lab.node(1));
    for family in FAMILIES {
        let victim = lab.pod(2, 1);
        let mut seen = Capture::start(victim.netns());
        let before = lab.node(1).drops("foreign_source").unwrap();
        let (claimed, to) = (lab.pod(3, 1).address(family), victim.address(family));
        let pod = lab.pod(1, 1);
        let evil = Udp::new(claimed, to, EVIL).bytes();
        let send = || probe::send_packet(pod.netns(), &evil).unwrap();
        wait_for_drop(lab.node(1), "foreign_source", before, send);

        let honest = Udp::new(pod.address(family), to, GOOD).bytes();
        seen.wait_for(GOOD, || probe::send_packet(pod.netns(), &honest).unwrap());
        assert!(!seen.has(EVIL), "{family}");
    }
}

/// Has the bridge of `node` let everything of its pods through, as for pods attached without the
/// source check.
pub(crate) fn uncheck_pods(node: &Node) {
    let links = run(node.netns(), "ip", &["-br", "link", "show", "type", "veth"]);
    let names = links.lines().filter_map(|line| line.split(['@', ' ']).next());
    for port in names.filter(|name| name.starts_with("culv")) {
        let link = run(node.netns(), "ip", &["-json", "link", "show", port]);
        let link: serde_json::Value = serde_json::from_str(&link).unwrap();
        // A note that is gone would be put back.
        let note = link[0]["ifalias"].as_str().unwrap().replace(" checked", "");
        run(node.netns(), "ip", &["link", "set", port, "alias", &note]);
    }
    let table = ["table", "bridge", "culvert"];
    run(node.netns(), "nft", &[&["delete"][..], &table].concat());
    wait_until(SOON, "the table without the pods", || {
        let list = node.netns().command("nft").arg("list").args(table).output().unwrap();
        list.status.success() && !String::from_utf8_lossy(&list.stdout).contains("elements")
    })
    .unwrap();
}

#[test]
fn pods_cannot_pass_for_a_node() {
    pods_pass_for_no_node(&lab("nt-inject").nodes(3).up().unwrap());
}

#[test]
fn pods_cannot_pass_for_a_node_over_an_ipv6_underlay() {
    pods_pass_for_no_node(&lab("nt-inject6").nodes(3).underlay(Family::V6).up().unwrap());
}

#[test]
fn pods_cannot_pass_for_a_node_without_masquerade() {
    let lab = lab("nt-injectnm").nodes(3).config("[egress]\nmasquerade = false");
    pods_pass_for_no_node(&lab.up().unwrap());
}

#[test]
fn pods_may_use_the_tunnels_port_among_themselves() {
    let lab = lab("nt-nested").up().unwrap();
    let (client, server) = (lab.pod(1, 1), lab.pod(2, 1));
    for family in FAMILIES {
        let mut seen = Capture::start(server.netns());
        let payload = format!("{family} on the tunnel's port");
        let packet = Udp::new(client.address(family), server.address(family), payload.as_bytes());
        let packet = packet.port(UNDERLAY_PORT).bytes();
        let send = || probe::send_packet(client.netns(), &packet).unwrap();
        seen.wait_for(payload.as_bytes(), send);
    }
}

/// A pod of the first node sends tunnel datagrams, under its own address and under a node's, to its
/// own node and to another.
fn pods_pass_for_no_node(lab: &Lab) {
    let pod = lab.pod(1, 1);
    let peer = lab.node(3).address();
    let own = pod.address(Family::of(peer));
    for (target, victim) in [(1, lab.pod(1, 1)), (2, lab.pod(2, 1))] {
        let node = lab.node(target).address();
        let mut seen = Capture::start(victim.netns());
        for family in FAMILIES {
            let to = victim.address(family);
            // A pod of the node that it passes for; its own neighbour, as which it may be
            // masqueraded.
            let far = Udp::new(lab.pod(3, 1).address(family), to, EVIL).bytes();
            let near = Udp::new(neighbour(family), to, EVIL).bytes();
            for (source, inner) in [(peer, &far), (own, &far), (own, &near)] {
                let datagram = in_overlay(VNI, inner);
                let outer = Udp::new(source, node, &datagram).port(UNDERLAY_PORT);
                probe::send_packet(pod.netns(), &outer.bytes()).unwrap();
            }
            let honest =
                in_overlay(VNI, &Udp::new(lab.pod(3, 1).address(family), to, GOOD).bytes());
            seen.wait_for(GOOD, || send_to_daemon(lab.node(3).netns(), node, &honest));
            let delivered = |inner: &Vec<u8>| seen_as_packet(&mut seen, inner);
            assert!(![far, near].iter().any(delivered), "node{target}, {family}");
        }
    }
}

/// Whether `inner` arrived as a packet, not as another packet's payload. Its hop limit has changed.
fn seen_as_packet(seen: &mut Capture, inner: &[u8]) -> bool {
    let addresses = if inner[0] >> 4 == 4 { 12..20 } else { 8..40 };
    seen.packets().iter().any(|packet| {
        packet.len() == inner.len() && packet.get(addresses.clone()) == inner.get(addresses.clone())
    })
}

/// An address of the first node's subnet that no pod has.
fn neighbour(family: Family) -> IpAddr {
    match family {
        Family::V4 => [10, 244, 1, 99].into(),
        Family::V6 => "fd00:10:244:1::99".parse().unwrap(),
    }
}

fn drops_what_a_peer_may_not_send(lab: &Lab) {
    let peer = lab.node(2).netns();
    let (from, to) = (lab.pod(2, 1), lab.pod(1, 1));
    let other = lab.pod(3, 1);
    for family in FAMILIES {
        let (source, destination) = (from.address(family), to.address(family));
        let honest = Udp::new(source, destination, EVIL).bytes();
        let spoofed = Udp::new(other.address(family), destination, EVIL).bytes();
        assert_dropped(lab, peer, "spoofed_source", &in_overlay(VNI, &spoofed));
        let own = Udp::new(destination, destination, EVIL).bytes();
        assert_dropped(lab, peer, "spoofed_source", &in_overlay(VNI, &own));
        // A node may speak for itself, by the address that the table has, and for no other node.
        for node in [lab.node(1), lab.node(3)] {
            let underlay = Udp::new(node.address_in(family), destination, EVIL).bytes();
            assert_dropped(lab, peer, "spoofed_source", &in_overlay(VNI, &underlay));
        }
        for elsewhere in
            [other.address(family), lab.outside(family), lab.node(1).address_in(family)]
        {
            let relayed = Udp::new(source, elsewhere, EVIL).bytes();
            assert_dropped(lab, peer, "not_our_destination", &in_overlay(VNI, &relayed));
        }
        assert_dropped(lab, peer, "vni", &in_overlay(VNI + 1, &honest));

        let good = in_overlay(VNI, &honest);
        for (reason, byte, bits) in [
            ("flags", 0, 0x08),
            ("flags", 0, 0x04),
            ("flags", 0, 0x02),
            ("flags", 0, 0x01),
            ("version", 0, 0x10),
            ("reserved", 0, 0x40),
            ("reserved", 1, 0x01),
            ("reserved", 7, 0x01),
            // Ethernet (3) and the other family (1 and 2 differ in both bits).
            ("next_protocol", 3, 0x80),
            ("inner_family_mismatch", 3, 0x03),
        ] {
            let mut changed = good.clone();
            changed[byte] ^= bits;
            assert_dropped(lab, peer, reason, &changed);
        }
        assert_dropped(lab, peer, "too_short", &[]);
        assert_dropped(lab, peer, "too_short", &good[..7]);
        assert_dropped(lab, peer, "inner_too_short", &good[..8 + 12]);
        assert_dropped(lab, peer, "inner_truncated", &good[..good.len() - 1]);
        let mut strange = good.clone();
        strange[8] = 0x50 | (strange[8] & 0x0f);
        assert_dropped(lab, peer, "inner_version", &strange);
    }
}

/// Sends `datagram` from `from` to the first node and demands that it is dropped for `reason` and
/// that the pod there sees nothing of it.
#[track_caller]
fn assert_dropped(lab: &Lab, from: &Netns, reason: &str, datagram: &[u8]) {
    let node = lab.node(1);
    let mut seen = Capture::start(lab.pod(1, 1).netns());
    let before = node.drops(reason).unwrap();
    wait_for_drop(node, reason, before, || send_to_daemon(from, node.address(), datagram));

    let (source, destination): (IpAddr, IpAddr) = (lab.pod(2, 1).ipv4(), lab.pod(1, 1).ipv4());
    let good = in_overlay(VNI, &Udp::new(source, destination, GOOD).bytes());
    seen.wait_for(GOOD, || send_to_daemon(lab.node(2).netns(), node.address(), &good));
    assert!(!seen.has(EVIL), "a packet to be dropped for {reason} arrived");
}

/// Sends until it is counted: a busy kernel loses packets between namespaces.
#[track_caller]
fn wait_for_drop(node: &Node, reason: &str, before: u64, send: impl Fn()) {
    let what = format!("a drop for {reason}");
    let look = || {
        send();
        node.drops(reason).unwrap() > before
    };
    if let Err(error) = wait_until(SOON, &what, look) {
        panic!("{error}: {}", node.status().unwrap()["drops"]);
    }
}
