//! What configuration and runtime ask for, and what the kernel then has.

use serde_json::{Value, json};

use crate::harness::{DUAL_STACK, Node, Pod, json_of, set};

fn routes(pod: &Pod<'_>, family: &str, table: &str) -> Vec<Value> {
    let routes = json_of(&["-n", &pod.netns, "-j", family, "route", "show", "table", table]);
    routes.as_array().expect("a list of routes").clone()
}

#[test]
fn address_and_mac_of_every_source_are_given() {
    let node = Node::new("wishes", &DUAL_STACK);
    let mut first = node.pod("p1");
    first.environment = vec![("CNI_ARGS", "IP=10.244.1.77;MAC=0a:58:00:00:00:77".to_owned())];
    let result = first.add().expect("ADD succeeds");
    assert_eq!(first.addresses("eth0"), set(&["10.244.1.77/24", "fd00:1::2/64"]));
    assert_eq!(first.link("eth0")["address"], "0a:58:00:00:00:77");
    first.check(&result).expect("CHECK finds nothing");

    let mut second = node.pod("p2");
    second.keys = json!({
        "args": {"cni": {"ips": ["fd00:1::99"], "mac": "0a:58:00:00:00:98"}},
        "runtimeConfig": {"ips": ["10.244.1.99/24"], "mac": "0a:58:00:00:00:99"},
    });
    second.add().expect("ADD succeeds");
    assert_eq!(second.addresses("eth0"), set(&["10.244.1.99/24", "fd00:1::99/64"]));
    assert_eq!(second.link("eth0")["address"], "0a:58:00:00:00:99");

    let mut third = node.pod("p3");
    third.keys = json!({"runtimeConfig": {"ips": ["10.244.1.99"]}});
    let error = third.add().expect_err("the address is taken");
    assert_eq!(error["code"], 102, "{error}");
    assert!(error["msg"].to_string().contains("container p2"), "{error}");
    second.del().expect("DEL succeeds");
    third.add().expect("ADD succeeds once it is free");

    let mut fourth = node.pod("p4");
    fourth.keys = json!({"runtimeConfig": {"ips": ["10.244.1.40", "10.244.1.41"]}});
    let error = fourth.add().expect_err("a pod gets one address of a family");
    assert_eq!(error["code"], 7, "{error}");
    assert!(error["msg"].to_string().contains("10.244.1.41"), "{error}");
    assert_eq!(node.held_addresses(), 4, "of the first and the third pod");
}

#[test]
fn ranges_of_host_local_and_of_the_runtime_are_kept_to() {
    let mut node = Node::new("ranges", &DUAL_STACK);
    node.config["ipam"] = json!({
        "type": "host-local",
        "subnet": "10.244.1.0/24",
        "rangeStart": "10.244.1.100",
        "rangeEnd": "10.244.1.101",
        "gateway": "10.244.1.1",
    });
    let pods = ["p1", "p2", "p3"].map(|name| node.pod(name));
    for (pod, address) in pods.iter().zip(["10.244.1.100/24", "10.244.1.101/24"]) {
        pod.add().expect("ADD succeeds");
        assert_eq!(pod.addresses("eth0"), set(&[address]), "of the range's family only");
    }
    let error = pods[2].add().expect_err("the range is full");
    assert_eq!(error["code"], 101, "{error}");
    pods[0].del().expect("DEL succeeds");
    pods[2].add().expect("ADD succeeds");
    assert_eq!(pods[2].addresses("eth0"), set(&["10.244.1.100/24"]));

    let mut both = node.pod("p4");
    both.keys = json!({
        "ipam": {"type": "host-local", "ranges": [[{"subnet": "fd00:1::/64"}]]},
        "runtimeConfig": {"ipRanges": [[{"subnet": "10.244.1.0/24", "rangeStart": "10.244.1.200"}]]},
    });
    both.add().expect("ADD succeeds");
    assert_eq!(both.addresses("eth0"), set(&["10.244.1.200/24", "fd00:1::2/64"]));
}

#[test]
fn routes_carry_what_cni_1_1_may_say_of_them() {
    let node = Node::new("routes", &DUAL_STACK);
    let mut pod = node.pod("p1");
    pod.keys = json!({
        "cniVersion": "1.1.0",
        "ipam": {"routes": [
            {"dst": "0.0.0.0/0", "mtu": 1300, "advmss": 1200},
            {"dst": "192.0.2.0/24", "gw": "10.244.1.9", "priority": 77},
            {"dst": "198.51.100.0/24", "table": 1000},
            {"dst": "203.0.113.0/24", "scope": 253},
            {"dst": "2001:db8::/32", "priority": 5},
        ]},
    });
    let result = pod.add().expect("ADD succeeds");
    let find = |family: &str, table: &str, dst: &str| {
        let routes = routes(&pod, family, table);
        let found = routes.iter().find(|route| route["dst"] == dst);
        found.unwrap_or_else(|| panic!("no route to {dst} in {routes:?}")).clone()
    };
    let default = find("-4", "main", "default");
    assert_eq!(default["gateway"], "10.244.1.1");
    assert_eq!(default["metrics"][0], json!({"mtu": 1300, "advmss": 1200}));
    let near = find("-4", "main", "192.0.2.0/24");
    assert_eq!((&near["gateway"], &near["metric"]), (&json!("10.244.1.9"), &json!(77)));
    assert_eq!(find("-4", "1000", "198.51.100.0/24")["gateway"], "10.244.1.1");
    assert_eq!(find("-4", "main", "203.0.113.0/24")["scope"], "link");
    assert_eq!(find("-6", "main", "2001:db8::/32")["metric"], 5);
    assert_eq!(find("-6", "main", "default")["gateway"], "fd00:1::1");

    assert_eq!(result["routes"][0]["mtu"], 1300);
    assert_eq!(result["routes"][1]["priority"], 77);
    assert_eq!(result["routes"][2]["table"], 1000);
    assert_eq!(result["routes"][3]["scope"], 253);
    pod.check(&result).expect("CHECK finds nothing");
    pod.ip(&["route", "del", "198.51.100.0/24", "table", "1000"]);
    pod.assert_check_finds(&result, "route to 198.51.100.0/24 via 10.244.1.1 in table 1000");
}

#[test]
fn network_beside_another_gets_routes_to_the_cluster_only() {
    let mut node = Node::new("second", &DUAL_STACK);
    node.cluster_networks = vec!["10.244.0.0/16".to_owned(), "fd00:1::/48".to_owned()];
    node.write_node_file();
    node.config["isDefaultGateway"] = json!(false);
    let pod = node.pod("p1");
    let result = pod.add().expect("ADD succeeds");
    assert_eq!(pod.gateways(), set(&[]));
    let through = |family: &str, dst: &str| {
        routes(&pod, family, "main")
            .iter()
            .find(|route| route["dst"] == dst)
            .map(|route| route["gateway"].clone())
    };
    assert_eq!(through("-4", "10.244.0.0/16"), Some(json!("10.244.1.1")));
    assert_eq!(through("-6", "fd00:1::/48"), Some(json!("fd00:1::1")));
    pod.check(&result).expect("CHECK finds nothing");
    pod.ip(&["route", "del", "10.244.0.0/16"]);
    pod.assert_check_finds(&result, "route to 10.244.0.0/16 via 10.244.1.1");
}

#[test]
fn mtu_and_isolation_are_set_and_isolation_is_checked() {
    let mut node = Node::new("port", &["10.244.1.0/24"]);
    node.config["mtu"] = json!(1300);
    node.config["portIsolation"] = json!(true);
    node.config["cniVersion"] = json!("1.1.0");
    let pod = node.pod("p1");
    let result = pod.add().expect("ADD succeeds");
    assert_eq!(result["interfaces"][2]["mtu"], 1300);
    assert_eq!(pod.link("eth0")["mtu"], 1300);
    let device = pod.host_device();
    let port = node.link(&device);
    assert_eq!(port["mtu"], 1400);
    assert_eq!(port["linkinfo"]["info_slave_data"]["isolated"], true);
    pod.check(&result).expect("CHECK finds nothing");
    node.ip(&["link", "set", &device, "type", "bridge_slave", "isolated", "off"]);
    pod.assert_check_finds(&result, "isolation");
}

#[test]
fn refused_keys_leave_nothing_behind() {
    let node = Node::new("refused", &DUAL_STACK);
    for (number, (keys, code)) in [
        (json!({"vlan": 7}), 2),
        (json!({"bridge": "cni0"}), 2),
        (json!({"ipMasq": false}), 2),
        (json!({"mtu": 9000}), 7),
        (json!({"ipam": {"type": "dhcp"}}), 2),
        (json!({"ipam": {"subnet": "10.244.9.0/24"}}), 7),
        (json!({"ipam": {"routes": [{"dst": "10.0.0.0/8", "gw": "192.0.2.1"}]}}), 100),
    ]
    .into_iter()
    .enumerate()
    {
        let mut pod = node.pod(&format!("p{number}"));
        pod.keys = keys;
        let error = pod.add().expect_err("ADD refuses the key");
        assert_eq!(error["code"], code, "{error}");
        pod.del().expect("DEL refuses no key");
        node.assert_clean();
    }
}
