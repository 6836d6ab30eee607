//! What the objects say, read as a person reads them: slow, and with nothing of the crate's but its
//! words for packets. It looks at the documents themselves, so that it also shows what reading them
//! gets wrong.

use std::net::IpAddr;

use culvert_policy::judge::{Packet, Traffic};
use ipnet::IpNet;
use serde_json::Value;

/// The documents, and what the subnet table says of nodes: name, and addresses in the pod network.
pub(crate) struct Reference<'a> {
    pub(crate) objects: &'a [Value],
    pub(crate) overlays: &'a [(String, Vec<IpAddr>)],
}

/// `Ingress` or `Egress`, as policies write it.
pub(crate) type Way = &'static str;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    Accept,
    Deny,
    Undecided,
}

impl Reference<'_> {
    /// Whether one end lets `packet` pass.
    pub(crate) fn allows(&self, packet: Packet, way: Way) -> bool {
        let (own, peer) = match way {
            "Egress" => (packet.source, packet.destination),
            _ => (packet.destination, packet.source),
        };
        let Some(pod) = self.pod(own) else { return true };
        if self.pod(peer).is_some_and(|other| std::ptr::eq(other, pod)) {
            return true;
        }
        let node = text(&pod["spec"]["nodeName"]);
        if self.node_of(peer).is_some_and(|name| name == node) {
            return true;
        }
        let decision = self.tier("Admin", pod, packet, way);
        if decision != Decision::Undecided {
            return decision == Decision::Accept;
        }
        let isolating = self.isolating(pod, way);
        let enforced: Vec<&Value> = isolating.iter().copied().filter(|it| !is_audit(it)).collect();
        if !enforced.is_empty() {
            return enforced.iter().any(|policy| self.policy_allows(policy, packet, way));
        }
        self.tier("Baseline", pod, packet, way) != Decision::Deny
    }

    fn kind(&self, kind: &str) -> impl Iterator<Item = &Value> {
        self.objects.iter().filter(move |object| object["kind"] == kind)
    }

    /// The pod with this address that has a network of its own and still runs.
    fn pod(&self, address: IpAddr) -> Option<&Value> {
        let written = address.to_string();
        self.kind("Pod").find(|pod| {
            let ended = pod["status"]["phase"] == "Succeeded" || pod["status"]["phase"] == "Failed";
            let addresses = pod["status"]["podIPs"].as_array();
            let mut addresses = addresses.into_iter().flatten();
            !ended
                && pod["spec"]["hostNetwork"] != true
                && addresses.any(|it| it["ip"] == written.as_str())
        })
    }

    /// The node that has this address, in whatever network.
    fn node_of(&self, address: IpAddr) -> Option<&str> {
        let written = address.to_string();
        let node = self.kind("Node").find(|node| {
            let mut addresses = node["status"]["addresses"].as_array().unwrap().iter();
            addresses.any(|it| it["address"] == written.as_str())
        });
        let overlay = self.overlays.iter().find(|(_, overlay)| overlay.contains(&address));
        match (node, overlay) {
            (Some(node), _) => Some(text(&node["metadata"]["name"])),
            (None, Some((name, _))) => Some(name),
            (None, None) => None,
        }
    }

    fn namespace_labels(&self, name: &str) -> Option<Value> {
        let namespace = self.kind("Namespace").find(|it| it["metadata"]["name"] == name)?;
        let mut labels = namespace["metadata"]["labels"].clone();
        if labels.is_null() {
            labels = Value::Object(Default::default());
        }
        labels["kubernetes.io/metadata.name"] = name.into();
        Some(labels)
    }

    fn tier(&self, tier: &str, pod: &Value, packet: Packet, way: Way) -> Decision {
        let mut policies: Vec<&Value> = self
            .kind("ClusterNetworkPolicy")
            .filter(|policy| policy["spec"]["tier"] == tier)
            .filter(|policy| {
                let subject = &policy["spec"]["subject"];
                match subject.get("namespaces") {
                    Some(namespaces) => self.is_in(pod, namespaces),
                    None => self.is_pod(pod, &subject["pods"]),
                }
            })
            .collect();
        policies.sort_by_key(|policy| {
            (policy["spec"]["priority"].as_u64(), text(&policy["metadata"]["name"]))
        });
        for policy in policies {
            let list = if way == "Ingress" { "ingress" } else { "egress" };
            for rule in list_of(&policy["spec"][list]) {
                let action = text(&rule["action"]);
                let all = list_of(&rule["from"]).iter().chain(list_of(&rule["to"]));
                let known = ["namespaces", "pods", "nodes", "networks"];
                let closes = all.into_iter().any(|peer| is_unknown(peer, &known))
                    || is_unknown(rule, &["name", "action", "from", "to", "protocols"]);
                if closes {
                    match action {
                        "Accept" => continue,
                        _ => return Decision::Deny,
                    }
                }
                let peers = if way == "Ingress" { "from" } else { "to" };
                let peer = if way == "Ingress" { packet.source } else { packet.destination };
                let matches = list_of(&rule[peers]).iter().any(|it| self.is_cluster_peer(it, peer))
                    && self.is_cluster_port(&rule["protocols"], packet);
                match action {
                    _ if !matches => {}
                    "Accept" => return Decision::Accept,
                    "Deny" => return Decision::Deny,
                    _ => return Decision::Undecided,
                }
            }
        }
        Decision::Undecided
    }

    fn is_cluster_peer(&self, peer: &Value, address: IpAddr) -> bool {
        if let Some(networks) = peer.get("networks") {
            return list_of(networks)
                .iter()
                .any(|net| self.is_in_block(&serde_json::json!({ "cidr": net }), address));
        }
        if let Some(selector) = peer.get("nodes") {
            let Some(name) = self.node_of(address) else { return false };
            let node = self.kind("Node").find(|node| node["metadata"]["name"] == name);
            return node.is_some_and(|node| selects(selector, &node["metadata"]["labels"]));
        }
        let Some(pod) = self.pod(address) else { return false };
        match peer.get("namespaces") {
            Some(namespaces) => self.is_in(pod, namespaces),
            None => self.is_pod(pod, &peer["pods"]),
        }
    }

    fn is_cluster_port(&self, protocols: &Value, packet: Packet) -> bool {
        if protocols.is_null() {
            return true;
        }
        let Traffic::Port(protocol, port) = packet.traffic else { return false };
        list_of(protocols).iter().any(|it| {
            if let Some(name) = it.get("destinationNamedPort") {
                let numbers = self.named(packet.destination, text(name), None);
                return numbers.contains(&(protocol.as_str().to_uppercase(), port));
            }
            let Some(of) = it.get(protocol.as_str()) else { return false };
            let port = u64::from(port);
            match of.get("destinationPort") {
                None => true,
                Some(one) => match one.get("number") {
                    Some(number) => number == port,
                    None => {
                        let range = &one["range"];
                        range["start"].as_u64().unwrap() <= port
                            && port <= range["end"].as_u64().unwrap()
                    }
                },
            }
        })
    }

    /// Whether the pod's namespace matches.
    fn is_in(&self, pod: &Value, namespaces: &Value) -> bool {
        let labels = self.namespace_labels(text(&pod["metadata"]["namespace"]));
        labels.is_some_and(|labels| selects(namespaces, &labels))
    }

    fn is_pod(&self, pod: &Value, namespaced: &Value) -> bool {
        self.is_in(pod, &namespaced["namespaceSelector"])
            && selects(&namespaced["podSelector"], &pod["metadata"]["labels"])
    }

    fn isolating(&self, pod: &Value, way: Way) -> Vec<&Value> {
        let isolates = |policy: &&Value| {
            let spec = &policy["spec"];
            let here = policy["metadata"]["namespace"] == pod["metadata"]["namespace"];
            let selected = selects(&spec["podSelector"], &pod["metadata"]["labels"])
                || is_unknown(&spec["podSelector"], &["matchLabels", "matchExpressions"]);
            let types = list_of(&spec["policyTypes"]);
            let isolates = if is_unknown(spec, &["podSelector", "ingress", "egress", "policyTypes"])
            {
                true
            } else if types.is_empty() {
                way == "Ingress" || !list_of(&spec["egress"]).is_empty()
            } else {
                types.iter().any(|it| it == way)
            };
            here && selected && isolates
        };
        self.kind("NetworkPolicy").filter(isolates).collect()
    }

    fn policy_allows(&self, policy: &Value, packet: Packet, way: Way) -> bool {
        let spec = &policy["spec"];
        if is_unknown(spec, &["podSelector", "ingress", "egress", "policyTypes"]) {
            return false;
        }
        let own = text(&policy["metadata"]["namespace"]);
        let (list, peers, peer) = match way {
            "Ingress" => ("ingress", "from", packet.source),
            _ => ("egress", "to", packet.destination),
        };
        list_of(&spec[list]).iter().any(|rule| {
            let all_peers = list_of(&rule[peers]);
            let all_ports = list_of(&rule["ports"]);
            !is_unknown(rule, &["ports", "from", "to"])
                && (all_peers.is_empty() || all_peers.iter().any(|it| self.is_peer(it, own, peer)))
                && (all_ports.is_empty() || all_ports.iter().any(|it| self.is_port(it, packet)))
        })
    }

    fn is_peer(&self, peer: &Value, own: &str, address: IpAddr) -> bool {
        if is_unknown(peer, &["podSelector", "namespaceSelector", "ipBlock"]) {
            return false;
        }
        if let Some(block) = peer.get("ipBlock") {
            return self.is_in_block(block, address);
        }
        let Some(pod) = self.pod(address) else { return false };
        let in_namespace = match peer.get("namespaceSelector") {
            Some(selector) => self.is_in(pod, selector),
            None => pod["metadata"]["namespace"] == own,
        };
        let is_pod = match peer.get("podSelector") {
            Some(selector) => selects(selector, &pod["metadata"]["labels"]),
            None => true,
        };
        in_namespace && is_pod
    }

    fn is_in_block(&self, block: &Value, address: IpAddr) -> bool {
        let net = |value: &Value| text(value).parse::<IpNet>().unwrap();
        let cidr = net(&block["cidr"]);
        let except: Vec<IpNet> = list_of(&block["except"]).iter().map(net).collect();
        let is_in = |address: &IpAddr| {
            cidr.contains(address) && !except.iter().any(|net| net.contains(address))
        };
        // An address that a node has in the pod network stands for the node.
        if let Some((name, _)) = self.overlays.iter().find(|(_, all)| all.contains(&address))
            && let Some(node) = self.kind("Node").find(|it| it["metadata"]["name"] == **name)
        {
            let addresses = list_of(&node["status"]["addresses"]);
            let internal = addresses.iter().filter(|it| it["type"] == "InternalIP");
            let internal: Vec<IpAddr> =
                internal.map(|it| text(&it["address"]).parse().unwrap()).collect();
            if internal.iter().any(|it| cidr.contains(it)) {
                return internal.iter().any(is_in) && address.is_ipv4() == cidr.addr().is_ipv4();
            }
        }
        is_in(&address)
    }

    fn is_port(&self, port: &Value, packet: Packet) -> bool {
        if is_unknown(port, &["protocol", "port", "endPort"]) {
            return false;
        }
        let Traffic::Port(protocol, number) = packet.traffic else { return false };
        let protocol = protocol.as_str().to_uppercase();
        let wanted = port["protocol"].as_str().unwrap_or("TCP");
        if wanted != protocol {
            return false;
        }
        match &port["port"] {
            Value::Null => true,
            Value::String(name) => {
                self.named(packet.destination, name, Some(wanted)).contains(&(protocol, number))
            }
            first @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
                let first = first.as_u64().unwrap();
                let last = port["endPort"].as_u64().unwrap_or(first);
                (first..=last).contains(&u64::from(number))
            }
        }
    }

    /// Protocol and number of ports that the pod at `address` calls so.
    fn named(&self, address: IpAddr, name: &str, of: Option<&str>) -> Vec<(String, u16)> {
        let Some(pod) = self.pod(address) else { return Vec::new() };
        let containers = list_of(&pod["spec"]["containers"]);
        let ports = containers.iter().flat_map(|container| list_of(&container["ports"]));
        ports
            .filter(|port| port["name"] == name)
            .map(|port| {
                let number = port["containerPort"].as_u64().unwrap();
                let protocol = port["protocol"].as_str().unwrap_or("TCP");
                (protocol.to_owned(), u16::try_from(number).unwrap())
            })
            .filter(|(protocol, _)| of.is_none_or(|of| of == protocol))
            .collect()
    }
}

fn is_audit(policy: &Value) -> bool {
    policy["metadata"]["annotations"]["culvert.dev/audit"] == "true"
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn list_of(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn is_unknown(value: &Value, known: &[&str]) -> bool {
    value.as_object().is_some_and(|it| it.keys().any(|key| !known.contains(&key.as_str())))
}

/// Whether `selector` selects an object with these labels.
fn selects(selector: &Value, labels: &Value) -> bool {
    if is_unknown(selector, &["matchLabels", "matchExpressions"]) {
        return false;
    }
    let wanted = selector["matchLabels"].as_object();
    let good = wanted.into_iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    good && list_of(&selector["matchExpressions"]).iter().all(|expression| {
        let value = labels.get(text(&expression["key"]));
        let values = list_of(&expression["values"]);
        match text(&expression["operator"]) {
            "In" => value.is_some_and(|value| values.contains(value)),
            "NotIn" => value.is_none_or(|value| !values.contains(value)),
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            other => panic!("{other}"),
        }
    })
}
