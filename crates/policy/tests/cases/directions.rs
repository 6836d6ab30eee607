//! Which pods are isolated, in which direction, and what several policies make together.

use crate::cluster::{Cluster, policy};

const ALL: &str = "x/b x/c y/a y/b y/c z/a z/b z/c";

#[test]
fn without_a_policy_everything_passes() {
    let cluster = Cluster::with("");
    assert_eq!(cluster.reaching("x/a", "tcp 80"), ALL);
    assert!(cluster.allows("x/a", "203.0.113.9", "udp 53"));
}

#[test]
fn deny_all_ingress_isolates_the_namespace_and_nothing_else() {
    let cluster = Cluster::with(&policy("deny", "{podSelector: {}, policyTypes: [Ingress]}"));
    assert_eq!(cluster.reaching("x/a", "tcp 80"), "");
    assert_eq!(cluster.reaching("y/a", "tcp 80"), "x/a x/b x/c y/b y/c z/a z/b z/c");
}

#[test]
fn deny_all_in_both_directions() {
    let spec = "{podSelector: {}, policyTypes: [Ingress, Egress]}";
    let cluster = Cluster::with(&policy("deny", spec));
    assert_eq!(cluster.reaching("x/a", "tcp 80"), "");
    assert_eq!(cluster.reached("x/a", "tcp 80"), "");
    assert!(!cluster.allows("x/a", "203.0.113.9", "icmp"));
}

#[test]
fn an_empty_rule_allows_everything() {
    let cluster = Cluster::with(&policy("all", "{podSelector: {}, ingress: [{}]}"));
    assert_eq!(cluster.reaching("x/a", "icmp"), ALL);
    assert!(cluster.allows("203.0.113.9", "x/a", "sctp 9"));
}

#[test]
fn an_empty_list_of_rules_allows_nothing() {
    let cluster = Cluster::with(&policy("none", "{podSelector: {}, ingress: []}"));
    assert_eq!(cluster.reaching("x/a", "tcp 80"), "");
}

#[test]
fn an_empty_list_of_peers_is_everybody() {
    let cluster = Cluster::with(&policy("all", "{podSelector: {}, ingress: [{from: []}]}"));
    assert_eq!(cluster.reaching("x/a", "tcp 80"), ALL);
    assert!(cluster.allows("203.0.113.9", "x/a", "tcp 80"));
}

#[test]
fn without_types_ingress_is_isolated_and_egress_only_with_rules() {
    let cluster = Cluster::with(&policy("p", "{podSelector: {}}"));
    assert_eq!(cluster.reaching("x/a", "tcp 80"), "");
    assert_eq!(cluster.reached("x/a", "tcp 80"), "y/a y/b y/c z/a z/b z/c");
    let cluster = Cluster::with(&policy("p", "{podSelector: {}, egress: []}"));
    assert_eq!(cluster.reached("x/a", "tcp 80"), "y/a y/b y/c z/a z/b z/c");
    let cluster = Cluster::with(&policy("p", "{podSelector: {}, egress: [{ports: [{port: 80}]}]}"));
    assert_eq!(cluster.reaching("x/a", "tcp 80"), "");
    assert_eq!(cluster.reached("x/a", "tcp 81"), "");
}

#[test]
fn a_type_that_is_left_out_is_not_isolated_whatever_its_rules() {
    let spec = "{podSelector: {}, policyTypes: [Egress], ingress: []}";
    let cluster = Cluster::with(&policy("p", spec));
    assert_eq!(cluster.reaching("x/a", "tcp 80"), "y/a y/b y/c z/a z/b z/c");
}

#[test]
fn both_ends_must_allow() {
    let deny = policy("deny", "{podSelector: {matchLabels: {pod: b}}, policyTypes: [Egress]}");
    let allow = policy("allow", "{podSelector: {matchLabels: {pod: a}}, ingress: [{}]}");
    let cluster = Cluster::with(&(deny + &allow));
    assert_eq!(cluster.reaching("x/a", "tcp 80"), "x/c y/a y/b y/c z/a z/b z/c");
}

#[test]
fn directions_are_controlled_by_themselves() {
    let ingress = policy(
        "i",
        "{podSelector: {matchLabels: {pod: a}}, ingress: [{}], policyTypes: [Ingress]}",
    );
    let egress = policy("e", "{podSelector: {matchLabels: {pod: a}}, policyTypes: [Egress]}");
    let cluster = Cluster::with(&(ingress + &egress));
    assert_eq!(cluster.reaching("x/a", "tcp 80"), ALL);
    assert_eq!(cluster.reached("x/a", "tcp 80"), "");
}

#[test]
fn several_policies_allow_what_one_of_them_allows() {
    let one =
        policy("one", "{podSelector: {matchLabels: {pod: a}}, ingress: [{ports: [{port: 80}]}]}");
    let other = policy("other", "{podSelector: {}, ingress: [{ports: [{port: 81}]}]}");
    let cluster = Cluster::with(&(one.clone() + &other));
    assert!(cluster.allows("y/a", "x/a", "tcp 80") && cluster.allows("y/a", "x/a", "tcp 81"));
    assert!(!cluster.allows("y/a", "x/b", "tcp 80") && cluster.allows("y/a", "x/b", "tcp 81"));
    let turned = Cluster::with(&(other + &one));
    assert!(turned.allows("y/a", "x/a", "tcp 80") && turned.allows("y/a", "x/a", "tcp 81"));
}

#[test]
fn allowing_all_wins_over_denying_all() {
    let deny = policy("deny", "{podSelector: {}, policyTypes: [Ingress, Egress]}");
    let allow = policy("allow", "{podSelector: {}, ingress: [{}], egress: [{}]}");
    let cluster = Cluster::with(&(deny + &allow));
    assert_eq!(cluster.reaching("x/a", "tcp 80"), ALL);
    assert_eq!(cluster.reached("x/a", "tcp 80"), ALL);
}

#[test]
fn a_policy_that_is_deleted_isolates_nobody() {
    let mut cluster = Cluster::with(&policy("deny", "{podSelector: {}}"));
    assert_eq!(cluster.reaching("x/a", "tcp 80"), "");
    cluster.remove("NetworkPolicy");
    assert_eq!(cluster.reaching("x/a", "tcp 80"), ALL);
}

#[test]
fn a_policy_that_changes_means_what_it_says_now() {
    let mut cluster =
        Cluster::with(&policy("p", "{podSelector: {}, ingress: [{ports: [{port: 81}]}]}"));
    assert!(!cluster.allows("y/a", "x/a", "tcp 80"));
    cluster.add(&policy("p", "{podSelector: {}, ingress: [{ports: [{port: 80}]}]}"));
    assert!(cluster.allows("y/a", "x/a", "tcp 80") && !cluster.allows("y/a", "x/a", "tcp 81"));
}

#[test]
fn a_policy_that_is_tried_out_changes_nothing() {
    let audit = "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, \
                 namespace: x, annotations: {culvert.dev/audit: 'true'}}\nspec: {podSelector: {}, \
                 ingress: [{ports: [{port: 81}]}]}\n";
    let cluster = Cluster::with(audit);
    assert_eq!(cluster.reaching("x/a", "tcp 80"), ALL);
    let cluster = Cluster::with(&(audit.to_owned() + &policy("deny", "{podSelector: {}}")));
    assert_eq!(cluster.reaching("x/a", "tcp 81"), "");
}
