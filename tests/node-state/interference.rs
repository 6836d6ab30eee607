//! What other programs turn around on our devices, and ways of packets that they take over.

use crate::node::{Namespace, Node, ip, run};

/// A pod's port with the note that the plugin leaves on it.
fn plug(port: &str) {
    ip(&format!("link add {port} mtu 1464 type veth peer name p{port} mtu 1464"));
    ip(&format!("link set p{port} up"));
    let note = "culvert pod 0a:58:0a:f4:01:02 checked hairpin 10.244.1.2 fd00:10:244:1::2";
    let set = ["link", "set", port, "master", "v-net-0", "up", "alias", note];
    assert!(std::process::Command::new("ip").args(set).status().unwrap().success());
}

/// A node with a pod and a device of somebody else, on which everything is as it should be.
fn node() -> Node {
    let mut node = Node::ready();
    plug("culv1a2b3c4d");
    ip("link add vpn0 type veth peer name vpn1");
    ip("link set vpn0 up");
    ip("link set vpn1 up");
    node.reconcile();
    assert_eq!(node.reconcile(), [""; 0]);
    assert_eq!(node.report().obstacle, None);
    node
}

#[test]
fn what_others_turn_around_is_put_back() {
    Namespace::new("turned").run(async || {
        let mut node = node();
        for (damage, repair) in [
            (
                "ip route del 10.244.1.0/24 dev v-net-0",
                "add route 10.244.1.0/24 src 10.244.1.1 dev v-net-0",
            ),
            (
                "ip -6 route del fd00:10:244:1::/64 dev v-net-0",
                "add route fd00:10:244:1::/64 dev v-net-0",
            ),
            ("ip link set culv1a2b3c4d down", "plug culv1a2b3c4d into v-net-0"),
            ("ip link set culv1a2b3c4d nomaster", "plug culv1a2b3c4d into v-net-0"),
            ("ip link set culv1a2b3c4d arp off", "plug culv1a2b3c4d into v-net-0"),
            ("bridge link set dev culv1a2b3c4d isolated on", "plug culv1a2b3c4d into v-net-0"),
            ("bridge link set dev culv1a2b3c4d learning off", "plug culv1a2b3c4d into v-net-0"),
            ("bridge link set dev culv1a2b3c4d mcast_flood off", "plug culv1a2b3c4d into v-net-0"),
            ("bridge link set dev culv1a2b3c4d bcast_flood off", "plug culv1a2b3c4d into v-net-0"),
            ("bridge link set dev culv1a2b3c4d locked on", "plug culv1a2b3c4d into v-net-0"),
            (
                "bridge link set dev culv1a2b3c4d neigh_suppress on",
                "plug culv1a2b3c4d into v-net-0",
            ),
            // kernel: it forwards again by itself in every other state.
            ("bridge link set dev culv1a2b3c4d state 0", "set state forwarding dev culv1a2b3c4d"),
            (
                "ip neigh replace 10.244.1.2 lladdr 02:00:00:00:00:99 dev v-net-0 nud permanent",
                "remove neighbour 10.244.1.2 dev v-net-0",
            ),
            (
                "ip neigh replace fd00:10:244:1::2 lladdr 02:00:00:00:00:99 dev v-net-0 nud noarp",
                "remove neighbour fd00:10:244:1::2 dev v-net-0",
            ),
            ("ip link set v-net-0 arp off", "set arp on, multicast on dev v-net-0"),
            ("ip link set v-net-0 multicast off", "set arp on, multicast on dev v-net-0"),
            (
                "bridge fdb del 02:cf:0a:f4:01:00 dev v-net-0 self",
                "add forwarding entry 02:cf:0a:f4:01:00 dev v-net-0",
            ),
            (
                "ip route prepend 10.244.0.0/16 dev vpn0",
                "prepend route 10.244.0.0/16 src 10.244.1.0 dev culvert0",
            ),
            (
                "ip route prepend blackhole 10.244.0.0/16",
                "prepend route 10.244.0.0/16 src 10.244.1.0 dev culvert0",
            ),
        ] {
            run(damage);
            let done = node.reconcile();
            assert!(done.iter().any(|action| action == repair), "after {damage}: {done:#?}");
            assert_eq!(node.reconcile(), [""; 0], "after {damage}");
            assert_eq!(node.report().obstacle, None, "after {damage}");
        }
    });
}

#[test]
fn fixed_hardware_address_that_is_the_pods_own_stays() {
    Namespace::new("fixed").run(async || {
        let mut node = node();
        let own = "10.244.1.2 lladdr 0a:58:0a:f4:01:02 dev v-net-0 nud permanent";
        ip(&format!("neigh replace {own}"));
        ip("neigh replace 10.244.1.9 lladdr 02:00:00:00:00:99 dev v-net-0 nud permanent");
        assert_eq!(node.reconcile(), [""; 0]);
    });
}

#[test]
fn renamed_devices_get_their_names_back_with_everything_on_them() {
    Namespace::new("renamed").run(async || {
        let mut node = node();
        for (device, other) in [("v-net-0", "renbr"), ("culvert0", "ren0")] {
            let index = ip(&format!("-o link show dev {device}"));
            let index = index.split(':').next().unwrap().to_owned();
            ip(&format!("link set {device} down"));
            ip(&format!("link set {device} name {other}"));
            ip(&format!("link set {other} up"));
            let done = node.reconcile();
            assert!(done.contains(&format!("rename {other} to {device}")), "{done:#?}");
            assert_eq!(node.reconcile(), [""; 0]);
            assert!(ip(&format!("-o link show dev {device}")).starts_with(&index));
            assert_eq!(node.report().obstacle, None);
        }
        assert!(ip("-o link show dev culv1a2b3c4d").contains("master v-net-0"));
    });
}

#[test]
fn pod_is_taken_back_from_a_bridge_that_is_no_daemons() {
    Namespace::new("moved").run(async || {
        let mut node = node();
        ip("link add br9 type bridge");
        ip("link set br9 up");
        ip("link set culv1a2b3c4d master br9");
        assert!(node.reconcile().contains(&"plug culv1a2b3c4d into v-net-0".to_owned()));
        assert!(ip("-o link show dev culv1a2b3c4d").contains("master v-net-0"));
        // One of another daemon has pods of its own.
        let alias = ["link", "set", "br9", "alias", "culvert: pod bridge"];
        assert!(std::process::Command::new("ip").args(alias).status().unwrap().success());
        ip("link set culv1a2b3c4d master br9");
        let done = node.reconcile();
        assert!(!done.contains(&"plug culv1a2b3c4d into v-net-0".to_owned()), "{done:#?}");
    });
}

#[test]
fn packets_that_others_take_over_are_named() {
    Namespace::new("taken-over").run(async || {
        let mut node = node();
        for (damage, words, repair) in [
            (
                "ip route add 10.244.2.0/24 dev vpn0",
                "leave by vpn0 instead of culvert0 (route 10.244.2.0/24 of table 254)",
                "ip route del 10.244.2.0/24 dev vpn0",
            ),
            (
                "ip -6 route add fd00:10:244:2::/64 dev vpn0",
                "leave by vpn0 instead of culvert0 (route fd00:10:244:2::/64 of table 254)",
                "ip -6 route del fd00:10:244:2::/64 dev vpn0",
            ),
            (
                "ip route add blackhole 10.244.2.0/24",
                "are dropped",
                "ip route del blackhole 10.244.2.0/24",
            ),
            (
                "ip -6 route add unreachable fd00:10:244:2::/64",
                "are dropped",
                "ip -6 route del unreachable fd00:10:244:2::/64",
            ),
            (
                "ip route del local 10.244.1.1 dev v-net-0 table local",
                "packets of pods to their gateway leave by v-net-0 instead of ending on this node",
                "ip route add local 10.244.1.1 dev v-net-0 table local proto kernel scope host src \
                 10.244.1.1",
            ),
            (
                "ip -6 route del local fd00:10:244:1::1 dev v-net-0 table local",
                "packets of pods to their gateway leave by v-net-0 instead of ending on this node",
                "ip -6 route add local fd00:10:244:1::1 dev v-net-0 table local proto kernel metric 0",
            ),
            (
                "ip route add 10.244.1.2 dev vpn0",
                "leave by vpn0 instead of v-net-0",
                "ip route del 10.244.1.2 dev vpn0",
            ),
        ] {
            run(damage);
            let found = node.report();
            assert!(found.done.is_empty() && found.carrying, "after {damage}: {found:#?}");
            let obstacle = found.obstacle.unwrap_or_default();
            assert!(obstacle.contains(words), "after {damage}: {obstacle:?}");
            run(repair);
            assert_eq!(node.report().obstacle, None, "after {repair}");
        }
    });
}

#[test]
fn policy_routing_that_takes_the_pod_network_is_named() {
    Namespace::new("policy").run(async || {
        let mut node = node();
        ip("route add default dev vpn0 table 52");
        for throw in ["127.0.0.0/8", "10.244.1.0/24"] {
            ip(&format!("route add throw {throw} table 52"));
        }
        ip("rule add pref 5270 lookup 52");
        let obstacle = node.report().obstacle.unwrap();
        assert!(obstacle.contains("leave by vpn0 instead of culvert0"), "{obstacle}");
        assert!(obstacle.contains("(route 0.0.0.0/0 of table 52)"), "{obstacle}");
        // One that is for packets of pods alone.
        ip("rule del pref 5270");
        assert_eq!(node.report().obstacle, None);
        ip("rule add pref 5271 iif v-net-0 lookup 52");
        let obstacle = node.report().obstacle.unwrap();
        assert!(obstacle.starts_with("packets of pods to other nodes' pods"), "{obstacle}");
        assert!(obstacle.contains("from 10.244.1.2 iif v-net-0"), "{obstacle}");
    });
}

#[test]
fn node_that_is_cut_off_stays_named_while_others_have_their_turn() {
    Namespace::new("turns").run(async || {
        let mut node = node();
        node.spec.remote_subnets =
            (2..=201).map(|other| format!("10.244.{other}.0/24").parse().unwrap()).collect();
        node.reconcile();
        ip("route add blackhole 10.244.150.0/24");
        // The table has changed, and nothing else; each look asks about a few nodes.
        let found = (0..200 / 8).find_map(|_| node.report().obstacle).expect("a turn of each");
        assert!(found.contains("10.244.150.2"), "{found}");
        for _ in 0..200 / 8 {
            assert_eq!(node.report().obstacle.as_ref(), Some(&found));
        }
        ip("route del blackhole 10.244.150.0/24");
        assert_eq!(node.report().obstacle, None);
    });
}
