//! Which protocols and ports a rule means.

use serde_json::json;

use crate::cluster::{Cluster, policy};

fn ports(ports: &str) -> Cluster {
    let spec =
        format!("{{podSelector: {{matchLabels: {{pod: a}}}}, ingress: [{{ports: {ports}}}]}}");
    Cluster::with(&policy("p", &spec))
}

fn allowed(list: &str) -> String {
    let cluster = ports(list);
    let all = ["tcp 80", "tcp 81", "udp 80", "udp 81", "sctp 80", "sctp 81", "icmp"];
    let allowed = all.iter().filter(|carries| cluster.allows("y/a", "x/a", carries));
    allowed.copied().collect::<Vec<_>>().join(", ")
}

#[test]
fn no_ports_mean_every_protocol() {
    assert_eq!(allowed("[]"), "tcp 80, tcp 81, udp 80, udp 81, sctp 80, sctp 81, icmp");
}

#[test]
fn a_port_without_protocol_is_of_tcp() {
    assert_eq!(allowed("[{port: 80}]"), "tcp 80");
}

#[test]
fn a_protocol_without_port_is_all_its_ports_and_no_icmp() {
    assert_eq!(allowed("[{protocol: UDP}]"), "udp 80, udp 81");
    assert_eq!(allowed("[{}]"), "tcp 80, tcp 81");
}

#[test]
fn several_ports_are_allowed_each() {
    assert_eq!(allowed("[{port: 81}, {port: 80, protocol: UDP}]"), "tcp 81, udp 80");
}

#[test]
fn sctp_is_not_mistaken_for_tcp() {
    assert_eq!(allowed("[{port: 80, protocol: SCTP}]"), "sctp 80");
}

#[test]
fn a_range_ends_with_its_end() {
    let cluster = ports("[{port: 81, endPort: 90}]");
    assert!(!cluster.allows("y/a", "x/a", "tcp 80") && cluster.allows("y/a", "x/a", "tcp 81"));
    assert!(cluster.allows("y/a", "x/a", "tcp 90") && !cluster.allows("y/a", "x/a", "tcp 91"));
}

#[test]
fn a_named_port_is_the_number_that_the_destination_gives_it() {
    let mut cluster = ports("[{port: serve-80-tcp}]");
    assert!(cluster.allows("y/a", "x/a", "tcp 80") && !cluster.allows("y/a", "x/a", "tcp 81"));
    cluster.change("Pod", "x/a", |pod| {
        pod["spec"]["containers"][0]["ports"] =
            json!([{ "name": "serve-80-tcp", "containerPort": 8080 }]);
    });
    assert!(!cluster.allows("y/a", "x/a", "tcp 80") && cluster.allows("y/a", "x/a", "tcp 8080"));
}

#[test]
fn a_named_port_is_of_its_protocol() {
    let cluster = ports("[{port: serve-80-udp, protocol: UDP}, {port: serve-81-udp}]");
    assert!(cluster.allows("y/a", "x/a", "udp 80") && !cluster.allows("y/a", "x/a", "udp 81"));
}

#[test]
fn a_named_port_that_nobody_has_is_nothing() {
    assert_eq!(allowed("[{port: no-such-port}]"), "");
}

#[test]
fn a_named_port_of_egress_is_that_of_each_destination() {
    let spec = "{podSelector: {matchLabels: {pod: a}}, policyTypes: [Egress], egress: [{ports: \
                [{port: serve-80-tcp}]}]}";
    let mut cluster = Cluster::with(&policy("p", spec));
    cluster.change("Pod", "y/a", |pod| {
        pod["spec"]["containers"][0]["ports"] =
            json!([{ "name": "serve-80-tcp", "containerPort": 8080 }]);
    });
    assert!(cluster.allows("x/a", "y/a", "tcp 8080") && !cluster.allows("x/a", "y/a", "tcp 80"));
    assert!(cluster.allows("x/a", "y/b", "tcp 80") && !cluster.allows("x/a", "y/b", "tcp 8080"));
    assert!(!cluster.allows("x/a", "203.0.113.9", "tcp 80"));
}

#[test]
fn a_port_that_is_not_understood_matches_nothing() {
    assert_eq!(allowed("[{port: 80, flags: syn}, {port: 81}]"), "tcp 81");
}
