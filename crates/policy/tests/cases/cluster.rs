//! The cluster of the cases, and what is asked of it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use culvert_policy::judge::{Packet, Traffic};
use culvert_policy::object::Object;
use culvert_policy::{Compiler, Judge, Member, Plan, Site, World, read};
use overlay_proto::Protocol;
use serde_json::{Value, json};

use crate::interpreter;
use crate::reference::Reference;

/// Pods that begin connections.
const PODS: [&str; 9] = ["x/a", "x/b", "x/c", "y/a", "y/b", "y/c", "z/a", "z/b", "z/c"];

/// A cluster: x is on node1, y on node2, z on node3.
pub(crate) struct Cluster {
    objects: Vec<Value>,
}

impl Cluster {
    /// The cluster with these objects, in YAML, beside its own.
    pub(crate) fn with(yaml: &str) -> Self {
        let mut cluster = Self { objects: Vec::new() };
        for (namespace, number) in ["x", "y", "z"].iter().zip(1..) {
            cluster.objects.push(json!({
                "apiVersion": "v1", "kind": "Namespace",
                "metadata": { "name": namespace, "labels": { "ns": namespace } },
            }));
            cluster.objects.push(json!({
                "apiVersion": "v1", "kind": "Node",
                "metadata": { "name": format!("node{number}"), "labels": { "node": namespace } },
                "status": { "addresses": [
                    { "type": "InternalIP", "address": format!("192.168.1.{number}") },
                ] },
            }));
            for (pod, at) in ["a", "b", "c"].iter().zip(2..) {
                cluster.objects.push(pod_of(namespace, pod, number, at));
            }
        }
        cluster.add(yaml);
        cluster
    }

    /// Adds objects; one that is there already is replaced.
    pub(crate) fn add(&mut self, yaml: &str) {
        // A namespace called "y" is not called "true".
        let options = serde_saphyr::options! { strict_booleans: true };
        let added = serde_saphyr::from_multiple_with_options(yaml, options);
        let added: Vec<Value> = added.unwrap();
        for object in added.into_iter().filter(|object| !object.is_null()) {
            let key = |it: &Value| {
                (
                    it["kind"].clone(),
                    it["metadata"]["namespace"].clone(),
                    it["metadata"]["name"].clone(),
                )
            };
            self.objects.retain(|it| key(it) != key(&object));
            self.objects.push(object);
        }
    }

    /// Changes one object.
    pub(crate) fn change(&mut self, kind: &str, name: &str, change: impl FnOnce(&mut Value)) {
        let (namespace, name) = name.split_once('/').unwrap_or(("", name));
        let object = self.objects.iter_mut().find(|it| {
            it["kind"] == kind
                && it["metadata"]["name"] == name
                && it["metadata"]["namespace"].as_str().unwrap_or_default() == namespace
        });
        change(object.unwrap());
    }

    /// Removes objects of a kind.
    pub(crate) fn remove(&mut self, kind: &str) {
        self.objects.retain(|it| it["kind"] != kind);
    }

    /// Whether a connection may begin. Ends are `x/a`, `x/a v6` or addresses; `carries` is `tcp 80`
    /// or `icmp`.
    pub(crate) fn allows(&self, from: &str, to: &str, carries: &str) -> bool {
        let packet = self.packet(from, to, carries);
        let mut world = self.world();
        let expected = {
            let overlays: Vec<(String, Vec<IpAddr>)> = members()
                .into_iter()
                .map(|(name, member)| (name.to_string(), member.overlay))
                .collect();
            let reference = Reference { objects: &self.objects, overlays: &overlays };
            reference.allows(packet, "Egress") && reference.allows(packet, "Ingress")
        };
        let verdict = Judge::new(&world).judge(packet);
        assert_eq!(verdict.is_allowed(), expected, "{packet:?}: {verdict:?}");
        let passed = passes(&mut world, packet);
        assert_eq!(passed, expected, "{packet:?}: the plans say otherwise");
        expected
    }

    /// The pods that can begin a connection to `to`, with a blank between them.
    pub(crate) fn reaching(&self, to: &str, carries: &str) -> String {
        let reaching = PODS.iter().filter(|from| **from != to && self.allows(from, to, carries));
        reaching.copied().collect::<Vec<_>>().join(" ")
    }

    /// The pods to which `from` can begin a connection.
    pub(crate) fn reached(&self, from: &str, carries: &str) -> String {
        let reached = PODS.iter().filter(|to| **to != from && self.allows(from, to, carries));
        reached.copied().collect::<Vec<_>>().join(" ")
    }

    pub(crate) fn packet(&self, from: &str, to: &str, carries: &str) -> Packet {
        let traffic = match carries.split_once(' ') {
            None => Traffic::Other,
            Some((protocol, port)) => {
                let known = Protocol::ALL.into_iter().find(|it| it.as_str() == protocol);
                Traffic::Port(known.unwrap(), port.parse().unwrap())
            }
        };
        Packet { source: self.address(from), destination: self.address(to), traffic }
    }

    fn address(&self, end: &str) -> IpAddr {
        if let Ok(address) = end.parse() {
            return address;
        }
        let (name, at) = end.strip_suffix(" v6").map_or((end, 0), |name| (name, 1));
        let (namespace, name) = name.split_once('/').unwrap();
        let pod = self.objects.iter().find(|it| {
            it["kind"] == "Pod"
                && it["metadata"]["namespace"] == namespace
                && it["metadata"]["name"] == name
        });
        pod.unwrap()["status"]["podIPs"][at]["ip"].as_str().unwrap().parse().unwrap()
    }

    pub(crate) fn world(&self) -> World {
        let read = self.objects.iter().map(read::value);
        let objects: Vec<Object> = read.flat_map(|read| read.objects).collect();
        let mut world = World::new(objects);
        world.set_members(members());
        world
    }
}

fn pod_of(namespace: &str, name: &str, number: u8, at: u8) -> Value {
    let ports: Vec<Value> = [80, 81]
        .into_iter()
        .flat_map(|port| {
            ["TCP", "UDP", "SCTP"].map(|protocol| {
                let name = format!("serve-{port}-{}", protocol.to_lowercase());
                json!({ "name": name, "containerPort": port, "protocol": protocol })
            })
        })
        .collect();
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "namespace": namespace, "name": name, "labels": { "pod": name } },
        "spec": {
            "nodeName": format!("node{number}"),
            "containers": [{ "name": "main", "ports": ports }],
        },
        "status": { "phase": "Running", "podIPs": [
            { "ip": format!("10.244.{number}.{at}") },
            { "ip": format!("fd00:10:244:{number}::{at}") },
        ] },
    })
}

/// What the subnet table says of the nodes.
fn members() -> BTreeMap<Arc<str>, Member> {
    let member = |number: u8| {
        let texts = [format!("10.244.{number}.0"), format!("fd00:10:244:{number}::")];
        let overlay = texts.iter().map(|text| text.parse().unwrap()).collect();
        (format!("node{number}").into(), Member { internal: Vec::new(), overlay })
    };
    (1..=3).map(member).collect()
}

fn passes(world: &mut World, packet: Packet) -> bool {
    let names: Vec<Arc<str>> = world.nodes().map(|node| node.name.clone()).collect();
    names.into_iter().all(|node| {
        let site = Site { node, ..Site::default() };
        let plan: Arc<Plan> = Compiler::default().compile(world, &site);
        interpreter::check(&plan);
        let own: Vec<IpAddr> = world
            .nodes()
            .filter(|view| *view.name == site.node)
            .flat_map(|view| view.addresses())
            .collect();
        let mut pods = world.pods().filter(|pod| site.has(world, pod));
        let comes_by = pods.any(|pod| {
            pod.addresses.iter().any(|it| it == packet.source || it == packet.destination)
        });
        !comes_by || interpreter::passes(&plan, &own, packet)
    })
}

/// A NetworkPolicy in the namespace x.
pub(crate) fn policy(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
         metadata: {{name: {name}, namespace: x}}\nspec: {spec}\n"
    )
}

/// A ClusterNetworkPolicy.
pub(crate) fn cluster_policy(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\n\
         metadata: {{name: {name}}}\nspec: {spec}\n"
    )
}
