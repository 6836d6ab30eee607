//! Network policies, enforced between pods of one node and of two.

mod away;
mod changes;
mod directory;
mod disguise;
mod host_ports;
mod paths;
mod random;
mod seen;
mod start;
mod storm;
mod talk;
mod verdicts;

use culvert_lab::{Lab, Netns, wait_until};

use self::directory::Directory;
use self::talk::{Server, assert_never, can_connect, eventually_connects, eventually_refuses};
use crate::harness::{FAMILIES, REPAIR_LIMIT, assert_reaches, run};

/// Values of `net.bridge.bridge-nf-call-iptables`, with which frames of a bridge pass the rules of
/// IP or do not; only the second where the kernel has no such parameter.
fn bridge_calls(node: &Netns) -> Vec<&'static str> {
    const KEY: &str = "bridge/bridge-nf-call-iptables";
    if node.run(|| std::path::Path::new("/proc/sys/net").join(KEY).exists()).unwrap() {
        vec!["0", "1"]
    } else {
        vec!["0"]
    }
}

/// Has frames of the bridge pass the rules of IP, or not.
fn set_bridge_calls(node: &Netns, value: &str) {
    for family in ["ip", "ip6"] {
        let key = format!("bridge/bridge-nf-call-{family}tables");
        // Absent where the kernel has none, of which `bridge_calls` has told.
        let _absent = node.set_sysctl(&key, value);
    }
}

/// Allows TCP to port 80 of node1-pod1 from node2-pod1 alone.
const WEB: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: web, namespace: default }
spec:
  podSelector: { matchLabels: { pod: node1-pod1 } }
  policyTypes: [Ingress]
  ingress:
  - from: [{ podSelector: { matchLabels: { pod: node2-pod1 } } }]
    ports: [{ port: 80 }]
";

#[test]
fn policy_decides_about_pods_of_one_node_and_of_two() {
    let directory = Directory::new();
    let lab = directory.lab("nt-policy").pods(2).up().unwrap();
    let (server, near) = (lab.pod(1, 1), lab.pod(1, 2));
    let (allowed, other) = (lab.pod(2, 1), lab.pod(2, 2));
    let _ports = [80, 81].map(|port| Server::start(server.netns(), port));
    for family in FAMILIES {
        for from in [&near, &allowed, &other] {
            eventually_connects(from.netns(), server.address(family), 80);
        }
    }
    directory.write("web.yaml", WEB);
    for calls in bridge_calls(lab.node(1).netns()) {
        set_bridge_calls(lab.node(1).netns(), calls);
        for family in FAMILIES {
            let to = server.address(family);
            for from in [&near, &other] {
                eventually_refuses(from.netns(), to, 80);
            }
            eventually_connects(allowed.netns(), to, 80);
            assert!(!can_connect(allowed.netns(), to, 81), "another port");
            assert!(can_connect(lab.node(1).netns(), to, 81), "the pod's own node, as for probes");
            assert!(!can_connect(lab.node(2).netns(), to, 80), "another node");
            // Nobody isolates the others, nor what the pod sends.
            assert_reaches(server.netns(), near.address(family));
            assert_reaches(near.netns(), other.address(family));
            assert!(!crate::harness::quick_ping(other.netns(), to).is_reply(), "no port is ICMP's");
        }
    }
    let listed = run(lab.node(1).netns(), "nft", &["list", "ruleset"]);
    assert!(listed.contains("default/web ingress[0]"), "{listed}");
    let status = lab.node(1).status().unwrap();
    assert_eq!(status["policy"]["policies"], 1, "{status}");
    assert!(status["policy"]["error"].is_null(), "{status}");
}

#[test]
fn pod_reaches_itself_and_what_egress_names() {
    let directory = Directory::new();
    let lab = directory.lab("nt-policyeg").pods(2).up().unwrap();
    let (pod, near, far) = (lab.pod(1, 1), lab.pod(1, 2), lab.pod(2, 1));
    let _servers = [&pod, &near, &far].map(|pod| Server::start(pod.netns(), 80));
    directory.write(
        "egress.yaml",
        "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: out, namespace: default }
spec:
  podSelector: { matchLabels: { pod: node1-pod1 } }
  policyTypes: [Egress]
  egress:
  - to: [{ podSelector: { matchLabels: { pod: node2-pod1 } } }]
",
    );
    for family in FAMILIES {
        eventually_refuses(pod.netns(), near.address(family), 80);
        eventually_connects(pod.netns(), far.address(family), 80);
        assert!(can_connect(pod.netns(), pod.address(family), 80), "itself");
        assert!(can_connect(near.netns(), pod.address(family), 80), "who calls gets an answer");
        assert_reaches(pod.netns(), lab.node(1).address_in(family));
        let outside = lab.outside(family);
        assert_never(|| crate::harness::quick_ping(pod.netns(), outside).is_reply());
        assert_reaches(near.netns(), outside);
    }
}

#[track_caller]
fn wait_for_rules(lab: &Lab, part: &str) {
    let what = format!("rules with {part}");
    wait_until(REPAIR_LIMIT, &what, || rules(lab, 1).contains(part)).unwrap();
}

/// The rules of policies, as the program `nft` lists them; empty if there are none.
fn rules(lab: &Lab, node: u16) -> String {
    let listed = run(lab.node(node).netns(), "nft", &["list", "ruleset"]);
    let tables: Vec<_> =
        listed.split("\n}").filter(|table| table.contains("culvert-policy")).collect();
    tables.concat()
}
