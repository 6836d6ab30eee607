//! Nodes that follow the Nodes of one cluster.

mod api;
mod checks;
mod protocol;
mod trouble;

use culvert_claims::kubernetes::Follower;
use serde_json::json;

use self::api::Api;
use self::protocol::identity;
use crate::harness::{Node, World};

const TAINT: &str = "culvert.dev/not-ready";

/// The API server, and what the run keeps of it.
pub(crate) struct Kubernetes {
    api: Api,
    /// The last subnet that a Node got.
    subnet: u64,
    /// Counts the watches.
    watches: u64,
}

impl World<Kubernetes> {
    /// A node with a Node of its name.
    fn add_follower(&mut self, name: &str) -> usize {
        let node = self.add(Node::new(name, Follower::new(identity(name), Vec::new())));
        self.register(node);
        node
    }

    /// Makes the Node of a node, as its kubelet and the controller do, with a podCIDR of its own.
    fn register(&mut self, node: usize) {
        self.protocol.subnet += 1;
        let (name, subnet) = (self.nodes[node].name.clone(), self.protocol.subnet);
        let mut cidrs = vec![format!("10.244.{subnet}.0/24")];
        if self.random.percent(30) {
            cidrs.push(format!("fd00:10:244:{subnet}::/64"));
        }
        self.protocol.api.put(json!({
            "metadata": {
                "name": name,
                "creationTimestamp": format!("2026-01-02T03:04:{:02}Z", subnet % 60),
                "annotations": {"other.io/x": "y"},
            },
            "spec": {
                "podCIDR": cidrs[0],
                "podCIDRs": cidrs,
                "taints": [{"key": TAINT, "effect": "NoSchedule"}, {"key": "other", "effect": "NoExecute"}],
            },
            "status": {"addresses": [
                {"type": "InternalIP", "address": format!("192.168.1.{}", 10 + node)},
                {"type": "InternalIP", "address": format!("fd00:192:168:1::{}", 10 + node)},
            ]},
        }));
    }
}
