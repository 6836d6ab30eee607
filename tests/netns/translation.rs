//! Whose address the other side sees: the pod's own inside the cluster, the node's outside.

use culvert_lab::Lab;
use culvert_lab::probe::{self, Transfer};
use overlay_proto::Family;

use crate::harness::{FAMILIES, assert_reaches, lab};

const TRANSFER: Transfer = Transfer::of(1 << 20);

#[test]
fn the_world_outside_sees_the_nodes_address() {
    let lab = lab("nt-masq").up().unwrap();
    for family in FAMILIES {
        let seen = seen_outside(&lab, family);
        assert_eq!(seen, lab.node(1).address_in(family));
    }
}

#[test]
fn without_masquerade_the_world_outside_sees_the_pod() {
    let lab = lab("nt-nomasq").config("[egress]\nmasquerade = false").up().unwrap();
    for family in FAMILIES {
        let subnet = subnet(&lab, family);
        let node = lab.node(1).address_in(family);
        lab.switch().ip(&format!("route add {subnet} via {node}\n")).unwrap();
        assert_eq!(seen_outside(&lab, family), lab.pod(1, 1).address(family));
    }
}

#[test]
fn without_masquerade_pods_reach_every_node() {
    let lab = lab("nt-nomasqnode").config("[egress]\nmasquerade = false").up().unwrap();
    for node in lab.nodes() {
        // Nobody on the underlay knows the way to the pods: the answer comes through the tunnel.
        assert_reaches(lab.pod(1, 1).netns(), node.address());
    }
}

/// Whom a server in the world outside sees when the first node's pod calls.
fn seen_outside(lab: &Lab, family: Family) -> std::net::IpAddr {
    let pod = lab.pod(1, 1);
    let report = probe::transfer(pod.netns(), lab.switch(), lab.outside(family), &TRANSFER);
    report.unwrap().seen.ip()
}

fn subnet(lab: &Lab, family: Family) -> ipnet::IpNet {
    let subnets = lab.node(1).subnets();
    *subnets.iter().find(|subnet| Family::of(subnet.addr()) == family).unwrap()
}
