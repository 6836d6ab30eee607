//! The node's kernel state on a real kernel: one network namespace per test.
//!
//! Needs root. Run with `cargo test --test node-state`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says why and ends")]
#![expect(clippy::unwrap_in_result, reason = "a result is what is tested, not how the test fares")]

mod advertised;
mod claim;
mod events;
mod interference;
mod node;
mod path_mtu;
mod pods;
mod preflight;
mod source_check;

use std::io::Write as _;

use culvert::control::node::{Changes, NodeSpec};

use node::{Namespace, Node, ip, nets, run, set_sysctl, spec, sysctl};

#[test]
fn bare_node_becomes_ready() {
    Namespace::new("ready").run(async || {
        let mut node = Node::new();
        node.reconcile();

        let tun = ip("-d addr show dev culvert0");
        for word in [
            "mtu 1464",
            "qlen 2000",
            "alias culvert: overlay",
            "inet 10.244.1.0/32",
            "inet6 fd00:10:244:1::/128",
            "persist on",
        ] {
            assert!(tun.contains(word), "{word:?} is missing in {tun}");
        }
        assert!(!tun.contains("fe80"), "{tun}");
        assert!(!tun.contains("tentative"), "{tun}");
        let bridge = ip("-d addr show dev v-net-0");
        for word in [
            "mtu 1464",
            "link/ether 02:cf:0a:f4:01:00",
            "stp_state 0",
            "mcast_snooping 0",
            "inet 10.244.1.1/24",
            "inet6 fd00:10:244:1::1/64",
        ] {
            assert!(bridge.contains(word), "{word:?} is missing in {bridge}");
        }
        assert_eq!(
            ip("route show proto 207").trim(),
            "10.244.0.0/16 dev culvert0 scope link src 10.244.1.0"
        );
        assert!(
            ip("-6 route show proto 207")
                .starts_with("fd00:10:244::/48 dev culvert0 src fd00:10:244:1:: metric 1024")
        );
        for (key, value) in [
            ("ipv4/ip_forward", "1"),
            ("ipv4/conf/culvert0/rp_filter", "2"),
            ("ipv4/conf/culvert0/accept_local", "1"),
            ("ipv4/conf/v-net-0/rp_filter", "2"),
            ("ipv6/conf/all/forwarding", "1"),
            ("ipv6/conf/v-net-0/accept_ra", "0"),
        ] {
            assert_eq!(sysctl(key), value, "{key}");
        }
        // The node itself reaches remote pods from an address that routes back.
        assert!(ip("route get 10.244.2.9").contains("src 10.244.1.0"));
        assert!(ip("route get fd00:10:244:2::9").contains("src fd00:10:244:1::"));
    });
}

#[test]
fn second_run_does_nothing() {
    Namespace::new("second").run(async || {
        let mut node = Node::ready();
        assert_eq!(node.reconcile(), [""; 0]);
        // So does the first run of a daemon that was restarted, but for attaching to the TUN.
        let mut restarted = Node::new();
        drop(node);
        assert_eq!(restarted.reconcile(), ["open TUN culvert0"]);
        assert_eq!(restarted.reconcile(), [""; 0]);
    });
}

#[test]
fn every_deletion_is_repaired() {
    Namespace::new("repair").run(async || {
        let mut node = Node::ready();
        for (damage, repair) in [
            ("ip link del culvert0", "open TUN culvert0"),
            ("ip link set culvert0 down", "set up dev culvert0"),
            ("ip addr del 10.244.1.0/32 dev culvert0", "add address 10.244.1.0/32 dev culvert0"),
            ("ip -6 addr flush dev culvert0", "add address fd00:10:244:1::/128 dev culvert0"),
            ("ip route del 10.244.0.0/16", "add route 10.244.0.0/16 src 10.244.1.0 dev culvert0"),
            (
                "ip -6 route del fd00:10:244::/48",
                "add route fd00:10:244::/48 src fd00:10:244:1:: dev culvert0",
            ),
            ("ip addr del 10.244.1.1/24 dev v-net-0", "add address 10.244.1.1/24 dev v-net-0"),
            ("ip link del v-net-0", "create bridge v-net-0 address 02:cf:0a:f4:01:00"),
            ("ip link set v-net-0 down", "set up dev v-net-0"),
            (
                "ip link set v-net-0 address 06:00:00:00:00:01",
                "set address 02:cf:0a:f4:01:00 dev v-net-0",
            ),
            ("ip link set v-net-0 type bridge stp_state 1", "set bridge options dev v-net-0"),
            ("ip link set culvert0 mtu 1300", "set mtu 1464 dev culvert0"),
            ("nft delete table inet culvert", "replace nft table inet culvert"),
            ("nft flush chain inet culvert postrouting", "replace nft table inet culvert"),
            ("nft add table inet culvert { flags dormant; }", "replace nft table inet culvert"),
            (
                "nft add element inet culvert cluster_v4 { 192.0.2.0/24 }",
                "replace nft table inet culvert",
            ),
            ("nft flush ruleset", "replace nft table inet culvert"),
        ] {
            run(damage);
            let done = node.reconcile();
            assert!(done.iter().any(|action| action == repair), "after {damage}: {done:#?}");
            assert_eq!(node.reconcile(), [""; 0], "after {damage}");
        }
        for key in [
            "ipv4/ip_forward",
            "ipv4/conf/culvert0/rp_filter",
            "ipv4/conf/v-net-0/forwarding",
            "ipv6/conf/all/forwarding",
        ] {
            set_sysctl(key, "0");
            let done = node.reconcile();
            assert!(!done.is_empty(), "{key} was not set again");
            assert_eq!(node.reconcile(), [""; 0]);
        }
    });
}

#[test]
fn tun_recreated_by_somebody_else_is_attached_to() {
    Namespace::new("retun").run(async || {
        let mut node = Node::ready();
        ip("link del culvert0");
        ip("tuntap add dev culvert0 mode tun vnet_hdr");
        assert_eq!(node.reconcile()[0], "open TUN culvert0");
        assert_eq!(node.reconcile(), [""; 0]);
    });
}

#[test]
fn one_family_alone_works() {
    for (test, network, subnet) in [
        ("only4", "10.244.0.0/16", "10.244.1.0/24"),
        ("only6", "fd00:10:244::/48", "fd00:10:244:1::/64"),
    ] {
        Namespace::new(test).run(async move || {
            let mut node = Node::new();
            node.spec.cluster_networks = nets(&[network]);
            node.spec.local_subnets = nets(&[subnet]);
            node.reconcile();
            assert_eq!(node.reconcile(), [""; 0]);
            for device in ["culvert0", "v-net-0"] {
                assert_eq!(sysctl(&format!("ipv6/conf/{device}/accept_ra")), "0", "{network}");
            }
        });
    }
}

#[test]
fn bridge_is_bounded_in_what_it_learns() {
    Namespace::new("learn").run(async || {
        let mut node = Node::ready();
        // The limit is shown by newer programs only, so that a second bridge says what is the
        // default.
        let details = ip("-d link show v-net-0");
        assert!(details.contains("no_linklocal_learn 1"), "{details}");
        ip("link set v-net-0 type bridge no_linklocal_learn 0");
        assert_eq!(node.reconcile().len(), 1);
        assert!(ip("-d link show v-net-0").contains("no_linklocal_learn 1"));
        assert_eq!(node.reconcile(), [""; 0]);
    });
}

#[test]
fn bridge_learns_no_more_addresses_than_its_limit() {
    Namespace::new("limit").run(async || {
        let _node = Node::ready();
        let mut config = tun::Configuration::default();
        config.tun_name("tap0").layer(tun::Layer::L2).up();
        let mut port = tun::create(&config).unwrap();
        ip("link set tap0 master v-net-0");
        let mut announce = |number: u16| {
            let [high, low] = number.to_be_bytes();
            // To everybody, of an experimental type.
            let header = [[0xff; 6], [0x02, 0, 0, 1, high, low]].concat();
            port.write_all(&[&header[..], &[0x88, 0xb5], &[0; 46]].concat()).unwrap();
        };
        let learned = || run("bridge fdb show br v-net-0 dynamic").lines().count();
        // The bridge takes frames a moment after the port is connected.
        let is_learning = (0..500).any(|_| {
            announce(0);
            std::thread::sleep(std::time::Duration::from_millis(10));
            learned() == 1
        });
        assert!(is_learning);
        (1..=6000).for_each(&mut announce);
        assert_eq!(learned(), 4096);
        // What it knows it still knows.
        announce(0);
        let first = run("bridge fdb show br v-net-0 dynamic");
        assert!(first.contains("02:00:00:01:00:00"), "{first}");
    });
}

#[test]
fn several_subnets_of_a_family_all_have_a_gateway() {
    Namespace::new("several").run(async || {
        let mut node = Node::new();
        node.spec.local_subnets = nets(&["10.244.1.0/24", "10.244.2.0/24", "10.244.77.0/26"]);
        node.spec.cluster_networks = nets(&["10.244.0.0/16"]);
        node.reconcile();
        let bridge = ip("addr show dev v-net-0");
        for address in ["10.244.1.1/24", "10.244.2.1/24", "10.244.77.1/26"] {
            assert!(bridge.contains(address), "{bridge}");
        }
        assert_eq!(node.reconcile(), [""; 0]);
        // A restarted daemon reads the same rules back.
        let mut restarted = Node::new();
        restarted.spec = node.spec.clone();
        drop(node);
        assert_eq!(restarted.reconcile(), ["open TUN culvert0"]);
    });
}

#[test]
fn changed_mtu_reaches_every_device() {
    Namespace::new("mtu").run(async || {
        let mut node = Node::ready();
        for mtu in [1364, 8964, 1500] {
            node.spec.mtu = mtu;
            let report = node.report();
            assert!(report.spec_changed && !report.done.is_empty(), "{report:?}");
            for device in ["culvert0", "v-net-0"] {
                let link = ip(&format!("link show dev {device}"));
                assert!(link.contains(&format!("mtu {mtu} ")), "{link}");
            }
            assert_eq!(node.reconcile(), [""; 0]);
            // What somebody else changes is put back, and is no change of what is to be.
            ip("link set culvert0 mtu 1300");
            let report = node.report();
            assert!(!report.spec_changed && report.done.len() == 1, "{report:?}");
        }
    });
}

#[test]
fn changed_subnet_moves_the_addresses() {
    Namespace::new("subnet").run(async || {
        let mut node = Node::ready();
        // The second move changes the cluster network too.
        for (networks, subnets) in [
            (["10.244.0.0/16", "fd00:10:244::/48"], ["10.244.9.0/24", "fd00:10:244:9::/64"]),
            (["10.9.0.0/16", "fd00:9::/48"], ["10.9.1.0/24", "fd00:9:0:1::/64"]),
        ] {
            node.spec = NodeSpec {
                cluster_networks: nets(&networks),
                local_subnets: nets(&subnets),
                ..spec()
            };
            node.reconcile();
            assert_eq!(node.reconcile(), [""; 0]);
            let addresses = ip("addr show");
            assert!(!addresses.contains("10.244.1."), "{addresses}");
            let routes = ip("route show") + &ip("-6 route show");
            assert!(!routes.contains("10.244.1."), "{routes}");
            assert!(!routes.contains("fd00:10:244:1:"), "{routes}");
        }
        assert_eq!(ip("route show proto 207").lines().count(), 1);
        assert_eq!(ip("-6 route show proto 207").lines().count(), 1);
    });
}

#[test]
fn stale_routes_are_removed_at_start() {
    Namespace::new("stale").run(async || {
        ip("link add eth9 type veth peer name far9");
        ip("link set far9 up");
        ip("link set eth9 up");
        ip("route add 10.200.0.0/16 dev eth9 proto 207");
        ip("route add 10.244.0.0/16 dev eth9 proto 207");
        ip("route add 10.201.0.0/16 dev eth9 proto 207 table 77");
        ip("route add unreachable 10.202.0.0/16 proto 207");
        ip("-6 route add fd00:200::/48 dev eth9 proto 207");
        ip("route add 10.203.0.0/16 dev eth9 proto static");
        let mut node = Node::new();
        node.reconcile();
        assert_eq!(
            ip("route show proto 207 table all").lines().count(),
            2,
            "{}",
            ip("route show proto 207 table all")
        );
        assert_eq!(
            ip("route show 10.203.0.0/16").lines().count(),
            1,
            "a route of somebody else must stay"
        );
        assert_eq!(node.reconcile(), [""; 0]);
    });
}

#[test]
fn route_of_somebody_else_is_not_overwritten() {
    Namespace::new("foreign").run(async || {
        ip("link add eth9 type veth peer name far9");
        ip("link set far9 up");
        ip("link set eth9 up");
        ip("route add 10.244.0.0/16 dev eth9");
        let mut node = Node::new();
        let error = node.try_reconcile(Changes::ALL).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("add route 10.244.0.0/16"), "{text}");
        assert!(text.contains("File exists"), "{text}");
        assert!(ip("route show 10.244.0.0/16").contains("dev eth9"));
    });
}

#[test]
fn name_taken_by_another_kind_of_device_is_an_error() {
    Namespace::new("taken").run(async || {
        ip("link add v-net-0 type veth peer name far9");
        let mut node = Node::new();
        let error = node.try_reconcile(Changes::ALL).unwrap_err();
        assert!(format!("{error:#}").contains("v-net-0"), "{error:#}");
    });
}

#[test]
fn cleanup_leaves_nothing() {
    Namespace::new("cleanup").run(async || {
        let before = everything();
        let node = Node::ready();
        drop(node);
        ip("link add culvab12 type veth peer name pod");
        ip("link set culvab12 master v-net-0");
        // Another process, which knows nothing but the marks.
        let report = Node::new().reconciler.cleanup();
        assert!(report.failed.is_empty(), "{:#?}", report.failed);
        let removed: Vec<String> = report.removed.iter().map(ToString::to_string).collect();
        assert!(
            removed.contains(&"delete link v-net-0, which had 1 ports".to_owned()),
            "{removed:#?}"
        );
        ip("link del culvab12");
        assert_eq!(everything(), before);
        let again = Node::new().reconciler.cleanup();
        assert!(again.removed.is_empty() && again.failed.is_empty(), "{again:#?}");
    });
}

#[test]
fn bridge_of_somebody_else_survives_cleanup() {
    Namespace::new("adopt").run(async || {
        ip("link add v-net-0 type bridge");
        ip("addr add 192.168.7.1/24 dev v-net-0");
        let node = Node::ready();
        drop(node);
        let report = Node::new().reconciler.cleanup();
        assert!(report.failed.is_empty(), "{:#?}", report.failed);
        let bridge = ip("addr show dev v-net-0");
        assert!(bridge.contains("192.168.7.1/24"), "{bridge}");
        assert!(!bridge.contains("10.244."), "{bridge}");
        assert!(!bridge.contains("culvert"), "{bridge}");
    });
}

#[test]
fn healthy_node_with_pods_needs_no_change() {
    Namespace::new("cheap").run(async || {
        let mut node = Node::ready();
        for pod in 0..100 {
            ip(&format!("link add culv{pod:04x} type veth peer name p{pod}"));
        }
        node.reconcile();
        assert_eq!(node.try_reconcile(Changes::default()).unwrap(), [""; 0]);
        assert_eq!(node.reconcile(), [""; 0]);
    });
}

/// All the network state that the daemon may touch, but for the parameters that stay.
fn everything() -> String {
    ["ip -br link", "ip route show table all", "ip -6 route show table all", "nft list ruleset"]
        .map(run)
        .concat()
}
