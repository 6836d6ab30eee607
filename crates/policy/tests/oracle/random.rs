//! Worlds made up at random: few names, so that much happens between them.

use std::net::IpAddr;

use serde_json::{Value, json};

/// Numbers that follow from a seed.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d)
    }

    fn next(&mut self) -> u64 {
        // xorshift*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next()).unwrap() % end
    }

    pub(crate) fn one_in(&mut self, many: usize) -> bool {
        self.below(many) == 0
    }

    pub(crate) fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

const NODES: [&str; 3] = ["node1", "node2", "node3"];
const NAMESPACES: [&str; 3] = ["default", "shop", "ops"];
const VALUES: [&str; 3] = ["a", "b", "c"];
const PORT_NAMES: [&str; 2] = ["http", "dns"];
const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];
/// Ports that anything is about.
pub(crate) const PORTS: [u16; 6] = [53, 80, 81, 443, 8080, 8081];

/// What is in a world besides its objects: addresses of nodes in the pod network.
pub(crate) fn overlays() -> Vec<(String, Vec<IpAddr>)> {
    let addresses = |at: usize| -> Vec<IpAddr> {
        let texts = [format!("10.244.{at}.0"), format!("fd00:10:244:{at}::")];
        texts.iter().map(|text| text.parse().unwrap()).collect()
    };
    NODES.iter().zip(1..).map(|(name, at)| ((*name).to_owned(), addresses(at))).collect()
}

/// The addresses of hosts and of nobody.
pub(crate) fn outside() -> Vec<IpAddr> {
    let all =
        ["192.168.1.1", "192.168.1.2", "192.168.1.3", "203.0.113.9", "2001:db8::9", "fd01::2"];
    all.iter().map(|text| text.parse().unwrap()).collect()
}

/// A world.
pub(crate) fn objects(random: &mut Random) -> Vec<Value> {
    let mut objects = Vec::new();
    for name in NAMESPACES {
        // One that is not known has no labels.
        if !random.one_in(12) {
            let labels = labels(random, "team");
            objects.push(json!({
                "apiVersion": "v1", "kind": "Namespace",
                "metadata": { "name": name, "labels": labels },
            }));
        }
    }
    for (name, at) in NODES.iter().zip(1..) {
        let mut addresses =
            vec![json!({ "type": "InternalIP", "address": format!("192.168.1.{at}") })];
        if at == 2 {
            addresses.push(json!({ "type": "InternalIP", "address": "fd01::2" }));
        }
        objects.push(json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": { "name": name, "labels": labels(random, "zone") },
            "status": { "addresses": addresses },
        }));
    }
    for number in 0..3 + random.below(8) {
        objects.push(pod(random, number));
    }
    for number in 0..2 + random.below(8) {
        objects.push(network_policy(random, number));
    }
    for number in 0..random.below(5) {
        objects.push(cluster_policy(random, number));
    }
    objects
}

fn labels(random: &mut Random, key: &str) -> Value {
    let mut labels = json!({});
    for key in [key, "app"] {
        if !random.one_in(4) {
            labels[key] = (*random.pick(&VALUES)).into();
        }
    }
    labels
}

pub(crate) fn pod(random: &mut Random, number: usize) -> Value {
    let node = 1 + random.below(NODES.len());
    let host_network = random.one_in(10);
    let v4 = json!({ "ip": format!("10.244.{node}.{}", number + 2) });
    let v6 = json!({ "ip": format!("fd00:10:244:{node}::{:x}", number + 2) });
    let addresses = match random.below(6) {
        _ if host_network => json!([{ "ip": format!("192.168.1.{node}") }]),
        0 => json!([v4]),
        1 => json!([v6]),
        2 => json!([]),
        _ => json!([v4, v6]),
    };
    let ports: Vec<Value> = PORT_NAMES
        .iter()
        .filter_map(|name| {
            let mut port = json!({ "name": name, "containerPort": random.pick(&PORTS) });
            if random.one_in(2) {
                port["protocol"] = (*random.pick(&PROTOCOLS)).into();
            }
            (!random.one_in(3)).then_some(port)
        })
        .collect();
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "namespace": random.pick(&NAMESPACES), "name": format!("pod{number}"),
            "labels": labels(random, "tier"),
        },
        "spec": {
            "nodeName": NODES[node - 1],
            "containers": [{ "name": "main", "ports": ports }],
        },
        "status": { "phase": random.pick(&["Running", "Running", "Running", "Pending"]) },
    });
    pod["status"]["podIPs"] = addresses;
    if host_network {
        pod["spec"]["hostNetwork"] = true.into();
    }
    if random.one_in(10) {
        pod["status"]["phase"] = (*random.pick(&["Succeeded", "Failed"])).into();
    }
    if random.one_in(10) {
        pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    }
    pod
}

fn selector(random: &mut Random, key: &str) -> Value {
    let keys = [key, "app"];
    match random.below(8) {
        0 | 1 => json!({}),
        2..=4 => json!({ "matchLabels": { *random.pick(&keys): random.pick(&VALUES) } }),
        5 => json!({ "matchExpressions": [{
            "key": random.pick(&keys),
            "operator": random.pick(&["Exists", "DoesNotExist"]),
        }] }),
        6 if key == "team" => json!({ "matchLabels": {
            "kubernetes.io/metadata.name": random.pick(&NAMESPACES),
        } }),
        _ => json!({ "matchExpressions": [{
            "key": random.pick(&keys),
            "operator": random.pick(&["In", "NotIn"]),
            "values": [random.pick(&VALUES), random.pick(&VALUES)],
        }] }),
    }
}

/// Something that no version has had so far.
fn spoil(random: &mut Random, value: &mut Value) {
    if random.one_in(40) && value.is_object() {
        value["fromTheFuture"] = json!({});
    }
}

fn cidr(random: &mut Random) -> Value {
    let all = [
        "0.0.0.0/0",
        "10.244.0.0/16",
        "10.244.2.0/24",
        "192.168.1.0/24",
        "192.168.1.2/32",
        "203.0.113.0/24",
        "::/0",
        "fd00:10:244::/48",
        "fd01::2/128",
        "10.244.2.0/32",
    ];
    (*random.pick(&all)).into()
}

fn block(random: &mut Random) -> Value {
    let blocks = [
        json!({ "cidr": "0.0.0.0/0", "except": ["10.244.0.0/16"] }),
        json!({ "cidr": "0.0.0.0/0", "except": ["192.168.1.2/32", "203.0.113.0/28"] }),
        json!({ "cidr": "10.244.0.0/16", "except": ["10.244.2.0/24", "10.244.1.3/32"] }),
        json!({ "cidr": "::/0", "except": ["fd00:10:244:2::/64"] }),
        json!({ "cidr": "::/0", "except": ["fd01::/64"] }),
        json!({ "cidr": cidr(random) }),
        json!({ "cidr": cidr(random) }),
    ];
    random.pick(&blocks).clone()
}

fn network_policy(random: &mut Random, number: usize) -> Value {
    let mut spec = json!({ "podSelector": selector(random, "tier") });
    spoil(random, &mut spec["podSelector"]);
    let types = [json!(["Ingress"]), json!(["Egress"]), json!(["Ingress", "Egress"]), json!([])];
    if !random.one_in(3) {
        spec["policyTypes"] = random.pick(&types).clone();
    }
    for (list, peers) in [("ingress", "from"), ("egress", "to")] {
        if random.one_in(3) {
            continue;
        }
        let rules = (0..random.below(3)).map(|_| {
            let mut rule = json!({});
            if !random.one_in(4) {
                let all = 0..random.below(3);
                rule[peers] = all.map(|_| peer(random)).collect();
            }
            if !random.one_in(3) {
                let all = 0..random.below(3);
                rule["ports"] = all.map(|_| port(random)).collect();
            }
            spoil(random, &mut rule);
            rule
        });
        spec[list] = rules.collect();
    }
    spoil(random, &mut spec);
    let mut policy = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": { "namespace": random.pick(&NAMESPACES), "name": format!("policy{number}") },
        "spec": spec,
    });
    if random.one_in(8) {
        policy["metadata"]["annotations"] = json!({ "culvert.dev/audit": "true" });
    }
    policy
}

fn peer(random: &mut Random) -> Value {
    let mut peer = match random.below(4) {
        0 => json!({ "podSelector": selector(random, "tier") }),
        1 => json!({ "namespaceSelector": selector(random, "team") }),
        2 => json!({
            "podSelector": selector(random, "tier"), "namespaceSelector": selector(random, "team"),
        }),
        _ => json!({ "ipBlock": block(random) }),
    };
    spoil(random, &mut peer);
    peer
}

fn port(random: &mut Random) -> Value {
    let mut port = match random.below(5) {
        0 => json!({}),
        1 => json!({ "port": random.pick(&PORT_NAMES) }),
        2 => json!({ "port": 80, "endPort": random.pick(&[80, 81, 443, 8080]) }),
        _ => json!({ "port": random.pick(&PORTS) }),
    };
    if random.one_in(2) {
        port["protocol"] = (*random.pick(&PROTOCOLS)).into();
    }
    spoil(random, &mut port);
    port
}

fn cluster_policy(random: &mut Random, number: usize) -> Value {
    let namespaced = |random: &mut Random| {
        json!({ "pods": {
            "namespaceSelector": selector(random, "team"), "podSelector": selector(random, "tier"),
        } })
    };
    let whole = |random: &mut Random| json!({ "namespaces": selector(random, "team") });
    let mut spec = json!({
        "tier": random.pick(&["Admin", "Baseline"]),
        "priority": random.below(3),
        "subject": if random.one_in(2) { namespaced(random) } else { whole(random) },
    });
    for (list, peers) in [("ingress", "from"), ("egress", "to")] {
        let rules = (0..random.below(4)).map(|_| {
            let all = 0..1 + random.below(2);
            let all = all.map(|_| match random.below(if list == "egress" { 4 } else { 2 }) {
                0 => namespaced(random),
                1 => whole(random),
                2 => json!({ "nodes": selector(random, "zone") }),
                _ => json!({ "networks": [cidr(random), "198.51.100.0/24"] }),
            });
            let all: Vec<Value> = all.collect();
            let all = all.into_iter().map(|mut peer| {
                if random.one_in(60) {
                    peer["fromTheFuture"] = json!({});
                }
                peer
            });
            let mut rule = json!({
                "action": "Accept",
                peers: all.collect::<Vec<_>>(),
            });
            rule["action"] = (*random.pick(&["Accept", "Deny", "Pass"])).into();
            if !random.one_in(3) {
                let all = 0..1 + random.below(2);
                rule["protocols"] = all.map(|_| protocol(random)).collect();
            }
            spoil(random, &mut rule);
            rule
        });
        spec[list] = rules.collect();
    }
    json!({
        "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
        "metadata": { "name": format!("cluster{number}") },
        "spec": spec,
    })
}

fn protocol(random: &mut Random) -> Value {
    let name = *random.pick(&["tcp", "udp", "sctp"]);
    match random.below(5) {
        0 => json!({ "destinationNamedPort": random.pick(&PORT_NAMES) }),
        1 => json!({ name: {} }),
        2 => json!({ name: { "destinationPort": { "range": { "start": 80, "end": 8080 } } } }),
        _ => json!({ name: { "destinationPort": { "number": random.pick(&PORTS) } } }),
    }
}
