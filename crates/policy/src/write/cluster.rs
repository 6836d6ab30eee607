//! ClusterNetworkPolicy.

use serde_json::{Value, json};

use super::document;
use super::selector::{both, selector};
use crate::object::{ClusterNetworkPolicy, Kind, Peer, PortMatch, Rule, Tier};
use crate::plan::{Action, Direction, PortRange};

pub(super) fn policy(policy: &ClusterNetworkPolicy) -> Value {
    let mut document = document(Kind::ClusterNetworkPolicy, &policy.name);
    let tier = match policy.tier {
        Tier::Admin => "Admin",
        Tier::Baseline => "Baseline",
    };
    let mut spec = json!({
        "tier": tier,
        "priority": policy.priority,
        "subject": { "pods": both(&policy.subjects) },
    });
    for (direction, peers) in [(Direction::Ingress, "from"), (Direction::Egress, "to")] {
        spec[direction.as_str()] =
            policy.rules(direction).iter().map(|it| rule(it, peers)).collect();
    }
    document["spec"] = spec;
    document
}

fn rule(rule: &Rule, word: &str) -> Value {
    let action = match rule.action {
        Action::Accept => "Accept",
        Action::Deny => "Deny",
        Action::Pass => "Pass",
    };
    let mut written = json!({ "action": action });
    // Without any peer a rule is not understood: one that accepts matches nobody, and any other
    // denies everything, which is what these say.
    if !rule.peers.contains(&Peer::Anybody) && !rule.peers.is_empty() {
        written[word] = rule.peers.iter().map(peer).collect();
    }
    if let Some(ports) = &rule.ports {
        written["protocols"] = ports.iter().map(port).collect();
    }
    written
}

fn peer(peer: &Peer) -> Value {
    match peer {
        Peer::Pods(selection) => json!({ "pods": both(selection) }),
        Peer::Block(block) => json!({ "networks": [block.cidr.to_string()] }),
        Peer::Nodes(nodes) => json!({ "nodes": selector(nodes) }),
        Peer::Anybody => json!({}),
    }
}

fn port(port: &PortMatch) -> Value {
    match port {
        PortMatch::Range(PortRange { protocol, first: 0, last: u16::MAX }) => {
            json!({ protocol.as_str(): {} })
        }
        PortMatch::Range(PortRange { protocol, first, last }) if first == last => {
            json!({ protocol.as_str(): { "destinationPort": { "number": first } } })
        }
        PortMatch::Range(PortRange { protocol, first, last }) => {
            let range = json!({ "start": first, "end": last });
            json!({ protocol.as_str(): { "destinationPort": { "range": range } } })
        }
        PortMatch::Named(name, _any) => json!({ "destinationNamedPort": &**name }),
    }
}
