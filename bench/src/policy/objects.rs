//! A cluster of 10,000 pods and 1,000 policies, each of which is about some pod of the first node.

use serde_json::{Value, json};
use source_servers::ApiServer;
use source_servers::api_server::{NETWORK_POLICIES, PODS as PODS_PATH};

/// Pods, of which every tenth is said to be on the first node.
pub(super) const PODS: usize = 10_000;
pub(super) const POLICIES: usize = 1_000;
const NAMESPACES: usize = 100;
const APPS: usize = 10;
const TEAMS: usize = 10;
/// Nodes that the other pods are on.
const OTHER_NODES: usize = 90;

/// The namespace that a lab's pods are in.
pub(super) const OWN: &str = "default";

pub(crate) fn namespaces() -> Vec<Value> {
    let namespace = |number: usize| {
        let team = format!("team-{}", number % TEAMS);
        json!({ "metadata": { "name": name_of(number), "labels": { "team": team } } })
    };
    let own = json!({ "metadata": { "name": OWN } });
    (0..NAMESPACES).map(namespace).chain([own]).collect()
}

fn name_of(number: usize) -> String {
    format!("namespace-{number}")
}

/// A pod of a deployment; each tenth is one of the first node's.
pub(crate) fn pod(number: usize) -> Value {
    let (namespace, app) = (number % NAMESPACES, number / NAMESPACES % APPS);
    let node = if number < PODS / 10 {
        "node1".to_owned()
    } else {
        format!("other-{}", number % OTHER_NODES)
    };
    let app = format!("app-{app}");
    json!({
        "metadata": {
            "namespace": name_of(namespace),
            "name": format!("{app}-6d5f8c7b9d-{number:05}"),
            "uid": format!("00000000-0000-0000-0000-{number:012}"),
            "creationTimestamp": "2026-01-02T03:04:05Z",
            "labels": { "app": app, "pod-template-hash": "6d5f8c7b9d" },
        },
        "spec": {
            "nodeName": node,
            "containers": [{
                "name": "main", "image": "registry.example/project/service:v1.2.3",
                "ports": [{ "name": "http", "containerPort": 8080 }],
            }],
        },
        "status": { "phase": "Running", "podIPs": [
            { "ip": format!("10.100.{}.{}", number / 250, number % 250) },
            { "ip": format!("fd00:100::{number:x}") },
        ] },
    })
}

/// A policy about the pods of one deployment: half of them let in another deployment of their
/// namespace, most others one of all namespaces of a team, and a tenth all pods but one
/// deployment's.
pub(crate) fn policy(number: usize) -> Value {
    let (namespace, app) = (number % NAMESPACES, number / NAMESPACES % APPS);
    let other = format!("app-{}", (app + 1) % APPS);
    let peer = match number % 10 {
        0..5 => json!({ "podSelector": { "matchLabels": { "app": other } } }),
        5..9 => json!({
            "namespaceSelector": { "matchLabels": { "team": format!("team-{}", number % TEAMS) } },
            "podSelector": { "matchLabels": { "app": other } },
        }),
        _ => json!({
            "namespaceSelector": {},
            "podSelector": { "matchExpressions": [
                { "key": "app", "operator": "NotIn", "values": [other] },
            ] },
        }),
    };
    json!({
        "metadata": { "namespace": name_of(namespace), "name": format!("policy-{number}") },
        "spec": {
            "podSelector": { "matchLabels": { "app": format!("app-{app}") } },
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{ "from": [peer], "ports": [{ "port": 80 }, { "port": "http" }] }],
            "egress": [{ "to": [{ "ipBlock": {
                "cidr": "10.0.0.0/8", "except": [format!("10.{}.0.0/16", number % 50)],
            } }] }],
        },
    })
}

/// Changes something else: a policy about pods of the first node, or the labels of a pod elsewhere.
pub(super) fn change(server: &ApiServer, number: usize) {
    if number.is_multiple_of(2) {
        let mut policy = policy(number % POLICIES);
        policy["spec"]["ingress"][0]["ports"][0]["port"] = json!(80 + number % 1000);
        server.put_other(NETWORK_POLICIES, policy);
    } else {
        let mut pod = pod(PODS - 1 - number % 1000);
        pod["metadata"]["labels"]["app"] = json!(format!("app-{}", number / 1000 % APPS));
        server.put_other(PODS_PATH, pod);
    }
}

/// A policy about what comes to pods of the lab with this label.
pub(super) fn own_policy(name: &str, label: (&str, &str), ingress: &Value) -> Value {
    json!({
        "metadata": { "namespace": OWN, "name": name },
        "spec": {
            "podSelector": { "matchLabels": { label.0: label.1 } },
            "policyTypes": ["Ingress"],
            "ingress": ingress,
        },
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_policy_is_about_a_pod_of_the_first_node() {
        let key = |namespace: &Value, app: &Value| format!("{namespace} {app}");
        let here: BTreeSet<String> = (0..PODS)
            .map(pod)
            .filter(|pod| pod["spec"]["nodeName"] == "node1")
            .map(|pod| key(&pod["metadata"]["namespace"], &pod["metadata"]["labels"]["app"]))
            .collect();
        for number in 0..POLICIES {
            let policy = policy(number);
            let app = &policy["spec"]["podSelector"]["matchLabels"]["app"];
            assert!(here.contains(&key(&policy["metadata"]["namespace"], app)), "{policy}");
        }
        let ips: BTreeSet<String> =
            (0..PODS).map(|number| pod(number)["status"]["podIPs"].to_string()).collect();
        assert_eq!(ips.len(), PODS);
    }
}
