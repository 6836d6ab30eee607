//! What this node says of itself in its own Node object.
//!
//! Pure: compares what stands there with what should, and makes the patches that lead from one to
//! the other. A patch that another writer could make wrong carries the version that it was made
//! from, and is refused by the API server when there is a newer one.

use std::net::{IpAddr, Ipv4Addr};

use culvert_membership::NodeKeys;
use serde_json::{Map, Value, json};

use super::node::{ADDRESS, CODEC, Node, PORT, PUBLIC_KEY};
use crate::Published;

/// Where each condition of a [`Patch::Status`](super::Patch::Status) has the present time filled in
/// (RFC 3339) by whoever writes it.
pub const TIMES: [&str; 2] = ["lastTransitionTime", "lastHeartbeatTime"];

/// What this node should say.
#[derive(Clone, Debug)]
pub struct Desired {
    annotations: Vec<(&'static str, String)>,
    /// None where the node does not seal: peers would wait for it to.
    public_keys: Option<String>,
    startup_taint: String,
}

impl Desired {
    /// A node that listens at `port`. Its address is the kubelet's to publish, unless the
    /// configuration knows better.
    pub fn new(address: Option<IpAddr>, port: u16, startup_taint: &str) -> Self {
        let unspecified = Ipv4Addr::UNSPECIFIED.into();
        let said = Published::local(address.unwrap_or(unspecified), port, NodeKeys::default());
        let annotations = [
            (ADDRESS, address.map(|address| address.to_string())),
            (CODEC, said.codec),
            (PORT, said.port.map(|port| port.to_string())),
        ];
        let said = annotations.into_iter().filter_map(|(key, value)| Some((key, value?)));
        Self {
            annotations: said.collect(),
            public_keys: None,
            startup_taint: startup_taint.to_owned(),
        }
    }

    /// Says these public keys from now on.
    pub(super) fn set_keys(&mut self, keys: NodeKeys) {
        let texts: Vec<String> = keys.iter().map(ToString::to_string).collect();
        self.public_keys = (!texts.is_empty()).then(|| texts.join(","));
    }

    /// The annotations that are missing or wrong, those of `lease` among them, as a merge patch.
    pub(super) fn annotations(
        &self,
        node: &Node,
        lease: &[(&'static str, String)],
    ) -> Option<Value> {
        // What the configuration says goes before.
        let said = lease.iter().chain(&self.annotations);
        let wrong: Map<String, Value> = said
            .map(|(key, value)| (*key, Some(value)))
            .chain([(PUBLIC_KEY, self.public_keys.as_ref())])
            .filter(|(key, value)| node.metadata.annotations.get(*key) != *value)
            .map(|(key, value)| (key.to_owned(), json!(value)))
            .collect();
        (!wrong.is_empty()).then(|| json!({"metadata": {"annotations": wrong}}))
    }

    /// Takes the startup taint away, as a merge patch; only that taint, and only from this version.
    pub(super) fn taints(&self, node: &Node) -> Option<Value> {
        let taints = &node.spec.taints;
        let kept: Vec<_> = taints.iter().filter(|taint| taint.key != self.startup_taint).collect();
        (kept.len() < taints.len()).then(|| {
            json!({
                "metadata": {"resourceVersion": node.metadata.resource_version},
                "spec": {"taints": kept},
            })
        })
    }

    /// The condition that schedulers go by, as a strategic merge patch of the status: whether the
    /// network is unavailable. The times are for whoever writes it.
    pub(super) fn condition(&self, node: &Node, ready: bool) -> Option<Value> {
        let status = if ready { "False" } else { "True" };
        let known = node.status.conditions.iter().find(|known| known.kind == "NetworkUnavailable");
        if known.is_some_and(|known| known.status == status) {
            return None;
        }
        let (reason, message) = if ready {
            ("CulvertIsUp", "Culvert carries packets on this node")
        } else {
            ("CulvertIsDown", "Culvert is not ready on this node; its log and /readyz say why")
        };
        Some(json!({"status": {"conditions": [{
            "type": "NetworkUnavailable",
            "status": status,
            "reason": reason,
            "message": message,
        }]}}))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn desired(address: Option<&str>) -> Desired {
        let address = address.map(|address| address.parse().unwrap());
        Desired::new(address, 4790, "culvert.dev/not-ready")
    }

    fn node(value: Value) -> Node {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn only_what_is_wrong_is_written() {
        let desired = desired(None);
        let bare = node(json!({"metadata": {"annotations": {"culvert.dev/codec": "vxlan-gpe"}}}));
        assert_eq!(
            desired.annotations(&bare, &[]),
            Some(json!({"metadata": {"annotations": {"culvert.dev/port": "4790"}}}))
        );
        let good = node(json!({"metadata": {"annotations": {
            "culvert.dev/codec": "vxlan-gpe", "culvert.dev/port": "4790", "x": "y",
        }}}));
        assert_eq!(desired.annotations(&good, &[]), None);
    }

    #[test]
    fn a_configured_address_is_published() {
        let desired = desired(Some("198.51.100.7"));
        let patch = desired.annotations(&Node::default(), &[]).unwrap();
        assert_eq!(patch["metadata"]["annotations"]["culvert.dev/address"], "198.51.100.7");
    }

    #[test]
    fn public_keys_are_written_and_taken_away_where_the_node_has_none() {
        let texts = [
            "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=",
            "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=",
        ];
        let mut desired = desired(None);
        desired.set_keys(NodeKeys::parse(texts).unwrap());
        let patch = desired.annotations(&Node::default(), &[]).unwrap();
        let written = &patch["metadata"]["annotations"][PUBLIC_KEY];
        assert_eq!(*written, json!(texts.join(",")));
        let said = node(json!({"metadata": {"annotations": {
            "culvert.dev/codec": "vxlan-gpe", "culvert.dev/port": "4790", PUBLIC_KEY: written,
        }}}));
        assert_eq!(desired.annotations(&said, &[]), None);
        desired.set_keys(NodeKeys::default());
        let patch = desired.annotations(&said, &[]).unwrap();
        assert_eq!(patch, json!({"metadata": {"annotations": {PUBLIC_KEY: null}}}));
    }

    #[test]
    fn the_startup_taint_goes_and_others_stay() {
        let tainted = node(json!({
            "metadata": {"resourceVersion": "9"},
            "spec": {"taints": [
                {"key": "culvert.dev/not-ready", "effect": "NoSchedule"},
                {"key": "other", "effect": "NoExecute", "value": "v"},
            ]},
        }));
        assert_eq!(
            desired(None).taints(&tainted),
            Some(json!({
                "metadata": {"resourceVersion": "9"},
                "spec": {"taints": [{"key": "other", "effect": "NoExecute", "value": "v"}]},
            }))
        );
        assert_eq!(desired(None).taints(&Node::default()), None);
    }

    #[test]
    fn the_condition_is_written_when_it_changes() {
        let of = |status: &str, ready| {
            let conditions = json!([{"type": "NetworkUnavailable", "status": status}]);
            let node = node(json!({"status": {"conditions": conditions}}));
            let patch = desired(None).condition(&node, ready)?;
            Some(patch["status"]["conditions"][0]["status"].clone())
        };
        assert_eq!(of("True", true), Some(json!("False")));
        assert_eq!(of("False", true), None);
        assert_eq!(of("False", false), Some(json!("True")));
    }
}
