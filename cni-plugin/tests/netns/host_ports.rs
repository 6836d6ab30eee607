//! Ports of the node that lead to a pod, as the plugin alone opens and closes them.

use std::fs;

use culvert_cni::fault::Step;
use serde_json::{Value, json};

use crate::harness::{BRIDGE, DUAL_STACK, Node};

/// Keys of a network that ask for these ports of the node.
pub(crate) fn asking(ports: &Value) -> Value {
    json!({ "runtimeConfig": { "portMappings": ports } })
}

/// A port of each kind.
pub(crate) fn some() -> Value {
    asking(&json!([
        {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
        {"hostPort": 5353, "containerPort": 53, "protocol": "udp", "hostIP": "192.0.2.1"},
        {"hostPort": 3868, "containerPort": 3868, "protocol": "sctp", "hostIP": "2001:db8::1"},
    ]))
}

#[test]
fn second_pod_is_refused_a_port_and_told_who_has_it() {
    let node = Node::new("hostports", &DUAL_STACK);
    let (mut one, mut two) = (node.pod("p1"), node.pod("p2"));
    one.keys = some();
    let result = one.add().expect("ADD succeeds");
    one.check(&result).expect("CHECK finds nothing");
    two.keys = some();
    let error = two.add().expect_err("the port is taken");
    assert_eq!(error["code"], 102, "{error}");
    let text = error["msg"].to_string();
    assert!(text.contains("8080/tcp") && text.contains(&one.host_device()), "{text}");
    // Another address of the node or another protocol is another port.
    two.keys = asking(&json!([
        {"hostPort": 5353, "containerPort": 53, "protocol": "udp", "hostIP": "192.0.2.2"},
        {"hostPort": 8080, "containerPort": 80, "protocol": "udp"},
    ]));
    let second = two.add().expect("ADD succeeds");
    two.check(&second).expect("CHECK finds nothing");
    one.del().expect("DEL succeeds");
    two.check(&second).expect("what is another pod's stays");
    two.del().expect("DEL succeeds");
    node.assert_clean();
}

#[test]
fn port_of_every_address_and_that_of_one_are_not_for_two_pods() {
    let node = Node::new("hostevery", &DUAL_STACK);
    let (mut one, mut two) = (node.pod("p1"), node.pod("p2"));
    let every = asking(&json!([{"hostPort": 8080, "containerPort": 80}]));
    let of = |address: &str| {
        asking(&json!([{"hostPort": 8080, "containerPort": 80, "hostIP": address}]))
    };
    for (first, second) in [
        (every.clone(), of("192.0.2.1")),
        (every.clone(), of("2001:db8::1")),
        (of("192.0.2.1"), every.clone()),
        (of("2001:db8::1"), every.clone()),
        (of("127.0.0.1"), of("0.0.0.0")),
    ] {
        one.keys = first.clone();
        let result = one.add().expect("ADD succeeds");
        two.keys = second.clone();
        let error = two.add().expect_err("the port is taken");
        assert_eq!(error["code"], 102, "{error}");
        let text = error["msg"].to_string();
        assert!(text.contains("portMappings") && text.contains("8080/tcp"), "{text}");
        assert!(text.contains(&one.host_device()), "{text}");
        one.check(&result).expect("the first one keeps it");
        // A pod that is gone without DEL stands in nobody's way.
        node.ip(&["link", "del", &one.host_device()]);
        two.add().expect("nobody has it any more");
        for pod in [&one, &two] {
            pod.del().expect("DEL succeeds");
        }
    }
    one.keys = of("192.0.2.1");
    one.add().expect("ADD succeeds");
    two.keys = of("192.0.2.2");
    two.add().expect("another address has a port of its own");
    for pod in [&one, &two] {
        pod.del().expect("DEL succeeds");
    }
    node.assert_clean();
}

#[test]
fn check_finds_a_port_that_somebody_closed() {
    let node = Node::new("hostcheck", &DUAL_STACK);
    let mut pod = node.pod("p1");
    pod.keys = some();
    let result = pod.add().expect("ADD succeeds");
    let table = ["table", "inet", "culvert-host-ports"];
    node.exec(&[&["nft", "flush", "map"], &table[1..], &["ports"]].concat());
    pod.assert_check_finds(&result, "nft table inet culvert-host-ports");
    node.exec(&[&["nft", "delete"], &table[..]].concat());
    pod.assert_check_finds(&result, "nft table inet culvert-host-ports");
    pod.keys = asking(&json!([{"hostPort": 1, "containerPort": 2}]));
    pod.assert_check_finds(&result, "other ports of the node");
    pod.del().expect("DEL succeeds");
    node.assert_clean();
}

#[test]
fn ports_of_a_pod_that_went_without_del_are_free() {
    let node = Node::new("hostgone", &DUAL_STACK);
    let (mut one, mut two) = (node.pod("p1"), node.pod("p2"));
    one.keys = some();
    one.add().expect("ADD succeeds");
    node.ip(&["link", "del", &one.host_device()]);
    two.keys = some();
    let result = two.add().expect("nobody has them any more");
    one.del().expect("DEL succeeds");
    two.check(&result).expect("the second one keeps them");
    two.del().expect("DEL succeeds");
    node.assert_clean();
}

#[test]
fn del_and_gc_close_ports_also_when_their_file_is_lost() {
    let node = Node::new("hostfile", &DUAL_STACK);
    let mut pod = node.pod("p1");
    pod.keys = some();
    pod.add().expect("ADD succeeds");
    fs::remove_dir_all(node.run_dir().join("host-ports")).expect("there is a file");
    pod.del().expect("DEL succeeds");
    node.assert_clean();
    pod.add().expect("ADD succeeds");
    let kept = json!([{"containerID": "p1", "ifname": "eth0"}]);
    node.call("GC", &json!({"cni.dev/valid-attachments": kept})).expect("GC succeeds");
    assert_eq!(node.host_devices().len(), 1);
    node.call("GC", &json!({"cni.dev/valid-attachments": []})).expect("GC succeeds");
    node.assert_clean();
}

#[test]
fn address_of_a_family_that_the_pod_lacks_is_refused_and_leaves_nothing() {
    let node = Node::new("hostfamily", &DUAL_STACK[..1]);
    let mut pod = node.pod("p1");
    pod.keys = some();
    let error = pod.add().expect_err("it has no IPv6 address");
    assert_eq!(error["code"], 7, "{error}");
    assert!(error["msg"].to_string().contains("hostIP is \\\"2001:db8::1\\\""), "{error}");
    node.assert_clean();
    pod.keys = asking(&json!([{"hostPort": 8080, "containerPort": 80}]));
    pod.add().expect("ADD succeeds");
    let parameter = format!("/proc/sys/net/ipv4/conf/{BRIDGE}/route_localnet");
    assert_eq!(node.exec(&["cat", &parameter]).trim(), "1");
}

#[test]
fn pod_without_ports_makes_no_table_and_no_file() {
    let node = Node::new("hostnone", &DUAL_STACK);
    let mut pod = node.pod("p1");
    pod.keys = asking(&json!([]));
    pod.add().expect("ADD succeeds");
    let tables = node.exec(&["nft", "list", "tables"]);
    assert!(!tables.contains("culvert-host-ports"), "{tables}");
    assert!(!node.run_dir().join("host-ports").exists());
    pod.killed_after("DEL", Step::DevicesRemoved);
    pod.del().expect("DEL succeeds");
}
