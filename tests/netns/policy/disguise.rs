//! Packets that come under an address that no policy speaks of, or quote what is not theirs.

use std::net::IpAddr;

use culvert_lab::{Lab, Netns, Pod, probe, wait_until};

use super::directory::Directory;
use crate::capture::Capture;
use crate::harness::{FAMILIES, SOON, run};
use crate::packets::Udp;
use crate::path_errors::unreachable;

const EVIL: &[u8] = b"must not arrive";
const GOOD: &[u8] = b"may arrive";

/// What the command `ip` says of a device.
fn said(netns: &Netns, device: &str, field: &str) -> String {
    let text = netns.ip_output(&["-json", "link", "show", device]).unwrap();
    let links: serde_json::Value = serde_json::from_str(&text).unwrap();
    links[0][field].as_str().unwrap().to_owned()
}

fn link_local(pod: &Pod) -> IpAddr {
    let text =
        run(pod.netns(), "ip", &["-6", "-o", "address", "show", "dev", "eth0", "scope", "link"]);
    let address = text.split_whitespace().find_map(|word| word.strip_suffix("/64"));
    address.unwrap().parse().unwrap()
}

/// Sends a packet by way of the node's bridge.
fn send_by_node(lab: &Lab, from: &Pod, to: IpAddr, packet: &[u8]) {
    let mac = said(lab.node(1).netns(), "v-net-0", "address");
    let neighbour = |arguments: &[&str]| {
        run(from.netns(), "ip", &[&["neigh"], arguments].concat());
    };
    let to = to.to_string();
    neighbour(&["replace", &to, "lladdr", &mac, "dev", "eth0", "nud", "permanent"]);
    probe::send_packet(from.netns(), packet).unwrap();
    neighbour(&["del", &to, "dev", "eth0"]);
}

#[test]
fn link_local_source_gets_past_no_policy() {
    let directory = Directory::new();
    let lab = directory.lab("nt-policyfe80").pods(2).up().unwrap();
    let (victim, attacker) = (lab.pod(1, 1), lab.pod(1, 2));
    let but_pods = "[{ from: [{ ipBlock: { cidr: '::/0', except: ['fd00:10:244::/48'] } }] }]";
    directory.isolate("node1-pod1", but_pods);
    let from = |source: IpAddr, payload| Udp::new(source, victim.ipv6(), payload).bytes();
    // The policy is in force once the pod's other address is refused.
    wait_until(SOON, "the policy to be in force", || {
        let mut now = Capture::start(victim.netns());
        send_by_node(&lab, &attacker, victim.ipv6(), &from(attacker.ipv6(), EVIL));
        now.wait_for(GOOD, || {
            let node = lab.node(1).netns();
            let source = culvert_node::node_file::gateway(&lab.node(1).subnets()[1]).addr();
            probe::send_packet(node, &from(source, GOOD)).unwrap();
        });
        !now.has(EVIL)
    })
    .unwrap();
    let mut seen = Capture::start(victim.netns());
    let disguised = from(link_local(&attacker), EVIL);
    for _again in 0..3 {
        send_by_node(&lab, &attacker, victim.ipv6(), &disguised);
    }
    let source = culvert_node::node_file::gateway(&lab.node(1).subnets()[1]).addr();
    seen.wait_for(GOOD, || probe::send_packet(lab.node(1).netns(), &from(source, GOOD)).unwrap());
    assert!(!seen.has(EVIL));
}

#[test]
fn nobody_outside_comes_under_an_address_of_the_node() {
    let directory = Directory::new();
    let lab = directory.lab("nt-policyself").up().unwrap();
    let (victim, node) = (lab.pod(1, 1), lab.node(1));
    let _server = super::talk::Server::start(victim.netns(), 80);
    directory.isolate("node1-pod1", "[]");
    super::talk::eventually_refuses(lab.pod(2, 1).netns(), victim.ipv4(), 80);
    let underlay = |number: u8| -> [IpAddr; 2] {
        [[192, 168, 1, number].into(), format!("fd00:192:168:1::{number}").parse().unwrap()]
    };
    let switch = lab.switch();
    for (subnet, via) in node.subnets().iter().zip(underlay(11)) {
        let (subnet, via) = (subnet.to_string(), via.to_string());
        run(switch, "ip", &["route", "replace", &subnet, "via", &via]);
    }
    let mut seen = Capture::start(victim.netns());
    for (family, own) in FAMILIES.into_iter().zip(underlay(11)) {
        let to = victim.address(family);
        for _again in 0..3 {
            probe::send_packet(switch, &Udp::new(own, to, EVIL).bytes()).unwrap();
        }
    }
    // The node itself may.
    for (family, own) in FAMILIES.into_iter().zip(underlay(11)) {
        let good = Udp::new(own, victim.address(family), GOOD).bytes();
        seen.wait_for(GOOD, || probe::send_packet(node.netns(), &good).unwrap());
    }
    assert!(!seen.has(EVIL));
}

#[test]
fn pod_under_a_policy_sends_no_errors_about_others_connections() {
    let directory = Directory::new();
    let lab = directory.lab("nt-policyquote").pods(3).up().unwrap();
    let (pod, other, far) = (lab.pod(1, 1), lab.pod(1, 2), lab.pod(2, 1));
    let _server = super::talk::Server::start(pod.netns(), 80);
    directory.isolate("node1-pod1", "[]");
    super::talk::eventually_refuses(far.netns(), pod.ipv4(), 80);
    for family in FAMILIES {
        let (pod, other_end, far_end) =
            (pod.address(family), other.address(family), far.address(family));
        // Two who talk with one another.
        let mut heard = Capture::start(far.netns());
        let talk = Udp::new(other_end, far_end, GOOD).bytes();
        heard.wait_for(GOOD, || probe::send_packet(other.netns(), &talk).unwrap());
        let answer = Udp::new(far_end, other_end, EVIL).bytes();
        let error = unreachable(pod, far_end, &answer);
        for _again in 0..3 {
            probe::send_packet(lab.pod(1, 1).netns(), &error).unwrap();
        }
        heard.wait_for(b"after all", || {
            let last = Udp::new(other_end, far_end, b"after all").bytes();
            probe::send_packet(other.netns(), &last).unwrap();
        });
        assert!(!heard.has(EVIL), "{family:?}");
    }
}
