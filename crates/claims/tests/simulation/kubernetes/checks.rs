//! What must hold of nodes and their Nodes.

use std::collections::BTreeMap;
use std::net::IpAddr;

use culvert_claims::NodeKeys;
use serde_json::Value;

use super::{Kubernetes, TAINT};
use crate::harness::{Held, Node, World};
use crate::report::Violation;

impl World<Kubernetes> {
    /// Every node has what its Node says, or, unless it `must` by now, says that it does not; and
    /// all know what the Nodes say.
    pub(super) fn check_nodes(&self, must: bool) -> Held {
        let nodes = &self.protocol.api.nodes;
        for (number, node) in self.nodes.iter().enumerate() {
            check_own(number, node, &pod_cidrs(&nodes[&node.name]), must)?;
            let entries = || node.daemon.table.nodes().map(|known| &known.entry);
            let own = entries().find(|entry| entry.name == node.name);
            let ipv4 = own.is_none_or(|own| own.address.is_ipv4());
            let known: BTreeMap<&String, (IpAddr, Vec<String>, NodeKeys)> = entries()
                .filter(|entry| entry.name != node.name)
                .map(|entry| {
                    let subnets = entry.subnets.iter().map(ToString::to_string).collect();
                    (&entry.name, (entry.address, subnets, entry.tunnel_options.keys))
                })
                .collect();
            let others = nodes.iter().filter(|(name, _)| **name != node.name);
            let there: BTreeMap<&String, (IpAddr, Vec<String>, NodeKeys)> = others
                .map(|(name, node)| (name, (address(node, ipv4), pod_cidrs(node), keys(node))))
                .collect();
            let unreadable = node.daemon.table.unreadable();
            if known != there || !unreadable.is_empty() {
                let detail = format!(
                    "node {number} knows {known:?}, and there is {there:?}; {unreadable:?}"
                );
                return Err(Violation::new("all nodes know what there is", detail));
            }
            check_object(number, node, &nodes[&node.name])?;
        }
        Ok(())
    }
}

/// The subnets that a Node says its node has.
fn pod_cidrs(node: &Value) -> Vec<String> {
    let cidrs = node["spec"]["podCIDRs"].as_array().unwrap();
    cidrs.iter().map(|cidr| cidr.as_str().unwrap().to_owned()).collect()
}

/// The public keys that a Node says its node has.
fn keys(node: &Value) -> NodeKeys {
    let text = node["metadata"]["annotations"]["culvert.dev/public-key"].as_str();
    NodeKeys::parse(text.into_iter().flat_map(|text| text.split(','))).unwrap()
}

/// The address by which a node is reached from one of that family.
fn address(node: &Value, ipv4: bool) -> IpAddr {
    let addresses = node["status"]["addresses"].as_array().unwrap();
    let all = || addresses.iter().map(|address| address["address"].as_str().unwrap());
    let all = || all().map(|address| address.parse::<IpAddr>().unwrap());
    all().find(|address| address.is_ipv4() == ipv4).or_else(|| all().next()).unwrap()
}

/// A node has what it should, or says that it does not while pods keep it from that.
fn check_own(number: usize, node: &Node<Kubernetes>, wanted: &[String], must: bool) -> Held {
    let own: Vec<String> = node.in_force().iter().map(ToString::to_string).collect();
    match &node.daemon.contested {
        Some(reason) if must => {
            let detail = format!("node {number} has {own:?}: {reason}");
            Err(Violation::new("every node ends with its subnets", detail))
        }
        Some(_) if node.disk.pods.is_empty() => {
            let detail = format!("node {number} has no pods, and {own:?} for {wanted:?}");
            Err(Violation::new("a node without pods takes its podCIDR", detail))
        }
        None if own != wanted => {
            let detail = format!("node {number} has {own:?} for {wanted:?}");
            Err(Violation::new("the loser of a conflict says so", detail))
        }
        Some(_) | None => Ok(()),
    }
}

/// A node's object says what it should.
fn check_object(number: usize, node: &Node<Kubernetes>, object: &Value) -> Held {
    let tainted = object["spec"]["taints"].as_array().unwrap().iter().any(|t| t["key"] == TAINT);
    let annotations = &object["metadata"]["annotations"];
    let mut conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    let network = conditions.find(|known| known["type"] == "NetworkUnavailable");
    let available = network.is_some_and(|known| known["status"] == "False");
    let ready = node.daemon.ready;
    let good = annotations["culvert.dev/codec"] == "vxlan-gpe"
        && annotations["culvert.dev/port"] == "4790"
        && keys(object) == node.keys(node.boot)
        && annotations["other.io/x"] == "y"
        && (!ready || (!tainted && available))
        && (ready || !node.daemon.was_ready || !available);
    if good {
        return Ok(());
    }
    let detail = format!("node {number}, which takes pods: {ready}, says {object}");
    Err(Violation::new("a Node says what it should", detail))
}
