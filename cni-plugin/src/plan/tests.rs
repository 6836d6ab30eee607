use serde_json::json;

use super::*;
use crate::config::Config;
use crate::environment::{Args, Directories};

fn node() -> NodeFile {
    NodeFile {
        node: "node1".to_owned(),
        bridge: "v-net-0".to_owned(),
        mtu: 1400,
        gso_max_size: None,
        subnets: vec!["10.244.1.0/24".parse().unwrap(), "fd00:1::/64".parse().unwrap()],
        cluster_networks: vec!["10.244.0.0/16".parse().unwrap(), "fd00:1::/48".parse().unwrap()],
        masquerade: Some(true),
        policy: false,
        own_ports: Vec::new(),
    }
}

fn settings(keys: Value) -> Settings {
    let mut document = json!({"cniVersion": "1.0.0", "name": "pods"});
    for (key, value) in keys.as_object().unwrap() {
        document[key] = value.clone();
    }
    let Value::Object(document) = document else { unreachable!("it is an object") };
    let config = Config::parse(document, Directories::default()).unwrap();
    Settings::read(&config, &Args::default()).unwrap()
}

fn plan(keys: Value) -> Result<Plan, Error> {
    Plan::new(&settings(keys), &node())
}

#[test]
fn a_pod_gets_one_address_of_each_family_and_the_mtu_of_the_node() {
    let plan = plan(json!({})).unwrap();
    let request = Request::one_of_each_family(&node().subnets);
    assert_eq!(plan, Plan { mtu: 1400, request });
}

#[test]
fn what_the_node_already_is_may_be_said() {
    for keys in [
        json!({"bridge": "v-net-0"}),
        json!({"ipMasq": true}),
        json!({"mtu": 1400}),
        json!({"mtu": 1280}),
        json!({"ipam": {"subnet": "10.244.1.0/24", "gateway": "10.244.1.1"}}),
    ] {
        assert!(plan(keys.clone()).is_ok(), "{keys}");
    }
    let v4_only = json!({"mtu": 68, "ipam": {"subnet": "10.244.1.0/24"}});
    assert_eq!(plan(v4_only).unwrap().mtu, 68);
}

#[test]
fn what_the_node_is_not_is_refused_by_name() {
    let cases = [
        (json!({"bridge": "cni0"}), 2, "bridge"),
        (json!({"ipMasq": false}), 2, "ipMasq"),
        (json!({"mtu": 1401}), 7, "mtu"),
        (json!({"mtu": 70000}), 7, "mtu"),
        (json!({"mtu": 1279}), 7, "mtu"),
        (json!({"ipam": {"subnet": "10.244.2.0/24"}}), 7, "ipam.subnet"),
        (json!({"ipam": {"subnet": "10.244.0.0/16"}}), 7, "ipam.subnet"),
        (json!({"ipam": {"subnet": "10.244.1.8/32"}}), 7, "ipam.subnet"),
        (
            json!({"ipam": {"subnet": "10.244.1.0/24", "gateway": "10.244.1.254"}}),
            2,
            "ipam.gateway",
        ),
        (json!({"runtimeConfig": {"ips": ["10.244.2.9"]}}), 7, "runtimeConfig.ips[0]"),
        (json!({"runtimeConfig": {"ips": ["10.244.1.1"]}}), 7, "runtimeConfig.ips[0]"),
        (json!({"args": {"cni": {"ips": ["10.244.1.255"]}}}), 7, "args.cni.ips[0]"),
    ];
    for (keys, code, named) in cases {
        let error = plan(keys.clone()).unwrap_err();
        assert_eq!(error.code(), code, "{keys}");
        let text = error.to_string();
        assert!(text.contains(&format!("config key {named} is ")), "{keys}: {text}");
    }
}

#[test]
fn ranges_are_parts_of_the_nodes_subnet() {
    let bounds = |keys: Value| {
        let range = plan(json!({"ipam": keys})).unwrap().request.sets[0][0].clone();
        let subnet = range.subnet().to_string();
        assert_eq!(subnet, "10.244.1.0/24", "the prefix length is the subnet's");
        range.to_string()
    };
    assert_eq!(bounds(json!({"subnet": "10.244.1.0/24"})), "10.244.1.0/24");
    let part = bounds(json!({"subnet": "10.244.1.128/25"}));
    assert_eq!(part, "10.244.1.129 to 10.244.1.254 of 10.244.1.0/24");
    let from = bounds(json!({"subnet": "10.244.1.0/24", "rangeStart": "10.244.1.100"}));
    assert_eq!(from, "10.244.1.100 to 10.244.1.254 of 10.244.1.0/24");
    let to = bounds(json!({"subnet": "10.244.1.0/25", "rangeStart": "10.244.1.0"}));
    assert_eq!(to, "10.244.1.1 to 10.244.1.126 of 10.244.1.0/24");
}

fn route_texts(keys: Value) -> Vec<String> {
    let pairs = [
        ("10.244.1.2/24".parse().unwrap(), "10.244.1.1".parse().unwrap()),
        ("fd00:1::2/64".parse().unwrap(), "fd00:1::1".parse().unwrap()),
    ];
    let routes = routes(&settings(keys), &node().cluster_networks, &pairs).unwrap();
    let text = |route: &RouteSpec| match route.gateway {
        Some(gateway) => format!("{} {gateway}", route.dst),
        None => route.dst.to_string(),
    };
    routes.iter().map(text).collect()
}

#[test]
fn everything_goes_through_the_bridge_or_only_the_cluster() {
    assert_eq!(route_texts(json!({})), ["0.0.0.0/0 10.244.1.1", "::/0 fd00:1::1"]);
    assert_eq!(
        route_texts(json!({"isDefaultGateway": false})),
        ["10.244.0.0/16 10.244.1.1", "fd00:1::/48 fd00:1::1"]
    );
}

#[test]
fn routes_that_are_asked_for_come_first_and_replace_those_that_always_are() {
    let routes = json!([
        {"dst": "0.0.0.0/0", "mtu": 1300},
        {"dst": "192.0.2.9/24", "gw": "10.244.1.9"},
        {"dst": "198.51.100.0/24", "scope": 253},
    ]);
    assert_eq!(
        route_texts(json!({"ipam": {"routes": routes}})),
        ["0.0.0.0/0 10.244.1.1", "192.0.2.0/24 10.244.1.9", "198.51.100.0/24", "::/0 fd00:1::1"]
    );
}

#[test]
fn route_of_a_family_that_the_pod_lacks_is_refused() {
    let pairs = [("10.244.1.2/24".parse().unwrap(), "10.244.1.1".parse().unwrap())];
    let settings = settings(json!({"ipam": {"routes": [{"dst": "::/0"}]}}));
    let error = routes(&settings, &[], &pairs).unwrap_err();
    assert!(error.to_string().contains("ipam.routes[0]"), "{error}");
}
