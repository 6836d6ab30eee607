//! Which pods count.

use std::sync::Arc;

use culvert_policy::object::{Change, Key};
use culvert_policy::plan::Target;
use culvert_policy::{Compiler, Judge, Plan, Site, World};
use serde_json::json;

use crate::cluster::{Cluster, policy};

const FROM_B: &str = "{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{podSelector: {matchLabels: {pod: b}}}]}]}";

#[test]
fn pods_that_have_ended_are_in_no_set() {
    for phase in ["Succeeded", "Failed"] {
        let mut cluster = Cluster::with(&policy("p", FROM_B));
        cluster.change("Pod", "x/b", |pod| pod["status"]["phase"] = phase.into());
        assert!(!cluster.allows("10.244.1.3", "x/a", "tcp 80"), "{phase}");
    }
}

#[test]
fn pods_that_end_or_wait_with_an_address_are_in() {
    let mut cluster = Cluster::with(&policy("p", FROM_B));
    cluster.change("Pod", "x/b", |pod| {
        pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    });
    assert!(cluster.allows("x/b", "x/a", "tcp 80"));
    cluster.change("Pod", "x/b", |pod| pod["status"]["phase"] = "Pending".into());
    assert!(cluster.allows("x/b", "x/a", "tcp 80"));
}

#[test]
fn pods_of_the_hosts_network_are_never_selected() {
    let mut cluster = Cluster::with(&policy("p", FROM_B));
    cluster.change("Pod", "x/b", |pod| {
        pod["spec"]["hostNetwork"] = true.into();
        pod["spec"]["nodeName"] = "node2".into();
        pod["status"]["podIPs"] = json!([{ "ip": "192.168.1.2" }]);
    });
    assert!(!cluster.allows("192.168.1.2", "x/a", "tcp 80"));
    cluster.add(&policy("p", "{podSelector: {matchLabels: {pod: b}}}"));
    assert!(cluster.allows("y/a", "192.168.1.2", "tcp 80"));
}

#[test]
fn an_address_that_another_pod_had_is_the_new_pods() {
    let mut cluster = Cluster::with(&policy("p", FROM_B));
    cluster.change("Pod", "x/b", |pod| {
        pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    });
    cluster.change("Pod", "x/c", |pod| pod["status"]["podIPs"] = json!([{ "ip": "10.244.1.3" }]));
    let mut world = cluster.world();
    let site = Site { node: "node1".into(), ..Site::default() };
    let plan = Compiler::default().compile(&mut world, &site);
    let set = plan.pods.values().next().unwrap();
    assert!(set.v4.is_empty(), "{set:?}");
}

#[test]
fn an_address_that_is_given_here_counts_before_the_object_says_so() {
    let mut cluster = Cluster::with(&policy("p", FROM_B));
    cluster.change("Pod", "x/a", |pod| pod["status"]["podIPs"] = json!([]));
    let mut world = cluster.world();
    let address = "10.244.1.77".parse().unwrap();
    world.attach("x", "a", None, [address]);
    let site = Site { node: "node1".into(), ..Site::default() };
    let mut compiler = Compiler::default();
    let plan = compiler.compile(&mut world, &site);
    assert!(matches!(plan.ingress.get(&address), Some(Target::Class(_))), "{plan:?}");
    assert!(plan.selves.contains(&(address, address)) && plan.isolated.contains(&address));
    world.detach([address]);
    assert!(compiler.compile(&mut world, &site).ingress.is_empty());
}

#[test]
fn only_pods_of_the_node_are_subjects() {
    let cluster = Cluster::with(&policy("p", FROM_B));
    let mut world = cluster.world();
    let mut plan = |node: &str| {
        let site = Site { node: node.into(), ..Site::default() };
        Compiler::default().compile(&mut world, &site)
    };
    assert_eq!(plan("node1").ingress.len(), 2);
    assert_eq!(plan("node2"), Arc::default());
}

#[test]
fn an_address_of_which_nothing_is_known_can_be_closed() {
    let address = "10.244.1.99".parse().unwrap();
    let site = Site { node: "node1".into(), closed: [address].into(), ..Site::default() };
    let plan = Compiler::default().compile(&mut Cluster::with("").world(), &site);
    assert_eq!(plan.ingress.get(&address), Some(&Target::Closed));
    assert_eq!(plan.egress.get(&address), Some(&Target::Closed));
    assert!(plan.isolated.contains(&address));
}

/// The plan of node1, where x is.
fn plan_of(compiler: &mut Compiler, world: &mut World) -> Arc<Plan> {
    compiler.compile(world, &Site { node: "node1".into(), ..Site::default() })
}

fn is_isolated(plan: &Plan, address: &str) -> bool {
    let address = address.parse().unwrap();
    matches!(plan.ingress.get(&address), Some(Target::Class(_))) && plan.isolated.contains(&address)
}

/// Addresses of the first set of pods, with a blank between them.
fn peers(plan: &Plan) -> String {
    let set = plan.pods.values().next().unwrap();
    set.v4.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

#[test]
fn every_address_that_a_pod_was_given_is_held_by_its_policies() {
    let mut world = Cluster::with(&policy("p", FROM_B)).world();
    let mut compiler = Compiler::default();
    // Two of one family, and those of another interface.
    world.attach("x", "a", None, ["10.244.1.2", "10.244.1.70"].map(|it| it.parse().unwrap()));
    world.attach("x", "a", None, ["10.244.1.71".parse().unwrap()]);
    world.attach("x", "b", None, ["10.244.1.3", "10.244.1.72"].map(|it| it.parse().unwrap()));
    let plan = plan_of(&mut compiler, &mut world);
    for address in ["10.244.1.2", "10.244.1.70", "10.244.1.71"] {
        assert!(is_isolated(&plan, address), "{address}: {plan:?}");
    }
    assert_eq!(peers(&plan), "10.244.1.3 10.244.1.72");
    world.detach(["10.244.1.70".parse().unwrap(), "10.244.1.72".parse().unwrap()]);
    let plan = plan_of(&mut compiler, &mut world);
    assert!(is_isolated(&plan, "10.244.1.2") && is_isolated(&plan, "10.244.1.71"));
    assert!(!is_isolated(&plan, "10.244.1.70"));
    assert_eq!(peers(&plan), "10.244.1.3");
    assert_eq!(plan, plan_of(&mut Compiler::default(), &mut world), "made anew it is the same");
}

#[test]
fn a_pod_whose_object_has_gone_or_ended_is_held_as_long_as_it_has_its_address() {
    let mut cluster = Cluster::with(&policy("p", FROM_B));
    let mut world = cluster.world();
    let mut compiler = Compiler::default();
    for (name, address) in [("a", "10.244.1.2"), ("b", "10.244.1.3")] {
        world.attach("x", name, Some("1"), [address.parse().unwrap()]);
    }
    assert_eq!(peers(&plan_of(&mut compiler, &mut world)), "10.244.1.3");
    for name in ["x/a", "x/b"] {
        cluster.change("Pod", name, |pod| pod["status"]["phase"] = "Failed".into());
    }
    for object in cluster.world().objects() {
        world.apply(Change::Put(object));
    }
    let plan = plan_of(&mut compiler, &mut world);
    assert!(is_isolated(&plan, "10.244.1.2"), "ended");
    assert_eq!(peers(&plan), "", "nobody's peer any more");
    let judged = cluster.packet("10.244.1.3", "10.244.1.2", "tcp 80");
    assert!(!Judge::new(&world).judge(judged).is_allowed());
    for name in ["a", "b"] {
        world.apply(Change::Delete(Key::Pod("x".into(), name.into())));
    }
    let plan = plan_of(&mut compiler, &mut world);
    assert!(is_isolated(&plan, "10.244.1.2"), "gone");
    assert_eq!(peers(&plan), "");
    assert!(!Judge::new(&world).judge(judged).is_allowed());
    world.detach(["10.244.1.2".parse().unwrap()]);
    assert!(!is_isolated(&plan_of(&mut compiler, &mut world), "10.244.1.2"), "taken from it");
}

#[test]
fn a_pod_is_not_let_go_by_another_of_its_name() {
    let mut cluster = Cluster::with(&policy("p", FROM_B));
    cluster.change("Pod", "x/a", |pod| pod["metadata"]["uid"] = "1".into());
    let mut world = cluster.world();
    let mut compiler = Compiler::default();
    world.attach("x", "a", Some("1"), ["10.244.1.2".parse().unwrap()]);
    assert!(is_isolated(&plan_of(&mut compiler, &mut world), "10.244.1.2"));
    // First on no node or on another, of which no number is kept, then on this one.
    for uid in [json!(null), json!("2")] {
        cluster.change("Pod", "x/a", |pod| {
            pod["metadata"]["uid"] = uid;
            pod["metadata"]["labels"] = json!({ "pod": "free" });
            pod["status"]["podIPs"] = json!([{ "ip": "10.244.1.70" }]);
        });
        world.replace(cluster.world().objects());
        let plan = plan_of(&mut compiler, &mut world);
        assert!(is_isolated(&plan, "10.244.1.2") && !is_isolated(&plan, "10.244.1.70"));
    }
}
