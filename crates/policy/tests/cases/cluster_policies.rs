//! ClusterNetworkPolicy: tiers, priorities and actions.

use crate::cluster::{Cluster, cluster_policy, policy};

const ALL: &str = "x/b x/c y/a y/b y/c z/a z/b z/c";
const DENY_X: &str = "{podSelector: {}, policyTypes: [Ingress]}";
const ALLOW_X: &str = "{podSelector: {}, ingress: [{}]}";

/// A policy for ingress of the namespace x.
fn rules(name: &str, tier: &str, priority: u16, rules: &str) -> String {
    let spec = format!(
        "{{tier: {tier}, priority: {priority}, subject: {{namespaces: {{matchLabels: {{ns: x}}}}}}, \
         ingress: {rules}}}"
    );
    cluster_policy(name, &spec)
}

fn from(action: &str, namespace: &str) -> String {
    format!("{{action: {action}, from: [{{namespaces: {{matchLabels: {{ns: {namespace}}}}}}}]}}")
}

#[test]
fn admin_deny_goes_before_a_network_policy_that_allows() {
    let admin = rules("a", "Admin", 10, &format!("[{}]", from("Deny", "y")));
    let cluster = Cluster::with(&(admin + &policy("p", ALLOW_X)));
    assert_eq!(cluster.reaching("x/a", "tcp 80"), "x/b x/c z/a z/b z/c");
}

#[test]
fn admin_accept_goes_before_a_network_policy_that_denies() {
    let admin = rules("a", "Admin", 10, &format!("[{}]", from("Accept", "y")));
    let cluster = Cluster::with(&(admin + &policy("p", DENY_X)));
    assert_eq!(cluster.reaching("x/a", "tcp 80"), "y/a y/b y/c");
}

#[test]
fn admin_pass_leaves_it_to_network_policies() {
    let list = format!("[{}, {}]", from("Pass", "y"), "{action: Deny, from: [{namespaces: {}}]}");
    let admin = rules("a", "Admin", 10, &list);
    let later = rules("b", "Admin", 11, &format!("[{}]", from("Deny", "y")));
    let cluster = Cluster::with(&(admin.clone() + &later));
    assert_eq!(cluster.reaching("x/a", "tcp 80"), "y/a y/b y/c");
    let cluster = Cluster::with(&(admin + &later + &policy("p", DENY_X)));
    assert_eq!(cluster.reaching("x/a", "tcp 80"), "");
}

#[test]
fn baseline_is_asked_where_no_network_policy_isolates() {
    let base = rules("b", "Baseline", 10, "[{action: Deny, from: [{namespaces: {}}]}]");
    let cluster = Cluster::with(&base);
    assert_eq!(cluster.reaching("x/a", "tcp 80"), "");
    let spec = "{podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}";
    let cluster = Cluster::with(&(base + &policy("p", spec)));
    assert_eq!(cluster.reaching("x/a", "tcp 80"), "x/b x/c");
}

#[test]
fn what_no_rule_decides_passes() {
    let admin = rules("a", "Admin", 10, &format!("[{}]", from("Accept", "y")));
    assert_eq!(Cluster::with(&admin).reaching("x/a", "tcp 80"), ALL);
    assert!(Cluster::with(&admin).allows("203.0.113.9", "x/a", "tcp 80"));
}

#[test]
fn the_lowest_priority_is_asked_first() {
    let deny = |priority| rules("deny", "Admin", priority, &format!("[{}]", from("Deny", "y")));
    let accept = rules("accept", "Admin", 20, &format!("[{}]", from("Accept", "y")));
    let first = Cluster::with(&(deny(10) + &accept));
    assert_eq!(first.reaching("x/a", "tcp 80"), "x/b x/c z/a z/b z/c");
    let last = Cluster::with(&(deny(30) + &accept));
    assert_eq!(last.reaching("x/a", "tcp 80"), ALL);
}

#[test]
fn the_first_rule_of_a_policy_that_matches_decides() {
    let list = format!("[{}, {}]", from("Accept", "y"), "{action: Deny, from: [{namespaces: {}}]}");
    let cluster = Cluster::with(&rules("a", "Admin", 10, &list));
    assert_eq!(cluster.reaching("x/a", "tcp 80"), "y/a y/b y/c");
}

#[test]
fn egress_has_nodes_and_networks_as_peers() {
    let spec = "{tier: Admin, priority: 1, subject: {pods: {namespaceSelector: {matchLabels: {ns: \
                x}}, podSelector: {matchLabels: {pod: a}}}}, egress: [{action: Deny, to: [{nodes: \
                {matchLabels: {node: y}}}]}, {action: Deny, to: [{networks: [203.0.113.0/24, \
                '2001:db8::/32']}]}]}";
    let cluster = Cluster::with(&cluster_policy("a", spec));
    assert!(!cluster.allows("x/a", "192.168.1.2", "tcp 22"));
    assert!(cluster.allows("x/a", "192.168.1.3", "tcp 22"));
    assert!(
        !cluster.allows("x/a", "203.0.113.9", "icmp")
            && cluster.allows("x/b", "203.0.113.9", "icmp")
    );
    assert!(!cluster.allows("x/a v6", "2001:db8::1", "udp 53"));
}

#[test]
fn protocols_of_a_cluster_are_numbers_ranges_and_names() {
    let list = "[{action: Deny, from: [{namespaces: {}}], protocols: [{tcp: {destinationPort: \
                {number: 80}}}, {udp: {destinationPort: {range: {start: 80, end: 90}}}}, \
                {destinationNamedPort: serve-81-sctp}]}]";
    let cluster = Cluster::with(&rules("a", "Admin", 1, list));
    let denied = ["tcp 80", "udp 80", "udp 90", "sctp 81"];
    let passes = ["tcp 81", "udp 91", "sctp 80", "icmp"];
    assert!(denied.iter().all(|it| !cluster.allows("y/a", "x/a", it)));
    assert!(passes.iter().all(|it| cluster.allows("y/a", "x/a", it)));
}

#[test]
fn a_rule_that_is_not_understood_closes() {
    let unknown = "[{action: Accept, from: [{galaxies: {}}]}]";
    let cluster = Cluster::with(&(rules("a", "Admin", 1, unknown) + &policy("p", DENY_X)));
    assert_eq!(cluster.reaching("x/a", "tcp 80"), "");
}

#[test]
fn accept_of_one_end_is_not_accept_of_the_other() {
    let accept = rules("a", "Admin", 1, "[{action: Accept, from: [{namespaces: {}}]}]");
    let deny = policy("p", "{podSelector: {matchLabels: {pod: b}}, policyTypes: [Egress]}");
    let cluster = Cluster::with(&(accept + &deny));
    assert_eq!(cluster.reaching("x/a", "tcp 80"), "x/c y/a y/b y/c z/a z/b z/c");
}
