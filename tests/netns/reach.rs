//! Who reaches whom, and whether bytes arrive as they were sent.

use std::net::IpAddr;
use std::time::Duration;

use culvert_lab::probe::{self, Transfer};
use culvert_lab::{Lab, LabBuilder, Netns};
use overlay_proto::Family;

use crate::harness::{FAMILIES, assert_reaches, lab};

/// More than the receive windows and queues on the way hold at once.
const BULK: u64 = 24 << 20;

const ECHO_TIMEOUT: Duration = Duration::from_secs(2);

#[test]
fn pods_and_nodes_reach_one_another_and_the_outside() {
    everybody_reaches_everybody(lab("nt-reach").nodes(3).pods(2));
}

#[test]
fn pods_and_nodes_reach_one_another_and_the_outside_over_an_ipv6_underlay() {
    everybody_reaches_everybody(lab("nt-reach6").nodes(3).underlay(Family::V6));
}

#[test]
fn bulk_arrives_unchanged_and_from_its_sender() {
    bulk_arrives(&lab("nt-bulk").pods(2).up().unwrap());
}

#[test]
fn bulk_arrives_unchanged_and_from_its_sender_over_an_ipv6_underlay() {
    bulk_arrives(&lab("nt-bulk6").pods(2).underlay(Family::V6).up().unwrap());
}

#[test]
fn datagrams_of_every_size_cross_and_come_back() {
    let lab = lab("nt-udp").pods(2).up().unwrap();
    let near = lab.pod(1, 2);
    let far = lab.pod(2, 1);
    for family in FAMILIES {
        for server in [&near, &far] {
            let address = server.address(family);
            // The last fills an inner packet of 1464 bytes, over IPv6.
            for len in [0, 1, 64, 1200, 1464 - 48] {
                let client = lab.pod(1, 1);
                let report =
                    probe::udp_echo(client.netns(), server.netns(), address, len, ECHO_TIMEOUT);
                assert_eq!(report.unwrap().seen.ip(), client.address(family), "{len}");
            }
        }
    }
}

fn everybody_reaches_everybody(builder: LabBuilder) {
    let lab = builder.up().unwrap();
    let pods = lab.pods();
    let places: Vec<&Netns> =
        pods.iter().map(|pod| pod.netns()).chain(lab.nodes().iter().map(|n| n.netns())).collect();
    for family in FAMILIES {
        for from in &places {
            for pod in &pods {
                assert_reaches(from, pod.address(family));
            }
            for node in lab.nodes() {
                assert_reaches(from, router_address(&lab, node_number(&lab, node.name()), family));
                assert_reaches(from, node.address_in(family));
            }
            assert_reaches(from, lab.outside(family));
        }
    }
    for node in lab.nodes() {
        let drops = node.status().unwrap()["drops"].clone();
        let dropped = drops.as_object().unwrap().iter().filter(|(_, count)| **count != 0);
        // The kernel announces its multicast groups on every device.
        let dropped: Vec<_> = dropped.filter(|(reason, _)| *reason != "multicast").collect();
        assert!(dropped.is_empty(), "{} dropped {dropped:?}", node.name());
    }
}

fn bulk_arrives(lab: &Lab) {
    let (client, near, far) = (lab.pod(1, 1), lab.pod(1, 2), lab.pod(2, 1));
    let transfer = Transfer::of(BULK);
    let node = lab.node(1);
    for family in FAMILIES {
        let of = |pod: &culvert_lab::Pod| pod.address(family);
        let pairs = [
            (client.netns(), near.netns(), of(&near), of(&client)),
            (client.netns(), far.netns(), of(&far), of(&client)),
            (far.netns(), client.netns(), of(&client), of(&far)),
            // A node talks to its own pods from the bridge, and to others from the TUN device.
            (node.netns(), client.netns(), of(&client), router_address(lab, 1, family)),
            (node.netns(), far.netns(), of(&far), tun_address(lab, 1, family)),
            (far.netns(), node.netns(), router_address(lab, 1, family), of(&far)),
        ];
        for (from, to, server, source) in pairs {
            let report = probe::transfer(from, to, server, &transfer).unwrap();
            assert_eq!(report.seen.ip(), source, "{} to {server}", from.name());
            assert_eq!(report.seen, report.client, "{} to {server}", from.name());
        }
    }
}

fn node_number(lab: &Lab, name: &str) -> u16 {
    let place = lab.nodes().iter().position(|node| node.name() == name).unwrap();
    u16::try_from(place + 1).unwrap()
}

/// The first address of the node's subnet, which the bridge has.
fn router_address(lab: &Lab, node: u16, family: Family) -> IpAddr {
    let subnets = lab.node(node).subnets();
    let subnet = subnets.iter().find(|subnet| Family::of(subnet.addr()) == family).unwrap();
    subnet.hosts().find(|address| *address != subnet.network()).unwrap()
}

/// The network address of the node's subnet, which the TUN device has.
fn tun_address(lab: &Lab, node: u16, family: Family) -> IpAddr {
    let subnets = lab.node(node).subnets();
    subnets.iter().find(|subnet| Family::of(subnet.addr()) == family).unwrap().network()
}
