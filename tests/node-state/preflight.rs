//! Refusing to start where the cluster network would take somebody else's addresses.

use culvert::control::node::Conflict;

use crate::node::{Namespace, Node, ip, nets};

/// The conflict that a fresh node reports.
fn conflict(services: &[&str], nodes: &[&str]) -> Option<Conflict> {
    let mut node = Node::new();
    let nodes: Vec<_> = nodes.iter().map(|node| node.parse().unwrap()).collect();
    let checked = node.reconciler.preflight(&node.spec, &nets(services), &nodes);
    checked.err().map(|error| error.downcast().unwrap())
}

#[test]
fn each_conflict_is_refused() {
    Namespace::new("conflict").run(async || {
        ip("link set lo up");
        ip("link add eth9 type veth peer name far9");
        ip("link set far9 up");
        ip("link set eth9 up");
        ip("addr add 192.168.1.11/24 dev eth9");
        ip("route add default via 192.168.1.1");
        assert_eq!(conflict(&["10.96.0.0/12"], &["192.168.1.12"]), None);

        assert!(matches!(conflict(&["10.244.128.0/20"], &[]), Some(Conflict::Service { .. })));
        assert!(matches!(conflict(&[], &["10.244.3.3"]), Some(Conflict::Node { .. })));
        ip("route add 10.244.64.0/18 via 192.168.1.9");
        assert!(matches!(
            conflict(&[], &[]),
            Some(Conflict::Route { device, .. }) if device == "eth9"
        ));
        ip("route del 10.244.64.0/18");
        // The kernel goes by the longest match, so what is wider takes nothing away.
        for wider in [
            "10.0.0.0/8 via 192.168.1.9",
            "0.0.0.0/1 via 192.168.1.9",
            "blackhole 10.240.0.0/12",
            "unreachable fc00::/7",
            "10.244.0.0/16 via 192.168.1.9 metric 4096",
        ] {
            ip(&format!("route add {wider}"));
            assert_eq!(conflict(&[], &[]), None, "{wider}");
        }
        ip("addr add 10.8.0.2/8 dev eth9");
        assert_eq!(conflict(&[], &[]), None);
        ip("addr add fd00:10:244:5::5/64 dev eth9");
        assert!(matches!(
            conflict(&[], &[]),
            Some(Conflict::Interface { device, .. }) if device == "eth9"
        ));
    });
}

#[test]
fn running_node_does_not_conflict_with_itself() {
    Namespace::new("itself").run(async || {
        let node = Node::ready();
        assert_eq!(conflict(&["10.96.0.0/12"], &["192.168.1.12"]), None);
        drop(node);
        assert_eq!(conflict(&["10.96.0.0/12"], &["192.168.1.12"]), None);
    });
}

#[test]
fn own_addresses_leave_out_ours_and_loopback() {
    Namespace::new("own").run(async || {
        ip("link set lo up");
        ip("addr add 10.0.0.7/32 dev lo");
        ip("link add eth9 type veth peer name far9");
        ip("link set far9 up");
        ip("link set eth9 up");
        ip("addr add 192.168.1.11/24 dev eth9");
        let mut node = Node::ready();
        let mut addresses = node.report().own_addresses;
        addresses.sort();
        assert_eq!(addresses, nets(&["10.0.0.7/32", "192.168.1.11/24"]));
    });
}

#[test]
fn subnet_changes_at_once_and_pods_with_addresses_of_the_old_one_are_named() {
    Namespace::new("subnet").run(async || {
        let mut node = Node::ready();
        ip("link add culv1a2b3c4d type veth peer name far");
        ip("link set culv1a2b3c4d master v-net-0");
        let note = "culvert pod 0a:58:0a:f4:01:02 checked 10.244.1.2";
        let set = ["link", "set", "culv1a2b3c4d", "alias", note];
        assert!(std::process::Command::new("ip").args(set).status().unwrap().success());
        node.spec.local_subnets = nets(&["10.244.9.0/24"]);
        node.reconciler.preflight(&node.spec, &[], &[]).unwrap();
        node.reconcile();
        let bridge = ip("addr show dev v-net-0");
        assert!(bridge.contains("10.244.9.1/24") && !bridge.contains("10.244.1.1"), "{bridge}");
        assert_eq!(node.report().stranded.len(), 1);
        ip("link del culv1a2b3c4d");
        assert_eq!(node.report().stranded, []);
    });
}
