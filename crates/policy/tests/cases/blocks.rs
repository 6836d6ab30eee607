//! Networks, nodes, and what is always allowed.

use crate::cluster::{Cluster, policy};

fn from(block: &str) -> Cluster {
    let spec = format!(
        "{{podSelector: {{matchLabels: {{pod: a}}}}, ingress: [{{from: [{{ipBlock: {block}}}]}}]}}"
    );
    Cluster::with(&policy("p", &spec))
}

fn reaches(block: &str, source: &str) -> bool {
    from(block).allows(source, "x/a", "tcp 80")
}

#[test]
fn a_block_allows_its_addresses() {
    assert!(reaches("{cidr: 203.0.113.0/24}", "203.0.113.9"));
    assert!(!reaches("{cidr: 203.0.113.0/24}", "198.51.100.9"));
}

#[test]
fn an_exception_is_subtracted_from_its_block() {
    let block = "{cidr: 203.0.113.0/24, except: [203.0.113.8/29]}";
    assert!(reaches(block, "203.0.113.7") && !reaches(block, "203.0.113.9"));
}

#[test]
fn an_exception_of_one_block_may_be_allowed_by_another() {
    let spec = "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 203.0.113.0/24, except: \
                [203.0.113.8/29]}}, {ipBlock: {cidr: 203.0.113.9/32}}]}]}";
    let cluster = Cluster::with(&policy("p", spec));
    assert!(cluster.allows("203.0.113.9", "x/a", "tcp 80"));
    assert!(!cluster.allows("203.0.113.10", "x/a", "tcp 80"));
}

#[test]
fn a_block_matches_pods_too() {
    assert_eq!(from("{cidr: 10.244.2.0/24}").reaching("x/a", "tcp 80"), "y/a y/b y/c");
}

#[test]
fn a_block_of_ipv4_says_nothing_of_ipv6() {
    let cluster = from("{cidr: 0.0.0.0/0}");
    assert!(
        cluster.allows("y/a", "x/a", "tcp 80") && !cluster.allows("y/a v6", "x/a v6", "tcp 80")
    );
}

#[test]
fn egress_to_a_block() {
    let spec = "{podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: \
                0.0.0.0/0, except: [10.244.0.0/16]}}]}]}";
    let cluster = Cluster::with(&policy("p", spec));
    assert!(cluster.allows("x/a", "203.0.113.9", "tcp 80"));
    assert_eq!(cluster.reached("x/a", "tcp 80"), "");
}

#[test]
fn a_node_that_a_block_names_comes_with_its_address_in_the_pod_network() {
    assert!(reaches("{cidr: 192.168.1.2/32}", "192.168.1.2"));
    assert!(reaches("{cidr: 192.168.1.2/32}", "10.244.2.0"));
    assert!(!reaches("{cidr: 192.168.1.2/32}", "10.244.3.0"));
    assert!(reaches("{cidr: 0.0.0.0/0, except: [10.244.0.0/16]}", "10.244.2.0"));
    assert!(!reaches("{cidr: 0.0.0.0/0, except: [192.168.1.2/32]}", "10.244.2.0"));
}

#[test]
fn the_own_node_always_reaches_its_pods_and_they_it() {
    let spec = "{podSelector: {}, policyTypes: [Ingress, Egress]}";
    let cluster = Cluster::with(&policy("deny", spec));
    assert!(cluster.allows("192.168.1.1", "x/a", "tcp 80"));
    assert!(cluster.allows("10.244.1.0", "x/a", "tcp 80"));
    assert!(cluster.allows("x/a", "192.168.1.1", "tcp 10250"));
}

#[test]
fn another_node_is_only_reached_by_a_block() {
    let spec = "{podSelector: {}, ingress: [{from: [{namespaceSelector: {}}]}]}";
    let cluster = Cluster::with(&policy("pods", spec));
    assert!(!cluster.allows("192.168.1.2", "x/a", "tcp 80"));
    assert!(!cluster.allows("10.244.2.0", "x/a", "tcp 80"));
}

#[test]
fn a_pod_reaches_itself() {
    let spec = "{podSelector: {}, policyTypes: [Ingress, Egress]}";
    let cluster = Cluster::with(&policy("deny", spec));
    assert!(cluster.allows("x/a", "x/a", "tcp 80") && cluster.allows("x/a v6", "x/a v6", "icmp"));
}
