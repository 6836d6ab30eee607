//! What of a cluster can come over, by what an API server says.

use serde_json::{Value, json};

use super::check::{Found, judge};

fn node(number: u8, annotations: Value) -> Value {
    json!({
        "metadata": {"name": format!("node{number}"), "annotations": annotations},
        "spec": {"podCIDR": format!("10.244.{number}.0/24")},
    })
}

fn flannels(number: u8) -> Value {
    node(
        number,
        json!({
            "flannel.alpha.coreos.com/kube-subnet-manager": "true",
            "flannel.alpha.coreos.com/backend-type": "vxlan",
            "flannel.alpha.coreos.com/backend-data":
                format!("{{\"VNI\":1,\"VtepMAC\":\"aa:00:00:00:00:0{number}\"}}"),
            "flannel.alpha.coreos.com/public-ip": format!("192.168.1.1{number}"),
        }),
    )
}

fn with(config: &Value, nodes: Vec<Value>) -> Found {
    let text = config.to_string();
    let maps = json!({"items": [{"data": {"net-conf.json": text}}]});
    judge(&json!({"items": nodes}), &maps)
}

fn usual() -> Value {
    json!({"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan"}})
}

#[test]
fn a_usual_cluster_can_come_over_and_is_told_what_to_configure() {
    let nodes =
        vec![flannels(1), node(2, json!({"culvert.dev/codec": "vxlan-gpe"})), node(3, json!({}))];
    let found = with(&usual(), nodes);
    assert!(found.problems.is_empty(), "{found}");
    let by: Vec<_> = found.nodes.iter().map(|node| (node.name.as_str(), node.by)).collect();
    assert_eq!(by, [("node1", "flannel"), ("node2", "culvert"), ("node3", "nobody")]);
    let text = found.to_string();
    assert!(text.contains("node1  flannel  192.168.1.11     aa:00:00:00:00:01"), "{text}");
    for key in ["vxlan_vni = 1\n", "vxlan_port = 8472\n", "migrate_from = \"flannel\"\n"] {
        assert!(text.contains(key), "{text}");
    }
    let other = json!({"Backend": {"Type": "vxlan", "VNI": 1, "Port": 4789}});
    assert!(with(&other, vec![flannels(1)]).configuration.contains("vxlan_port = 4789\n"));
}

#[test]
fn what_cannot_come_over_is_refused_with_what_to_do() {
    let backend = |backend: Value| json!({"Network": "10.244.0.0/16", "Backend": backend});
    for (config, words) in [
        (backend(json!({"Type": "udp"})), ["back end is udp", "only vxlan"]),
        (backend(json!({"Type": "host-gw"})), ["back end is host-gw", "only vxlan"]),
        (backend(json!({"Type": "vxlan", "DirectRouting": true})), ["DirectRouting", "to false"]),
        (backend(json!({"Type": "vxlan", "GBP": true})), ["GBP", "to false"]),
        (json!({"EnableIPv6": true, "Backend": {"Type": "vxlan"}}), ["EnableIPv6", "to false"]),
    ] {
        let found = with(&config, vec![flannels(1)]);
        assert_eq!(found.problems.len(), 1, "{config}: {found}");
        assert!(words.iter().all(|word| found.problems[0].contains(word)), "{found}");
    }
    let found = judge(&json!({"items": [flannels(1)]}), &json!({"items": []}));
    assert!(found.problems[0].contains("store may be etcd"), "{found}");
    let mut dual = flannels(2);
    dual["spec"]["podCIDRs"] = json!(["10.244.2.0/24", "fd00::/64"]);
    let mut of_udp = flannels(3);
    of_udp["metadata"]["annotations"]["flannel.alpha.coreos.com/backend-type"] = json!("udp");
    let found = with(&usual(), vec![dual, of_udp]);
    assert!(found.problems[0].contains("node node2: has an IPv6 podCIDR"), "{found}");
    assert!(found.problems[1].contains("node node3: the annotation flannel.alpha"), "{found}");
    let mut twin = flannels(1);
    twin["metadata"]["name"] = json!("twin");
    let found = with(&usual(), vec![flannels(1), twin]);
    assert!(found.problems[0].contains("node twin: node1 has the same"), "{found}");
}
