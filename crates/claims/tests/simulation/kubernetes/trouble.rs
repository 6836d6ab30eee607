//! What goes wrong with the Nodes of a cluster.

use serde_json::{Value, json};

use super::Kubernetes;
use crate::harness::{Fault, Trouble as Any, World};

/// A thing that goes wrong.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Trouble {
    /// The server forgets what watches were not told yet.
    Forget,
    /// A Node is deleted.
    Delete,
    /// A Node is registered again, with another podCIDR.
    Register,
    /// A Node loses its podCIDR.
    NoPodCidr,
    /// A Node gets the podCIDR of one that is deleted.
    Exchange,
    /// A Node gets another address.
    Move,
    /// Somebody taints a Node.
    Taint,
    /// A Node says what nobody understands.
    Garbage,
}

pub(super) const TROUBLES: &[Any<Trouble>] = &[
    Any::Fault(Fault::Cut),
    Any::Fault(Fault::Down),
    Any::Own(Trouble::Forget),
    Any::Fault(Fault::Restart),
    Any::Fault(Fault::Away),
    Any::Own(Trouble::Delete),
    Any::Own(Trouble::Register),
    Any::Own(Trouble::NoPodCidr),
    Any::Own(Trouble::Exchange),
    Any::Own(Trouble::Move),
    Any::Own(Trouble::Taint),
    Any::Own(Trouble::Garbage),
    Any::Fault(Fault::Breakage),
    Any::Fault(Fault::Jump),
    Any::Fault(Fault::Freeze),
    Any::Fault(Fault::Reload),
];

impl World<Kubernetes> {
    pub(super) fn trouble_in_kubernetes(&mut self, what: Trouble, node: usize) {
        let name = self.nodes[node].name.clone();
        match what {
            Trouble::Forget => {
                self.protocol.api.forget();
                if self.random.percent(50) {
                    self.break_connections();
                }
            }
            Trouble::Delete => self.protocol.api.delete(&name),
            Trouble::Register => {
                self.protocol.api.delete(&name);
                if self.random.percent(50) {
                    self.protocol.api.forget();
                }
                self.register(node);
            }
            Trouble::NoPodCidr => {
                self.change(&name, |node| node["spec"] = json!({"taints": node["spec"]["taints"]}));
            }
            Trouble::Exchange => self.exchange(&name),
            Trouble::Move => {
                let address = format!("192.168.1.{}", self.random.between(100, 200));
                let only_v6 = self.random.percent(30);
                self.change(&name, |node| {
                    let addresses = &mut node["status"]["addresses"];
                    if only_v6 {
                        addresses[0] = addresses[1].clone();
                    } else {
                        addresses[0] = json!({"type": "InternalIP", "address": address});
                    }
                });
            }
            Trouble::Taint => {
                let key = format!("added-{}", self.random.below(5));
                self.change(&name, |node| {
                    if let Some(taints) = node["spec"]["taints"].as_array_mut() {
                        taints.push(json!({"key": key, "effect": "NoSchedule"}));
                    }
                });
            }
            Trouble::Garbage => {
                self.change(&name, |node| {
                    node["metadata"]["annotations"]["culvert.dev/codec"] = json!("pigeon");
                });
            }
        }
        self.tell_watches();
    }

    /// The controller gives what a deleted node had to another.
    fn exchange(&mut self, name: &str) {
        let other = self.random.below(self.nodes.len());
        let other = self.nodes[other].name.clone();
        let spec = self.protocol.api.nodes.get(&other).map(|node| node["spec"].clone());
        let spec = spec.filter(|spec| spec["podCIDR"].is_string());
        if let (Some(spec), true) = (spec, other != name) {
            self.protocol.api.delete(&other);
            let cidrs = [spec["podCIDR"].clone(), spec["podCIDRs"].clone()];
            self.change(name, |node| {
                [node["spec"]["podCIDR"], node["spec"]["podCIDRs"]] = cidrs;
            });
        }
    }

    fn change(&mut self, name: &str, change: impl FnOnce(&mut Value)) {
        if let Some(mut node) = self.protocol.api.nodes.get(name).cloned() {
            change(&mut node);
            self.protocol.api.put(node);
        }
    }

    /// Ends all trouble with Nodes: each node has one with a podCIDR.
    pub(super) fn heal_kubernetes(&mut self) {
        for node in 0..self.nodes.len() {
            let known = self.protocol.api.nodes.get(&self.nodes[node].name);
            if known.is_none_or(|node| node["spec"]["podCIDR"].is_null()) {
                self.register(node);
            }
        }
    }
}
