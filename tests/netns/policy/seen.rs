//! What an operator sees of policies on a node: hits, unused rules, and policies that are being
//! tried out.

use culvert_lab::wait_until;
use serde_json::Value;

use super::directory::Directory;
use super::talk::{Server, can_connect, eventually_connects, eventually_refuses};
use super::{rules, wait_for_rules};
use crate::harness::{REPAIR_LIMIT, SOON};
use crate::validator::assert_valid;

/// Longer than counters are looked at anew.
const COUNTED: std::time::Duration = std::time::Duration::from_secs(20);

fn hits(node: &culvert_lab::Node, more: &[&str]) -> Value {
    let text = node.culvert(&[&["policy", "hits", "--json"], more].concat()).unwrap();
    assert_valid("policy-hits", &text);
    serde_json::from_str(&text).unwrap()
}

/// The packets of one entry of a list, 0 if it is not there.
fn packets(hits: &Value, list: &str, is_meant: impl Fn(&Value) -> bool) -> u64 {
    let all = hits[list].as_array().unwrap();
    all.iter().find(|it| is_meant(it)).map_or(0, |it| it["packets"].as_u64().unwrap())
}

#[test]
fn rules_that_match_and_rules_that_do_not_are_told_apart() {
    let directory = Directory::new();
    let lab = directory.lab("nt-policyhits").pods(2).up().unwrap();
    let (node, server, near) = (lab.node(1), lab.pod(1, 1), lab.pod(1, 2));
    let _servers = [80, 82].map(|port| Server::start(server.netns(), port));
    directory.isolate("node1-pod1", "[{ ports: [{ port: 80 }] }, { ports: [{ port: 81 }] }]");
    wait_for_rules(&lab, "default/node1-pod1 ingress[1]");
    eventually_refuses(near.netns(), server.ipv4(), 82);
    for _connection in 0..3 {
        assert!(can_connect(near.netns(), server.ipv4(), 80));
    }
    let of = |rule: &'static str| {
        move |it: &Value| it["policy"] == "default/node1-pod1" && it["rule"] == rule
    };
    let is_counted = || {
        let hits = hits(node, &[]);
        packets(&hits, "rules", of("ingress[0]")) == 3
            && packets(&hits, "drops", |it| it["by"] == "ingress default/node1-pod1") > 0
    };
    wait_until(COUNTED, "three connections to be counted", is_counted).unwrap();
    let unused = hits(node, &["--unused"]);
    let rules: Vec<&Value> = unused["rules"].as_array().unwrap().iter().collect();
    assert_eq!(rules.len(), 1, "{unused}");
    assert!(of("ingress[1]")(rules[0]) && rules[0]["is_unused"] == true, "{unused}");
    let text = node.culvert(&["policy", "hits"]).unwrap();
    assert!(text.contains("unused") && text.contains("ingress[0]"), "{text}");
    // A chain that is written again begins anew in the kernel, and not here.
    directory.isolate("node1-pod1", "[{ ports: [{ port: 80 }] }, { ports: [{ port: 83 }] }]");
    wait_for_rules(&lab, "default/node1-pod1 ingress[1]");
    let goes_on = || {
        can_connect(near.netns(), server.ipv4(), 80)
            && packets(&hits(node, &[]), "rules", of("ingress[0]")) > 3
    };
    wait_until(COUNTED, "more than three", goes_on).unwrap();
}

#[test]
fn packets_are_explained_by_the_names_of_pods() {
    let directory = Directory::new();
    let lab = directory.lab("nt-policynames").up().unwrap();
    let (from, to) = ("default/node1-pod1", "default/node2-pod1");
    directory.isolate("node2-pod1", "[{ ports: [{ port: 80 }] }]");
    let known = || rules(&lab, 2).contains("default/node2-pod1 ingress[0]");
    wait_until(REPAIR_LIMIT, "the rules of node2", known).unwrap();
    let way = |node: u16, port: &str| -> Value {
        let asked = ["explain", from, to, "--dport", port, "--json"];
        let text = lab.node(node).culvert(&asked).unwrap();
        assert_valid("explain", &text);
        serde_json::from_str::<Value>(&text).unwrap()["ways"][0].clone()
    };
    let sent = way(1, "80");
    let ends = format!("tcp {} 40000 > {} 80", lab.pod(1, 1).ipv4(), lab.pod(2, 1).ipv4());
    assert!(sent["packet"].as_str().unwrap().starts_with(&ends), "{sent}");
    assert_eq!(sent["verdict"], "forward");
    assert_eq!(way(2, "80")["verdict"], "deliver");
    // What the policies decide is told as theirs.
    let refused = way(2, "81");
    assert_eq!(refused["verdict"], "kernel_drops", "{refused}");
    let steps = refused["steps"].as_array().unwrap();
    assert!(steps.iter().any(|step| step["by"] == "policy"), "{refused}");
    let traced = lab.node(1).culvert(&["trace", from, to, "--port", "80"]).unwrap();
    assert!(traced.contains("deliver"), "{traced}");
    let nobody = lab.node(1).culvert(&["explain", "default/nobody", to]).unwrap_err().to_string();
    assert!(nobody.contains("no pod default/nobody is known"), "{nobody}");
}

#[test]
fn policy_that_is_tried_out_tells_what_it_would_drop_and_drops_nothing() {
    let directory = Directory::new();
    let lab = directory.lab("nt-policyaudit").pods(2).up().unwrap();
    let (node, server, near) = (lab.node(1), lab.pod(1, 1), lab.pod(1, 2));
    let _servers = [80, 81].map(|port| Server::start(server.netns(), port));
    let policy = |audit: &str| {
        directory.write(
            "try.yaml",
            &format!(
                "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{ name: try, namespace: default, annotations: {{ culvert.dev/audit: \"{audit}\" }} }}
spec:
  podSelector: {{ matchLabels: {{ pod: node1-pod1 }} }}
  policyTypes: [Ingress]
  ingress: [{{ ports: [{{ port: 80 }}] }}]
"
            ),
        );
    };
    policy("true");
    wait_for_rules(&lab, "default/try ingress[0]");
    for port in [80, 81] {
        eventually_connects(near.netns(), server.ipv4(), port);
    }
    let told = "a policy that is being tried out would drop this";
    wait_until(SOON, "it to be said", || node.log().contains(told)).unwrap();
    let log = node.log();
    let line = log.lines().find(|line| line.contains(told)).unwrap();
    for part in [near.ipv4().to_string(), server.ipv4().to_string(), "default/try".to_owned()] {
        assert!(line.contains(&part), "{line}");
    }
    assert!(!log.contains("dropped by policy"), "{log}");
    let is_counted =
        || packets(&hits(node, &[]), "audited", |it| it["by"] == "ingress default/try") > 0;
    wait_until(COUNTED, "it to be counted", is_counted).unwrap();
    let status = node.status().unwrap();
    assert_eq!(
        status["policy"]["drops"].as_object().unwrap().values().filter(|it| **it != 0).count(),
        0
    );
    let (_, metrics) = node.http("/metrics").unwrap();
    let sample = |name: &str| {
        let line = metrics.lines().find(|line| line.starts_with(name)).unwrap();
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    assert!(sample("culvert_policy_audited_packets_total ") > 0.0);
    assert_eq!(sample("culvert_policy_dropped_packets_total "), 0.0);
    // What was said comes true.
    policy("false");
    eventually_refuses(near.netns(), server.ipv4(), 81);
    wait_until(REPAIR_LIMIT, "the other port", || can_connect(near.netns(), server.ipv4(), 80))
        .unwrap();
}
