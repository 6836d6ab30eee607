//! What a node asks and tells in a cluster of Kubernetes, step by step, where a run drawn from a
//! seed comes to it too rarely.

#![expect(clippy::unwrap_used, reason = "a test may fail where it stands")]
#![expect(clippy::wildcard_enum_match_arm, reason = "a test names what it is about")]

use std::time::{Duration, Instant};

use culvert_claims::kubernetes::{
    Desired, Follower, Identity, Node, Patch, Request, Sight, Watched,
};
use culvert_claims::{Candidate, HeldAddress, NodeKeys, Update};
use culvert_membership::{NodeEntry, TunnelOptions};
use serde_json::json;

/// The moment at which everything here happens.
#[expect(clippy::disallowed_methods, reason = "only differences matter")]
fn now() -> Instant {
    Instant::now()
}

const SIGHT: Sight = Sight { port: 4790, flannel: None };

/// The node, which an earlier daemon knew with the subnet 10.244.1.0/24.
fn follower() -> Follower {
    let desired = Desired::new(None, 4790, "culvert.dev/not-ready");
    let identity = Identity { name: "node1".into(), sight: SIGHT, desired };
    let entry = NodeEntry {
        name: "node1".into(),
        address: [192, 168, 1, 11].into(),
        subnets: vec!["10.244.1.0/24".parse().unwrap()],
        tunnel_options: TunnelOptions::default(),
    };
    Follower::new(identity, vec![Candidate { since: 0, entry: entry.into() }])
}

/// Its Node, with another subnet.
fn node() -> Node {
    let node = json!({
        "metadata": {"name": "node1", "resourceVersion": "7"},
        "spec": {"podCIDR": "10.244.2.0/24"},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.168.1.11"}]},
    });
    serde_json::from_value(node).unwrap()
}

/// The pods that are there.
fn held() -> Vec<HeldAddress> {
    vec![HeldAddress::of_container([10, 244, 1, 2].into(), "c".into())]
}

/// What the node tells its daemon, as far as it is about its claim.
fn contested(follower: &mut Follower) -> Option<Option<String>> {
    std::iter::from_fn(|| follower.update())
        .filter_map(|update| match update {
            Update::Contested(reason) => Some(reason),
            _ => None,
        })
        .last()
}

/// A node that has listed, and looks whether pods hold addresses of what it lost.
fn looks(follower: &mut Follower) {
    follower.begin(false);
    assert!(matches!(follower.request(now()), Request::List));
    follower.listed(vec![node()], "7".into());
    assert!(matches!(follower.request(now()), Request::Heard));
    assert!(contested(follower).is_some_and(|reason| reason.is_some()), "it says so first");
    follower.heard(false);
    assert!(matches!(follower.request(now()), Request::Pods(_)));
}

/// A daemon starts from its last good table, takes pods, and hears seconds later that its Node has
/// another podCIDR. It never told the API that pods could come; it must still say that they cannot.
#[test]
fn a_node_that_never_took_pods_says_that_it_takes_none() {
    let mut follower = follower();
    looks(&mut follower);
    follower.pods(Ok(held()));
    let patches = std::iter::from_fn(|| match follower.request(now()) {
        Request::Patch(patch) => Some(patch),
        _ => None,
    });
    let status = patches.filter_map(|patch| match patch {
        Patch::Status(status) => Some(status["status"]["conditions"][0]["status"].clone()),
        Patch::Object(_) => None,
    });
    assert_eq!(status.collect::<Vec<_>>(), ["True"]);
}

#[test]
fn a_node_whose_pods_stay_looks_again_after_three_seconds_and_says_which_are_left() {
    let mut follower = follower();
    looks(&mut follower);
    follower.pods(Ok(held()));
    while matches!(follower.request(now()), Request::Patch(_)) {}
    follower.watching();
    let Request::Wait(Some(until)) = follower.request(now()) else { panic!("it waits") };
    let early = until.saturating_duration_since(now());
    assert!(early <= Duration::from_secs(3) && early > Duration::from_secs(1), "{early:?}");
    assert!(matches!(follower.request(until), Request::Heard));
    follower.heard(false);
    let named = HeldAddress { pod: Some("default/web".into()), ..held().remove(0) };
    follower.pods(Ok(vec![named]));
    let reason = contested(&mut follower).flatten().unwrap();
    assert!(reason.contains("while 1 pods") && reason.contains("of default/web"), "{reason}");
    let until = loop {
        match follower.request(until) {
            Request::Patch(_) => {}
            Request::Wait(Some(until)) => break until,
            other => panic!("it waits again: {other:?}"),
        }
    };
    assert!(matches!(follower.request(until), Request::Heard));
    follower.heard(false);
    follower.pods(Ok(Vec::new()));
    assert_eq!(contested(&mut follower), Some(None), "nobody holds an address any more");
}

/// A daemon that has heard that the node is contested may take a moment until it takes no more
/// pods.
#[test]
fn nobody_looks_at_pods_while_the_daemon_takes_new_ones() {
    let mut follower = follower();
    follower.begin(true);
    follower.request(now());
    follower.listed(vec![node()], "7".into());
    assert!(matches!(follower.request(now()), Request::Heard));
    follower.heard(true);
    while matches!(follower.request(now()), Request::Patch(_)) {}
    assert!(matches!(follower.request(now()), Request::Watch(_)), "it looks later");
    follower.watching();
    follower.ready(false);
    assert!(matches!(follower.request(now()), Request::Heard), "that is now");
    follower.heard(false);
    assert!(matches!(follower.request(now()), Request::Pods(_)));
}

#[test]
fn what_was_seen_of_pods_does_not_count_once_there_may_be_new_ones() {
    let mut follower = follower();
    looks(&mut follower);
    follower.ready(true);
    follower.pods(Ok(Vec::new()));
    assert!(matches!(follower.request(now()), Request::Heard), "it looks again");
    assert_eq!(contested(&mut follower), None, "it is still contested");
}

#[test]
fn own_node_that_was_deleted_is_told_from_a_name_that_the_cluster_does_not_have() {
    let mut known = follower();
    known.begin(false);
    known.listed(Vec::new(), "7".into());
    let reason = contested(&mut known).flatten().unwrap();
    assert!(reason.contains("was deleted") && reason.contains("restart its kubelet"), "{reason}");
    let desired = Desired::new(None, 4790, "culvert.dev/not-ready");
    let identity = Identity { name: "nodel".into(), sight: SIGHT, desired };
    let mut misnamed = Follower::new(identity, Vec::new());
    misnamed.begin(false);
    misnamed.listed(vec![node()], "7".into());
    let reason = contested(&mut misnamed).flatten().unwrap();
    assert!(reason.contains("set node.name") && !reason.contains("deleted"), "{reason}");
}

#[test]
fn a_node_that_is_deleted_goes_out_of_the_table() {
    let mut follower = follower();
    follower.begin(false);
    let other: Node = serde_json::from_value(json!({
        "metadata": {"name": "node2", "resourceVersion": "8"},
        "spec": {"podCIDR": "10.244.3.0/24"},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.168.1.12"}]},
    }))
    .unwrap();
    follower.watched(Watched::Put(other.clone()));
    assert!(matches!(follower.update(), Some(Update::Put(_))));
    follower.watched(Watched::Deleted(other));
    assert_eq!(follower.update(), Some(Update::Remove("node2".into())));
}

#[test]
fn a_changed_key_is_written_at_once_and_is_its_own_once_the_node_says_so() {
    let mut follower = follower();
    looks(&mut follower);
    follower.pods(Ok(Vec::new()));
    while matches!(follower.request(now()), Request::Patch(_)) {}
    follower.watching();
    while follower.update().is_some() {}
    let text = "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=";
    let keys = NodeKeys::parse([text]).unwrap();
    follower.set_keys(keys);
    let Request::Patch(Patch::Object(patch)) = follower.request(now()) else { panic!("a patch") };
    assert_eq!(patch["metadata"]["annotations"]["culvert.dev/public-key"], text);
    assert_eq!(follower.update(), None, "nobody has it yet");
    let written: Node = serde_json::from_value(json!({
        "metadata": {
            "name": "node1",
            "resourceVersion": "8",
            "annotations": {"culvert.dev/public-key": text},
        },
        "spec": {"podCIDR": "10.244.2.0/24"},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.168.1.11"}]},
    }))
    .unwrap();
    follower.watched(Watched::Put(written));
    let Some(Update::Put(own)) = follower.update() else { panic!("its own entry has changed") };
    assert_eq!(own.entry.tunnel_options.keys, keys);
}
