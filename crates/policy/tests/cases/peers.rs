//! Whom selectors mean.

use serde_json::json;

use crate::cluster::{Cluster, policy};

fn from(peers: &str) -> Cluster {
    let spec =
        format!("{{podSelector: {{matchLabels: {{pod: a}}}}, ingress: [{{from: {peers}}}]}}");
    Cluster::with(&policy("p", &spec))
}

fn reaching(peers: &str) -> String {
    from(peers).reaching("x/a", "tcp 80")
}

#[test]
fn a_pod_selector_alone_means_the_policys_own_namespace() {
    assert_eq!(reaching("[{podSelector: {matchLabels: {pod: b}}}]"), "x/b");
    assert_eq!(reaching("[{podSelector: {}}]"), "x/b x/c");
}

#[test]
fn a_namespace_selector_alone_means_all_pods_there() {
    assert_eq!(reaching("[{namespaceSelector: {matchLabels: {ns: y}}}]"), "y/a y/b y/c");
}

#[test]
fn an_empty_namespace_selector_means_all_namespaces_and_nobody_outside() {
    let cluster = from("[{namespaceSelector: {}}]");
    assert_eq!(cluster.reaching("x/a", "tcp 80"), "x/b x/c y/a y/b y/c z/a z/b z/c");
    assert!(!cluster.allows("203.0.113.9", "x/a", "tcp 80"));
}

#[test]
fn both_selectors_in_one_item_must_match() {
    let peers =
        "[{namespaceSelector: {matchLabels: {ns: y}}, podSelector: {matchLabels: {pod: b}}}]";
    assert_eq!(reaching(peers), "y/b");
}

#[test]
fn one_of_two_items_must_match() {
    let peers =
        "[{namespaceSelector: {matchLabels: {ns: y}}}, {podSelector: {matchLabels: {pod: b}}}]";
    assert_eq!(reaching(peers), "x/b y/a y/b y/c");
}

#[test]
fn several_selectors_of_pods_and_namespaces() {
    let peers = "[{namespaceSelector: {matchExpressions: [{key: ns, operator: NotIn, values: [x]}]}, \
                 podSelector: {matchExpressions: [{key: pod, operator: In, values: [b, c]}]}}]";
    assert_eq!(reaching(peers), "y/b y/c z/b z/c");
}

#[test]
fn a_namespace_is_found_by_its_name() {
    let peers = "[{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: z}}}]";
    assert_eq!(reaching(peers), "z/a z/b z/c");
}

#[test]
fn not_in_and_does_not_exist_match_a_missing_key() {
    let not_in =
        "[{podSelector: {matchExpressions: [{key: tier, operator: NotIn, values: [web]}]}}]";
    assert_eq!(reaching(not_in), "x/b x/c");
    let missing = "[{podSelector: {matchExpressions: [{key: tier, operator: DoesNotExist}]}}]";
    assert_eq!(reaching(missing), "x/b x/c");
    let exists = "[{podSelector: {matchExpressions: [{key: tier, operator: Exists}]}}]";
    assert_eq!(reaching(exists), "");
}

#[test]
fn egress_selects_destinations() {
    let spec = "{podSelector: {matchLabels: {pod: a}}, policyTypes: [Egress], egress: [{to: \
                [{namespaceSelector: {matchLabels: {ns: y}}, podSelector: {matchLabels: {pod: b}}}]}]}";
    let cluster = Cluster::with(&policy("p", spec));
    assert_eq!(cluster.reached("x/a", "tcp 80"), "y/b");
    assert!(cluster.allows("y/a", "x/a", "tcp 80"));
}

#[test]
fn a_pod_that_is_relabelled_changes_sides() {
    let mut cluster = from("[{podSelector: {matchLabels: {pod: b}}}]");
    cluster.change("Pod", "x/c", |pod| pod["metadata"]["labels"]["pod"] = "b".into());
    assert_eq!(cluster.reaching("x/a", "tcp 80"), "x/b x/c");
    cluster.change("Pod", "x/a", |pod| pod["metadata"]["labels"]["pod"] = "free".into());
    assert_eq!(cluster.reaching("x/a", "tcp 80"), "x/b x/c y/a y/b y/c z/a z/b z/c");
}

#[test]
fn a_namespace_that_is_relabelled_changes_sides() {
    let mut cluster = from("[{namespaceSelector: {matchLabels: {ns: y}}}]");
    cluster.change("Namespace", "z", |it| it["metadata"]["labels"]["ns"] = "y".into());
    cluster.change("Namespace", "y", |it| it["metadata"]["labels"] = json!({}));
    assert_eq!(cluster.reaching("x/a", "tcp 80"), "z/a z/b z/c");
}

#[test]
fn pods_of_both_families_are_selected_in_both() {
    let cluster = from("[{podSelector: {matchLabels: {pod: b}}}]");
    assert!(cluster.allows("x/b v6", "x/a v6", "tcp 80"));
    assert!(!cluster.allows("x/c v6", "x/a v6", "tcp 80"));
}

#[test]
fn what_is_not_understood_matches_nobody() {
    let peers = "[{podSelector: {}, serviceSelector: {}}, {podSelector: {matchLabels: {pod: b}}}]";
    assert_eq!(reaching(peers), "x/b");
}
