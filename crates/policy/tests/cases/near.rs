//! What is said of a packet.

use culvert_policy::Judge;
use culvert_policy::plan::Direction;

use crate::cluster::{Cluster, policy};

#[test]
fn the_policies_that_isolate_the_rule_that_allows_and_the_near_miss_are_named() {
    let spec = "{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{podSelector: {matchLabels: \
                {pod: b}}}], ports: [{port: 80}]}]}";
    let cluster = Cluster::with(&(policy("web", spec) + &policy("deny", "{podSelector: {}}")));
    let world = cluster.world();
    let judge = Judge::new(&world);
    let said = |from: &str, carries: &str| {
        let packet = cluster.packet(from, "x/a", carries);
        let mut said = vec![judge.judge(packet).ingress.to_string()];
        said.extend(judge.near_misses(packet, Direction::Ingress).iter().map(ToString::to_string));
        said
    };
    assert_eq!(said("x/b", "tcp 80"), ["x/web ingress[0] allows it"]);
    assert_eq!(
        said("x/b", "tcp 81"),
        [
            "isolated by x/deny, x/web, and no rule allows it",
            "x/web ingress[0] matches the peer, but not tcp port 81: it is for tcp 80",
        ]
    );
    assert_eq!(
        said("y/b", "tcp 80"),
        [
            "isolated by x/deny, x/web, and no rule allows it",
            "x/web ingress[0] matches tcp port 80, but not the peer: it is for pods pod=b of \
             namespace x",
        ]
    );
    assert_eq!(said("y/b", "udp 9").len(), 1);
}
