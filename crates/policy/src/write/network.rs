//! NetworkPolicy.

use serde_json::{Value, json};

use super::document;
use super::selector::{both, selector};
use crate::object::{Block, Kind, Namespaces, NetworkPolicy, Peer, PortMatch, Rule};
use crate::plan::{Direction, PortRange};

pub(super) fn policy(policy: &NetworkPolicy) -> Value {
    let mut document = document(Kind::NetworkPolicy, &policy.name);
    document["metadata"]["namespace"] = Value::from(&*policy.namespace);
    if policy.is_audit {
        document["metadata"]["annotations"] = json!({ "culvert.dev/audit": "true" });
    }
    let mut spec = json!({ "podSelector": selector(&policy.subjects) });
    let mut types = Vec::new();
    for (direction, word, peers) in
        [(Direction::Ingress, "Ingress", "from"), (Direction::Egress, "Egress", "to")]
    {
        let Some(rules) = policy.rules(direction) else { continue };
        types.push(word);
        let rules = rules.iter().map(|it| rule(it, peers, &policy.namespace));
        spec[direction.as_str()] = rules.collect();
    }
    spec["policyTypes"] = types.into();
    document["spec"] = spec;
    document
}

fn rule(rule: &Rule, word: &str, own: &str) -> Value {
    let mut written = json!({});
    if !rule.peers.contains(&Peer::Anybody) {
        let peers: Vec<Value> = rule.peers.iter().map(|it| peer(it, own)).collect();
        // A list without any peer would mean everybody.
        written[word] = if peers.is_empty() { json!([{}]) } else { peers.into() };
    }
    if let Some(ports) = &rule.ports {
        let ports: Vec<Value> = ports.iter().map(port).collect();
        // And one without any port every port.
        written["ports"] = if ports.is_empty() { json!([{ "endPort": 1 }]) } else { ports.into() };
    }
    written
}

fn peer(peer: &Peer, own: &str) -> Value {
    match peer {
        Peer::Pods(selection) => match &selection.namespaces {
            Namespaces::Named(name) if **name == *own => {
                json!({ "podSelector": selector(&selection.pods) })
            }
            Namespaces::Named(_) | Namespaces::Matching(_) => both(selection),
        },
        Peer::Block(Block { cidr, except }) => {
            json!({ "ipBlock": { "cidr": cidr.to_string(), "except": texts(except) } })
        }
        // Neither is a peer of such a policy.
        Peer::Anybody | Peer::Nodes(_) => json!({}),
    }
}

fn texts<T: ToString>(items: impl IntoIterator<Item = T>) -> Vec<String> {
    items.into_iter().map(|item| item.to_string()).collect()
}

fn port(port: &PortMatch) -> Value {
    let upper = |protocol: overlay_proto::Protocol| protocol.as_str().to_uppercase();
    match port {
        PortMatch::Range(PortRange { protocol, first: 0, last: u16::MAX }) => {
            json!({ "protocol": upper(*protocol) })
        }
        PortMatch::Range(PortRange { protocol, first, last }) => {
            json!({ "protocol": upper(*protocol), "port": first, "endPort": last })
        }
        PortMatch::Named(name, Some(protocol)) => {
            json!({ "protocol": upper(*protocol), "port": &**name })
        }
        // Only a ClusterNetworkPolicy names ports without a protocol.
        PortMatch::Named(..) => json!({ "endPort": 1 }),
    }
}
