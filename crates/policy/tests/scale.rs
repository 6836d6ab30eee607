//! A large cluster: what a pod of another node costs in memory, and (told, not tested: machines
//! differ) how long a plan takes.
//!
//! `cargo test -p culvert-policy --test scale -- --nocapture` tells.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use culvert_policy::object::{Change, Kind, Object};
use culvert_policy::{Compiler, Judge, Site, World, read};
use serde_json::json;

const PODS: usize = 10_000;
const POLICIES: usize = 1_000;
const NAMESPACES: usize = 100;

/// Most bytes that a pod of another node may cost.
const MOST_BYTES: usize = 300;

/// The system's allocator, which also counts what is in use.
struct Counting;

static IN_USE: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is handed on as it comes; counting touches no memory of theirs.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        IN_USE.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of this very function.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of this very function.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The processor's time that this thread has used; whoever else works on the machine has no part in
/// it.
fn used() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = text.split(' ').next().and_then(|text| text.parse().ok());
    Duration::from_nanos(nanos.unwrap_or_default())
}

/// A pod as a cluster has it: of a deployment with ten others, on one of 100 nodes.
fn pod(number: usize) -> Object {
    let (namespace, deployment) = (number % NAMESPACES, number / NAMESPACES / 10);
    let node = number % 97;
    let object = json!({
        "metadata": {
            "namespace": format!("namespace-{namespace}"),
            "name": format!("deployment-{deployment}-6d5f8c7b9d-{number:05}"),
            "labels": {
                "app": format!("app-{deployment}"),
                "tier": if number.is_multiple_of(3) { "front" } else { "back" },
                "pod-template-hash": "6d5f8c7b9d",
            },
        },
        "spec": {
            "nodeName": format!("node-{node}"),
            "containers": [{ "name": "main", "ports": [{ "name": "http", "containerPort": 8080 }] }],
        },
        "status": { "phase": "Running", "podIPs": [
            { "ip": format!("10.{}.{}.{}", node, number / 250, number % 250) },
            { "ip": format!("fd00:10:{node:x}::{number:x}") },
        ] },
    });
    let mut objects = read::item(Kind::Pod, &object).objects;
    let Some(Object::Pod(pod)) = objects.pop() else { panic!("it is a pod") };
    Object::Pod(pod)
}

fn policy(number: usize) -> Object {
    let namespace = number % NAMESPACES;
    // Half of them select among all pods of the cluster.
    let peer = if number.is_multiple_of(2) {
        json!({ "podSelector": { "matchLabels": { "app": format!("app-{}", number % 10) } } })
    } else {
        json!({
            "namespaceSelector": {},
            "podSelector": { "matchExpressions": [
                { "key": "app", "operator": "NotIn", "values": [format!("app-{}", number % 250)] },
            ] },
        })
    };
    let object = json!({
        "metadata": {
            "namespace": format!("namespace-{namespace}"), "name": format!("policy-{number}"),
        },
        "spec": {
            "podSelector": { "matchLabels": { "app": format!("app-{}", number / NAMESPACES) } },
            "ingress": [{ "from": [peer], "ports": [{ "port": 80 }, { "port": "http" }] }],
            "egress": [{ "to": [{ "ipBlock": { "cidr": "10.0.0.0/8" } }] }],
        },
    });
    read::item(Kind::NetworkPolicy, &object).objects.remove(0)
}

#[test]
fn a_pod_of_another_node_costs_a_few_hundred_bytes() {
    let mut world = World::default();
    for number in 0..NAMESPACES {
        let object = json!({ "metadata": { "name": format!("namespace-{number}") } });
        for object in read::item(Kind::Namespace, &object).objects {
            world.apply(Change::Put(object));
        }
    }
    let before = IN_USE.load(Ordering::Relaxed);
    for number in 0..PODS {
        world.apply(Change::Put(pod(number)));
    }
    let bytes = (IN_USE.load(Ordering::Relaxed) - before) / PODS;
    println!("{bytes} bytes a pod");
    assert!(bytes <= MOST_BYTES, "{bytes} bytes a pod");

    for number in 0..POLICIES {
        world.apply(Change::Put(policy(number)));
    }
    let site = Site { node: "node-5".into(), ..Site::default() };
    let mut compiler = Compiler::default();
    let start = used();
    let plan = compiler.compile(&mut world, &site);
    println!(
        "{:?} for a plan of {} sets of pods, {} chains, {} local pods",
        used() - start,
        plan.pods.len(),
        plan.chains.len(),
        plan.isolated.len()
    );
    // The dearest case: every policy is about some pod of this node.
    let everywhere = Site {
        subnets: vec!["::/0".parse().unwrap(), "0.0.0.0/0".parse().unwrap()],
        ..site.clone()
    };
    for number in 0..PODS {
        let Object::Pod(mut pod) = pod(number) else { panic!("it is a pod") };
        if number < 1_000 {
            pod.node = None;
            world.apply(Change::Put(Object::Pod(pod)));
        }
    }
    let start = used();
    let whole = compiler.compile(&mut world, &everywhere);
    println!(
        "{:?} for a plan of {} sets of pods, {} chains, {} local pods",
        used() - start,
        whole.pods.len(),
        whole.chains.len(),
        whole.isolated.len()
    );
    let Object::Pod(mut one) = pod(PODS - 1) else { panic!("it is a pod") };
    one.labels = [("app", "app-3")].into_iter().collect();
    world.apply(Change::Put(Object::Pod(one)));
    let start = used();
    let next = compiler.compile(&mut world, &everywhere);
    println!("{:?} after one pod has changed", used() - start);
    assert_ne!(next, whole);
    let start = used();
    assert_eq!(compiler.compile(&mut world, &everywhere), next);
    println!("{:?} after nothing has changed", used() - start);
    let start = used();
    drop(Judge::new(&world));
    println!("{:?} for a judge", used() - start);
}
