//! A pod that is plugged in more than once.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::time::Duration;

use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

use crate::harness::*;

/// The answer to `ip` about rules or routes of a pod, both families.
fn list(pod: &Pod<'_>, what: &[&str]) -> String {
    let of = |family| ip(&[&["-n", &pod.netns, family], what].concat());
    of("-4") + &of("-6")
}

/// Interface net1 of the same pod.
fn second<'a>(pod: &Pod<'a>) -> Pod<'a> {
    Pod {
        node: pod.node,
        netns: pod.netns.clone(),
        container: pod.container.clone(),
        without_netns: false,
        keys: json!({}),
        environment: vec![("CNI_IFNAME", "net1".to_owned())],
    }
}

/// Addresses without prefix length, of a result.
fn addresses(result: &Value) -> Vec<IpAddr> {
    let ips = result["ips"].as_array().expect("a list").iter();
    ips.map(|ip| crate::address_of(ip["address"].as_str().expect("a text"))).collect()
}

/// What a client binds its socket to.
enum From<'a> {
    Anywhere,
    Address(IpAddr),
    Device(&'a str),
}

/// Demands that a connection from the pod to the node's address `target` comes about.
fn assert_connects(pod: &Pod<'_>, from: From<'_>, node: &Node, target: &str) {
    let target: IpAddr = target.parse().expect("a valid address");
    let listener = in_netns(&node.netns, || TcpListener::bind(SocketAddr::new(target, 0)))
        .expect("an address of the node");
    let target = listener.local_addr().expect("a bound socket has an address");
    in_netns(&pod.netns, || {
        let socket = Socket::new(Domain::for_address(target), Type::STREAM, None);
        let socket = socket.expect("a socket");
        match from {
            From::Anywhere => Ok(()),
            From::Address(address) => socket.bind(&SocketAddr::new(address, 0).into()),
            From::Device(name) => socket.bind_device(Some(name.as_bytes())),
        }
        .expect("the pod has it");
        // Less than the second after which TCP would repeat a lost first packet.
        let outcome = socket.connect_timeout(&target.into(), Duration::from_millis(900));
        outcome.unwrap_or_else(|error| panic!("cannot reach {target}: {error}"));
    });
}

#[test]
fn both_interfaces_in_one_subnet_answer_and_ask_for_themselves() {
    for default_gateway in [true, false] {
        let mut node = Node::new(&format!("second-{default_gateway}"), &DUAL_STACK);
        node.cluster_networks = vec!["10.244.0.0/16".to_owned(), "fd00::/16".to_owned()];
        node.write_node_file();
        // Somebody beyond the bridge, so that answers go through a gateway.
        node.ip(&["addr", "add", "10.244.9.9/32", "dev", "lo"]);
        node.ip(&["addr", "add", "fd00:9::9/128", "dev", "lo"]);
        let (pod, other) = (node.pod("p1"), node.pod("p2"));
        let first = pod.add().expect("ADD of eth0 succeeds");
        other.add().expect("ADD of another pod succeeds");
        let mut net1 = second(&pod);
        net1.keys = json!({"isDefaultGateway": default_gateway});
        let main_before = list(&pod, &["route"]);
        let before = list(&pod, &["rule"]);
        let added = net1.add().expect("ADD of net1 succeeds");
        let main_after = list(&pod, &["route"]);
        let lines = |text: &str| -> Vec<String> {
            // Every device has a route to its neighbours' link-local addresses.
            let other = text.lines().filter(|line| !line.starts_with("fe80::"));
            other.map(|line| line.trim().to_owned()).collect()
        };
        assert_eq!(lines(&main_before), lines(&main_after), "the main table is eth0's");

        for address in [addresses(&first), addresses(&added)].concat() {
            assert_talk(&pod.netns, address, &other.netns);
            assert_talk(&pod.netns, address, &node.netns);
            let targets = if address.is_ipv6() {
                ["fd00:1::1", "fd00:9::9"]
            } else {
                ["10.244.1.1", "10.244.9.9"]
            };
            for target in targets {
                assert_connects(&pod, From::Address(address), &node, target);
            }
        }
        for target in ["10.244.9.9", "fd00:9::9"] {
            assert_connects(&pod, From::Anywhere, &node, target);
            assert_connects(&pod, From::Device("net1"), &node, target);
        }

        pod.check(&first).expect("CHECK of eth0 succeeds");
        net1.check(&added).expect("CHECK of net1 succeeds");
        pod.ip(&["rule", "del", "oif", "net1", "pref", "20700"]);
        net1.assert_check_finds(&added, "rule oif net1");
        pod.check(&first).expect("CHECK of eth0 still succeeds");

        net1.del().expect("DEL of net1 succeeds");
        assert_eq!(list(&pod, &["rule"]), before, "DEL leaves no rule");
        pod.check(&first).expect("CHECK of eth0 succeeds after DEL of net1");
        for address in addresses(&first) {
            assert_talk(&pod.netns, address, &other.netns);
        }
    }
}

#[test]
fn check_misses_the_routes_of_a_second_interface() {
    let node = Node::new("second-check", &DUAL_STACK);
    let pod = node.pod("p1");
    pod.add().expect("ADD of eth0 succeeds");
    let net1 = second(&pod);
    let added = net1.add().expect("ADD of net1 succeeds");
    let table = (0xcf00 + net1.link("net1")["ifindex"].as_u64().expect("an index")).to_string();
    pod.ip(&["route", "del", "10.244.1.0/24", "table", &table]);
    net1.assert_check_finds(&added, &format!("10.244.1.0/24 in table {table}"));
    pod.ip(&["route", "add", "10.244.1.0/24", "dev", "net1", "scope", "link", "table", &table]);
    net1.check(&added).expect("all is there again");
    pod.ip(&["-6", "route", "del", "default", "table", &table]);
    net1.assert_check_finds(&added, &format!("default route via fd00:1::1 in table {table}"));
}

#[test]
fn first_interface_may_go_before_the_second() {
    let node = Node::new("second-stays", &DUAL_STACK);
    let (pod, other) = (node.pod("p1"), node.pod("p2"));
    pod.add().expect("ADD of eth0 succeeds");
    other.add().expect("ADD of another pod succeeds");
    let net1 = second(&pod);
    let added = net1.add().expect("ADD of net1 succeeds");
    pod.del().expect("DEL of eth0 succeeds");
    net1.check(&added).expect("CHECK of net1 succeeds");
    for address in addresses(&added) {
        assert_talk(&pod.netns, address, &other.netns);
    }
    // Nothing has the main table, so the next one does.
    let eth0 = pod.add().expect("ADD of eth0 succeeds again");
    assert_connects(&pod, From::Anywhere, &node, "10.244.1.1");
    pod.check(&eth0).expect("CHECK of eth0 succeeds");
    net1.check(&added).expect("CHECK of net1 succeeds beside it");
    net1.del().expect("DEL of net1 succeeds");
    assert!(!list(&pod, &["rule"]).contains("20700"));
}

#[test]
fn nothing_is_left_of_a_second_interface_that_failed_or_that_gc_removes() {
    let node = Node::new("second-gone", &DUAL_STACK);
    let pod = node.pod("p1");
    let first = pod.add().expect("ADD of eth0 succeeds");
    let before = list(&pod, &["rule"]);
    let mut net1 = second(&pod);
    // The last of the requests fails, when all rules are there.
    net1.keys = json!({"ipam": {"routes": [{"dst": "192.0.2.0/24", "gw": "198.51.100.1"}]}});
    let error = net1.add().expect_err("ADD fails");
    assert!(error["msg"].to_string().contains("192.0.2.0/24"), "{error}");
    assert_eq!(list(&pod, &["rule"]), before);
    assert!(!pod.has_link("net1"));

    net1.keys = json!({});
    net1.add().expect("ADD of net1 succeeds");
    assert_ne!(list(&pod, &["rule"]), before);
    let valid = json!([{"containerID": "p1", "ifname": "eth0"}]);
    node.call("GC", &json!({"cni.dev/valid-attachments": valid})).expect("GC succeeds");
    assert!(!pod.has_link("net1"));
    assert_eq!(list(&pod, &["rule"]), before);
    pod.check(&first).expect("CHECK of eth0 succeeds");
}

#[test]
fn interface_beside_another_plugins_has_its_routes_in_the_main_table() {
    let mut node = Node::new("second-alien", &DUAL_STACK);
    node.cluster_networks = vec!["10.244.0.0/16".to_owned(), "fd00::/16".to_owned()];
    node.write_node_file();
    let (pod, other) = (node.pod("p1"), node.pod("p2"));
    other.add().expect("ADD of another pod succeeds");
    pod.ip(&["link", "add", "eth0", "type", "bridge"]);
    pod.ip(&["addr", "add", "172.30.0.2/24", "dev", "eth0"]);
    pod.ip(&["link", "set", "eth0", "up"]);
    pod.ip(&["route", "add", "default", "via", "172.30.0.1"]);
    let mut net1 = second(&pod);
    net1.keys = json!({"isDefaultGateway": false});
    let added = net1.add().expect("ADD of net1 succeeds");
    let routes = list(&pod, &["route"]);
    assert!(routes.contains("10.244.0.0/16 via 10.244.1.1 dev net1"), "{routes}");
    assert!(!list(&pod, &["rule"]).contains("20700"));
    net1.check(&added).expect("CHECK of net1 succeeds");
    for address in addresses(&added) {
        assert_talk(&pod.netns, address, &other.netns);
    }
}
