//! The plugin against a real kernel: a "host" namespace with a bridge, and pods beside it.
//!
//! Needs root and the `ip` and `bridge` programs; without them every test fails and says so. Run
//! with `cargo test -p culvert-cni --test cni-netns`. Each test has namespaces of its own, named
//! `cnit-…` and removed at the end. To look into one that a failing test left behind for a moment:
//! `ip netns exec cnit-… sh`.

#![expect(clippy::unwrap_in_result, reason = "a result is what is tested, not how the test fares")]

mod faults;
mod harness;
mod host_ports;
mod ipam;
mod keys;
mod loopback;
mod second;
mod source_check;
mod verbs;

use std::collections::HashSet;
use std::fs::{self};
use std::net::IpAddr;
use std::path::Path;

use culvert_netlink::{Flow, RouteAnswer, Rtnetlink};
use culvert_node::Attachment;
use culvert_node::ipam::{DATABASE, DIRECTORY, Ports, Request, Store};
use culvert_node::node_file::NodeFile;
use ipnet::IpNet;
use serde_json::json;

use harness::*;

type Socket = culvert_netlink::Socket<Rtnetlink>;

#[test]
fn add_plugs_the_pod_in() {
    let node = Node::new("add", &DUAL_STACK);
    let pod = node.pod("p1");
    let result = pod.add().expect("ADD succeeds");

    let device = pod.host_device();
    let eth0 = pod.link("eth0");
    assert_eq!(eth0["mtu"], 1400);
    assert_eq!(eth0["operstate"], "UP");
    assert_eq!(eth0["address"], "0a:58:0a:f4:01:02");
    assert_eq!(pod.addresses("eth0"), set(&["10.244.1.2/24", "fd00:1::2/64"]));
    assert_eq!(pod.gateways(), set(&["10.244.1.1", "fd00:1::1"]));
    let flags = pod.link("lo")["flags"].to_string();
    assert!(flags.contains("\"UP\""), "{flags}");
    assert_eq!(pod.sysctl("ipv6/conf/eth0/accept_dad"), "0");
    assert_eq!(pod.sysctl("ipv6/conf/eth0/accept_ra"), "0");
    assert_eq!(pod.sysctl("ipv4/tcp_mtu_probing"), "1");

    let port = node.link(&device);
    assert_eq!(port["mtu"], 1400);
    assert_eq!(port["master"], BRIDGE);
    assert_eq!(port["linkinfo"]["info_slave_data"]["hairpin"], true);
    assert_eq!(port["linkinfo"]["info_slave_data"]["state"], "forwarding");
    assert_eq!(port["inet6_addr_gen_mode"], "none");
    let accept_ra = format!("/proc/sys/net/ipv6/conf/{device}/accept_ra");
    let value = in_netns(&node.netns, || fs::read_to_string(accept_ra));
    assert_eq!(value.expect("the port has it").trim(), "0");

    assert_eq!(
        result,
        json!({
            "cniVersion": "1.0.0",
            "interfaces": [
                {"name": BRIDGE, "mac": node.link(BRIDGE)["address"]},
                {"name": device, "mac": port["address"]},
                {"name": "eth0", "mac": eth0["address"], "sandbox": pod.netns_path()},
            ],
            "ips": [
                {"address": "10.244.1.2/24", "gateway": "10.244.1.1", "interface": 2},
                {"address": "fd00:1::2/64", "gateway": "fd00:1::1", "interface": 2},
            ],
            "routes": [
                {"dst": "0.0.0.0/0", "gw": "10.244.1.1"},
                {"dst": "::/0", "gw": "fd00:1::1"},
            ],
            "dns": {},
        })
    );
}

#[test]
fn pods_reach_the_bridge_and_each_other_at_once() {
    let node = Node::new("reach", &DUAL_STACK);
    let (first, second) = (node.pod("p1"), node.pod("p2"));
    first.add().expect("ADD of the first pod succeeds");
    second.add().expect("ADD of the second pod succeeds");
    for (server, address) in [
        (&node.netns, "10.244.1.1"),
        (&node.netns, "fd00:1::1"),
        (&first.netns, "10.244.1.2"),
        (&first.netns, "fd00:1::2"),
    ] {
        assert_talk(server, address.parse().expect("a valid address"), &second.netns);
    }
}

#[test]
fn pod_of_an_ipv6_only_node_reaches_the_bridge() {
    let mut node = Node::new("v6only", &["fd00:1::/64"]);
    node.config["cniVersion"] = json!("0.4.0");
    let pod = node.pod("p1");
    let result = pod.add().expect("ADD succeeds");
    assert_eq!(result["ips"][0]["version"], "6");
    assert_eq!(pod.gateways(), set(&["fd00:1::1"]));
    assert_talk(&node.netns, "fd00:1::1".parse().expect("a valid address"), &pod.netns);
    pod.check(&result).expect("CHECK succeeds");
}

#[test]
fn pod_announces_itself_before_add_returns() {
    let node = Node::new("announce", &["10.244.1.0/24"]);
    let pod = node.pod("p1");
    // Without IPv6 the kernel sends nothing of its own accord that could pass for an announcement.
    pod.ip_exec(&["sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1"]);
    pod.add().expect("ADD succeeds");
    let learned = node.exec(&["bridge", "fdb", "show", "br", BRIDGE, "dynamic"]);
    assert!(learned.contains("0a:58:0a:f4:01:02"), "{learned}");
}

#[test]
fn pod_whose_runtime_switched_ipv6_off_gets_its_address_all_the_same() {
    let node = Node::new("v6off", &DUAL_STACK);
    let pod = node.pod("p1");
    pod.ip_exec(&["sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1"]);
    pod.ip_exec(&["sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1"]);
    pod.add().expect("ADD succeeds");
    assert!(pod.addresses("eth0").contains("fd00:1::2/64"));
}

#[test]
fn pod_takes_packets_for_its_ipv6_address_when_add_returns() {
    let node = Node::new("heard", &DUAL_STACK);
    // The kernel takes a millisecond more in every second case, and tens of them on a busy machine.
    for number in 0..40 {
        let pod = node.pod(&format!("p{number}"));
        let mut inside = in_netns(&pod.netns, || Socket::open().expect("a socket"));
        let result = pod.add().expect("ADD succeeds");
        let addresses = result["ips"].as_array().expect("a list").iter();
        let addresses = addresses.map(|ip| address_of(ip["address"].as_str().expect("a text")));
        let answers = inside.look_up_routes(addresses.map(Flow::to)).expect("the kernel answers");
        assert!(
            answers.iter().all(|way| matches!(way, RouteAnswer::Local)),
            "pod {number}: {answers:?}"
        );
    }
}

#[test]
fn hairpin_mode_can_be_switched_off() {
    let mut node = Node::new("hairpin", &["10.244.1.0/24"]);
    node.config["hairpinMode"] = json!(false);
    let pod = node.pod("p1");
    pod.add().expect("ADD succeeds");
    let port = node.link(&pod.host_device());
    assert_eq!(port["linkinfo"]["info_slave_data"]["hairpin"], false);
}

#[test]
fn del_unplugs_and_may_be_repeated() {
    let node = Node::new("del", &DUAL_STACK);
    let pod = node.pod("p1");
    pod.add().expect("ADD succeeds");
    for _ in 0..2 {
        pod.del().expect("DEL succeeds");
        node.assert_clean();
    }
    pod.add().expect("ADD after DEL succeeds");
    let next = set(&["10.244.1.3/24", "fd00:1::3/64"]);
    assert_eq!(pod.addresses("eth0"), next, "a freed address rests");
}

#[test]
fn del_needs_no_daemon_no_namespace_and_no_variable_for_it() {
    let node = Node::new("bare", &DUAL_STACK);
    let mut pod = node.pod("p1");
    pod.add().expect("ADD succeeds");
    fs::remove_dir_all(node.run_dir()).expect("the run directory is removed");
    pod.without_netns = true;
    pod.del().expect("DEL succeeds");
    node.assert_clean();

    node.write_node_file();
    let mut gone = node.pod("p2");
    gone.without_netns = false;
    gone.add().expect("ADD succeeds");
    ip(&["netns", "del", &gone.netns]);
    gone.del().expect("DEL succeeds without the namespace");
    node.assert_clean();
}

#[test]
fn del_with_a_damaged_store_still_removes_the_devices() {
    let node = Node::new("damaged", &DUAL_STACK);
    let pod = node.pod("p1");
    pod.add().expect("ADD succeeds");
    let directory = node.state_dir().join(DIRECTORY);
    fs::remove_dir_all(&directory).expect("the store is removed");
    fs::create_dir(&directory).expect("its directory is made again");
    fs::write(directory.join(DATABASE), [0x55; 8192]).expect("garbage is written");
    let output = pod.start("DEL", None).wait_with_output().expect("the plugin ends");
    outcome(&output).expect("the pod may go");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("it is damaged") && said.contains("is unplugged"), "{said}");
    assert_eq!(node.host_devices(), Vec::<String>::new());
}

#[test]
fn taken_interface_name_fails_and_leaves_nothing() {
    let node = Node::new("taken", &DUAL_STACK);
    let pod = node.pod("p1");
    pod.ip(&["link", "add", "eth0", "type", "bridge"]);
    let error = pod.add().expect_err("ADD fails");
    assert_eq!(error["code"], 102, "{error}");
    assert!(error["msg"].to_string().contains("eth0 exists already"), "{error}");
    node.assert_clean();
    assert_eq!(pod.link("eth0")["linkinfo"]["info_kind"], "bridge");
}

#[test]
fn missing_bridge_and_missing_node_file_mean_try_again_later() {
    let node = Node::new("notready", &DUAL_STACK);
    let pod = node.pod("p1");
    node.ip(&["link", "del", BRIDGE]);
    let error = pod.add().expect_err("ADD fails without the bridge");
    assert_eq!(error["code"], 11, "{error}");
    for part in [BRIDGE, "culvert run"] {
        assert!(error["msg"].to_string().contains(part), "{error}");
    }
    NodeFile::remove(&node.run_dir()).expect("the node file is removed");
    let error = pod.add().expect_err("ADD fails without the node file");
    assert_eq!(error["code"], 11, "{error}");
    for part in ["node.json", "culvert run"] {
        assert!(error["msg"].to_string().contains(part), "{error}");
    }
    node.assert_clean();
}

#[test]
fn add_that_fails_at_its_last_step_undoes_the_others() {
    let node = Node::new("late", &DUAL_STACK);
    let pod = node.pod("p1");
    // Another default route stands in the way of ours.
    pod.ip(&["link", "add", "other0", "type", "bridge"]);
    pod.ip(&["addr", "add", "192.0.2.2/24", "dev", "other0"]);
    pod.ip(&["link", "set", "other0", "up"]);
    pod.ip(&["route", "add", "default", "via", "192.0.2.1"]);
    let error = pod.add().expect_err("ADD fails");
    assert_eq!(error["code"], 100, "{error}");
    let text = error["msg"].to_string();
    assert!(text.contains("default route via 10.244.1.1"), "{text}");
    assert!(text.contains("File exists"), "{text}");
    assert!(text.contains("isDefaultGateway"), "{text}");
    node.assert_clean();
    assert!(!pod.has_link("eth0"));
}

#[test]
fn second_add_of_the_same_interface_fails_and_leaves_the_first_alone() {
    let node = Node::new("twice", &DUAL_STACK);
    let pod = node.pod("p1");
    pod.add().expect("ADD succeeds");
    let error = pod.add().expect_err("the second ADD fails");
    assert_eq!(error["code"], 102, "{error}");
    let mut elsewhere = node.pod("p2");
    elsewhere.container.clone_from(&pod.container);
    let error = elsewhere.add().expect_err("so it does in another namespace");
    assert_eq!(error["code"], 102, "{error}");
    assert_eq!(pod.addresses("eth0").len(), 2);
    assert_eq!(node.host_devices(), [pod.host_device()]);
}

#[test]
fn leftover_host_device_is_named_and_not_removed() {
    let node = Node::new("leftover", &DUAL_STACK);
    let pod = node.pod("p1");
    let device = pod.host_device();
    node.ip(&["link", "add", &device, "type", "bridge"]);
    let error = pod.add().expect_err("ADD fails");
    assert_eq!(error["code"], 102, "{error}");
    assert!(error["msg"].to_string().contains(&device), "{error}");
    assert_eq!(node.host_devices(), [device]);
    assert_eq!(node.held_addresses(), 0);
}

#[test]
fn check_accepts_what_add_made_and_works_without_the_daemon() {
    let node = Node::new("check", &DUAL_STACK);
    let pod = node.pod("p1");
    let result = pod.add().expect("ADD succeeds");
    pod.check(&result).expect("CHECK succeeds");
    NodeFile::remove(&node.run_dir()).expect("the node file is removed");
    pod.check(&result).expect("CHECK succeeds without the node file");
}

#[test]
fn check_finds_each_fault_and_repairs_nothing() {
    let node = Node::new("faults", &DUAL_STACK);
    let in_pod: [(&str, &[&str]); 7] = [
        ("is down", &["link", "set", "eth0", "down"]),
        ("does not exist", &["link", "set", "eth0", "down", "name", "eth9"]),
        ("has MAC address", &["link", "set", "eth0", "address", "0a:58:00:00:00:09"]),
        ("lacks address", &["-4", "addr", "flush", "dev", "eth0"]),
        ("default route via 10.244.1.1", &["-4", "route", "del", "default"]),
        (
            "default route via 10.244.1.1",
            &["route", "replace", "default", "via", "10.244.1.9", "dev", "eth0"],
        ),
        ("default route via fd00:1::1", &["-6", "route", "del", "default"]),
    ];
    for (number, (part, fault)) in in_pod.iter().enumerate() {
        let pod = node.pod(&format!("in{number}"));
        let result = pod.add().expect("ADD succeeds");
        pod.ip(fault);
        pod.assert_check_finds(&result, part);
        pod.assert_check_finds(&result, part);
        pod.del().expect("DEL succeeds");
    }
    for (number, (part, fault)) in [
        ("is not a port of the bridge", "nomaster"),
        ("is down", "down"),
        ("hairpin mode", "hairpin"),
        ("does not exist", "delete"),
    ]
    .iter()
    .enumerate()
    {
        let pod = node.pod(&format!("on{number}"));
        let result = pod.add().expect("ADD succeeds");
        let device = pod.host_device();
        match *fault {
            "hairpin" => {
                node.ip(&["link", "set", &device, "type", "bridge_slave", "hairpin", "off"])
            }
            "delete" => node.ip(&["link", "del", &device]),
            state => node.ip(&["link", "set", &device, state]),
        };
        pod.assert_check_finds(&result, part);
        pod.del().expect("DEL succeeds");
    }
    let pod = node.pod("store");
    let result = pod.add().expect("ADD succeeds");
    // A store that is lost is no fault of the pod; one that says otherwise is.
    fs::remove_dir_all(node.state_dir()).expect("the store is removed");
    pod.check(&result).expect("the port says what the pod has");
    let mut no_ports = Ports::default();
    let mut store = Store::open_or_create(&node.state_dir(), &mut no_ports).expect("a store");
    let request = Request {
        addresses: pod.addresses("eth0").iter().map(|net| address_of(net)).collect(),
        ..Request::one_of_each_family(&node.node_file().subnets)
    };
    let other = Attachment::new("pods", "other", "eth0").expect("valid names");
    store.allocate(&other, Path::new("/x"), &request, &mut no_ports).expect("it knows no better");
    pod.assert_check_finds(&result, "to interface eth0 of container other");
}

fn address_of(net: &str) -> IpAddr {
    net.parse::<IpNet>().expect("an address with its prefix length").addr()
}

#[test]
fn sixty_four_adds_at_once_get_different_addresses() {
    let node = Node::new("many", &DUAL_STACK);
    let pods: Vec<_> = (0..64).map(|number| node.pod(&format!("p{number}"))).collect();
    let running: Vec<_> = pods.iter().map(|pod| pod.start("ADD", None)).collect();
    let mut addresses = HashSet::new();
    for child in running {
        let output = child.wait_with_output().expect("the plugin ends");
        let result = outcome(&output).expect("ADD succeeds");
        for ip in result["ips"].as_array().expect("a list of addresses") {
            assert!(addresses.insert(ip["address"].to_string()), "{ip} was given twice");
        }
    }
    assert_eq!(addresses.len(), 128);
    let running: Vec<_> = pods.iter().map(|pod| pod.start("DEL", None)).collect();
    for child in running {
        outcome(&child.wait_with_output().expect("the plugin ends")).expect("DEL succeeds");
    }
    node.assert_clean();
}

#[test]
fn full_subnet_is_followed_by_the_next_and_then_by_a_clear_error() {
    let node = Node::new("full", &["10.244.1.0/30", "10.244.2.0/30"]);
    let pods = ["p1", "p2", "p3"].map(|name| node.pod(name));
    for (pod, address) in pods.iter().zip(["10.244.1.2/30", "10.244.2.2/30"]) {
        assert_eq!(pod.add().expect("ADD succeeds")["ips"][0]["address"], address);
    }
    let error = pods[2].add().expect_err("ADD fails");
    assert_eq!(error["code"], 101, "{error}");
    assert!(error["msg"].to_string().contains("10.244.2.0/30 (1 in use)"), "{error}");
    assert_eq!(node.host_devices().len(), 2);
}
