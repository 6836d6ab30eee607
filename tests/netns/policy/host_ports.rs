//! A port of the node that leads to a pod is no way around a policy: who calls is judged as who he
//! is, before he seems to be the bridge.

use std::net::Ipv4Addr;

use serde_json::json;

use super::directory::Directory;
use super::talk::{Server, can_connect, eventually_connects, eventually_refuses};
use super::{bridge_calls, set_bridge_calls};
use crate::harness::FAMILIES;
use crate::host_ports::source_toward;

#[test]
fn port_of_the_node_is_judged_by_who_calls() {
    let directory = Directory::new();
    let lab = directory.lab("nt-policyport").pods(3).up().unwrap();
    let (node, server) = (lab.node(1), lab.pod(1, 1));
    let (allowed, other) = (lab.pod(1, 2), lab.pod(1, 3));
    node.cni("DEL", &server).unwrap();
    let addresses = FAMILIES.map(|family| server.address(family).to_string());
    let ports = json!([{"hostPort": 8080, "containerPort": 80}]);
    node.cni_with("ADD", &server, &json!({"ips": addresses, "portMappings": ports})).unwrap();
    let _server = Server::start(server.netns(), 80);
    for family in FAMILIES {
        for from in [allowed.netns(), other.netns(), lab.switch()] {
            eventually_connects(from, node.address_in(family), 8080);
        }
    }
    let outside = FAMILIES.map(|family| source_toward(lab.switch(), node.address_in(family)));
    let block = outside.map(|it| format!("{it}/{}", if it.is_ipv4() { 32 } else { 128 }));
    let rules = format!(
        "[{{ from: [{{ podSelector: {{ matchLabels: {{ pod: node1-pod2 }} }} }}] }}, \
         {{ from: [{{ ipBlock: {{ cidr: \"{}\" }} }}, {{ ipBlock: {{ cidr: \"{}\" }} }}] }}]",
        block[0], block[1]
    );
    for calls in bridge_calls(node.netns()) {
        set_bridge_calls(node.netns(), calls);
        directory.isolate("node1-pod1", &rules);
        for family in FAMILIES {
            let address = node.address_in(family);
            eventually_refuses(other.netns(), address, 8080);
            eventually_connects(allowed.netns(), address, 8080);
            assert!(can_connect(lab.switch(), address, 8080), "the block is his own address");
            assert!(!can_connect(lab.pod(2, 1).netns(), address, 8080), "another node's");
            assert!(can_connect(node.netns(), address, 8080), "the pod's own node");
        }
        assert!(can_connect(node.netns(), Ipv4Addr::LOCALHOST.into(), 8080), "and by localhost");
        directory.isolate("node1-pod1", "[]");
        eventually_refuses(lab.switch(), node.address(), 8080);
        eventually_refuses(allowed.netns(), node.address(), 8080);
    }
}
