//! A Kubernetes node: the part of it that we read, and what we make of it.
//!
//! Pure. Only the fields that matter are named, so that ten thousand nodes with their lists of
//! container images cost a few megabytes.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use overlay_proto::Family;
use serde::{Deserialize, Serialize};

use super::failure::NodeProblem;
use crate::{Candidate, Published};

/// What the keys of our annotations begin with.
pub(super) const PREFIX: &str = "culvert.dev/";

/// The address by which peers reach the node, before its `InternalIP`s. Whoever runs the cluster
/// may set it.
pub(super) const ADDRESS: &str = "culvert.dev/address";
pub(super) const CODEC: &str = "culvert.dev/codec";
pub(super) const PORT: &str = "culvert.dev/port";
pub(super) const MAC: &str = "culvert.dev/mac";
/// One key, or two with a comma between them.
pub(super) const PUBLIC_KEY: &str = "culvert.dev/public-key";
pub(super) const PLAIN: &str = "culvert.dev/plain";

/// The part of a Node that we read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Node {
    #[serde(default)]
    pub(super) metadata: Metadata,
    #[serde(default)]
    pub(super) spec: Spec,
    #[serde(default)]
    pub(super) status: Status,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Metadata {
    #[serde(default)]
    pub(super) name: String,
    #[serde(default)]
    pub(super) resource_version: String,
    #[serde(default)]
    pub(super) creation_timestamp: String,
    #[serde(default)]
    pub(super) annotations: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Spec {
    #[serde(rename = "podCIDR", default)]
    pub(super) pod_cidr: String,
    #[serde(rename = "podCIDRs", default)]
    pub(super) pod_cidrs: Vec<String>,
    #[serde(default)]
    pub(super) taints: Vec<Taint>,
}

/// A taint; what we do not know of it is kept, because the whole list is written back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Taint {
    pub(super) key: String,
    #[serde(flatten)]
    rest: serde_json::Map<String, serde_json::Value>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Status {
    #[serde(default)]
    pub(super) addresses: Vec<Address>,
    #[serde(default)]
    pub(super) conditions: Vec<Condition>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Address {
    #[serde(rename = "type")]
    kind: String,
    address: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Condition {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) status: String,
}

impl Node {
    /// The version of the object; empty if the server sent none.
    pub fn version(&self) -> &str {
        &self.metadata.resource_version
    }

    /// Forgets what others annotated.
    #[must_use]
    pub fn slim(mut self) -> Self {
        self.metadata.annotations.retain(|key, _| key.starts_with(PREFIX));
        self.status.conditions.retain(|condition| condition.kind == "NetworkUnavailable");
        self
    }

    /// The address by which peers reach the node; the first of `family` if it has several.
    fn address(&self, family: Option<Family>) -> Result<IpAddr, NodeProblem> {
        if let Some(text) = self.metadata.annotations.get(ADDRESS) {
            let problem = || NodeProblem::Address { key: ADDRESS, text: text.clone() };
            return text.parse().map_err(|_| problem());
        }
        let internal = || {
            self.status
                .addresses
                .iter()
                .filter(|address| address.kind == "InternalIP")
                .filter_map(|address| address.address.parse::<IpAddr>().ok())
        };
        internal()
            .find(|address| family.is_none_or(|family| Family::of(*address) == family))
            .or_else(|| internal().next())
            .ok_or(NodeProblem::NoAddress { key: ADDRESS })
    }

    /// The node's pod subnets.
    fn subnets(&self) -> Result<Vec<IpNet>, NodeProblem> {
        let one = std::slice::from_ref(&self.spec.pod_cidr);
        let texts = if self.spec.pod_cidrs.is_empty() { one } else { &self.spec.pod_cidrs };
        texts
            .iter()
            .filter(|text| !text.is_empty())
            .map(|text| text.parse().map_err(|_| NodeProblem::PodCidr { text: text.clone() }))
            .collect()
    }

    /// The node as the table has it; none while it has no podCIDR.
    pub(super) fn candidate(
        &self,
        family: Option<Family>,
        port: u16,
    ) -> Result<Option<Candidate>, NodeProblem> {
        let subnets = self.subnets()?;
        if subnets.is_empty() {
            return Ok(None);
        }
        let annotation = |key: &str| self.metadata.annotations.get(key).cloned();
        let published = Published {
            address: self.address(family)?,
            codec: annotation(CODEC),
            port: match annotation(PORT) {
                None => None,
                Some(text) => {
                    Some(text.parse().map_err(|_| NodeProblem::Port { key: PORT, text })?)
                }
            },
            mac: annotation(MAC),
            public_keys: match self.metadata.annotations.get(PUBLIC_KEY) {
                None => Vec::new(),
                Some(text) => text.split(',').map(|key| key.trim().to_owned()).collect(),
            },
            plain: match annotation(PLAIN) {
                None => false,
                Some(text) => text.parse().map_err(|_| NodeProblem::Plain { key: PLAIN, text })?,
            },
        };
        let entry =
            published.entry(&self.metadata.name, subnets, port).map_err(NodeProblem::Entry)?;
        Ok(Some(Candidate { since: self.since(), entry: entry.into() }))
    }

    /// Since when the node exists: its date and time, read as one number.
    fn since(&self) -> u64 {
        let digits = self.metadata.creation_timestamp.bytes().filter(u8::is_ascii_digit);
        digits.take(14).fold(0, |number, digit| number * 10 + u64::from(digit - b'0'))
    }
}

#[cfg(test)]
mod tests {
    use culvert_membership::NodeKeys;
    use serde_json::json;

    use super::*;

    fn node(annotations: serde_json::Value) -> Node {
        let node = json!({
            "metadata": {
                "name": "node1",
                "resourceVersion": "7",
                "creationTimestamp": "2026-01-02T03:04:05Z",
                "annotations": annotations,
                "labels": {"a": "b"},
            },
            "spec": {
                "podCIDR": "10.244.1.0/24",
                "podCIDRs": ["10.244.1.0/24", "fd00:10:244:1::/64"],
                "taints": [{"key": "t", "effect": "NoSchedule", "timeAdded": "x"}],
            },
            "status": {
                "addresses": [
                    {"type": "Hostname", "address": "node1"},
                    {"type": "InternalIP", "address": "192.168.1.11"},
                    {"type": "InternalIP", "address": "fd00:192:168:1::11"},
                ],
                "images": [{"names": ["x"], "sizeBytes": 1}],
            },
        });
        serde_json::from_value(node).unwrap()
    }

    #[test]
    fn pod_cidrs_and_addresses_of_both_families_are_read() {
        let node = node(json!({"other.io/x": "y", CODEC: "vxlan-gpe"})).slim();
        assert_eq!(node.metadata.annotations.len(), 1);
        let four = node.candidate(None, 4790).unwrap().unwrap();
        assert_eq!(four.entry.address.to_string(), "192.168.1.11");
        assert_eq!(four.entry.subnets.len(), 2);
        assert_eq!(four.since, 20_260_102_030_405);
        let six = node.candidate(Some(Family::V6), 4790).unwrap().unwrap();
        assert_eq!(six.entry.address.to_string(), "fd00:192:168:1::11");
    }

    #[test]
    fn an_annotation_goes_before_the_addresses() {
        let moved = node(json!({ADDRESS: "198.51.100.7"})).candidate(None, 4790).unwrap().unwrap();
        assert_eq!(moved.entry.address.to_string(), "198.51.100.7");
        let error = node(json!({ADDRESS: "here"})).candidate(None, 4790).unwrap_err().to_string();
        assert!(error.contains("culvert.dev/address = \"here\""), "{error}");
        let error = node(json!({PORT: "none"})).candidate(None, 4790).unwrap_err().to_string();
        assert!(error.contains("culvert.dev/port = \"none\""), "{error}");
        let error = node(json!({PLAIN: "yes"})).candidate(None, 4790).unwrap_err().to_string();
        assert!(error.contains("culvert.dev/plain = \"yes\""), "{error}");
    }

    #[test]
    fn one_public_key_or_two_are_read() {
        let [one, two] = [
            "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=",
            "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=",
        ];
        let keys = |text: &str| {
            let found = node(json!({PUBLIC_KEY: text})).candidate(None, 4790);
            found.map(|found| found.unwrap().entry.tunnel_options.keys)
        };
        assert_eq!(keys(one), Ok(NodeKeys::parse([one]).unwrap()));
        let both = NodeKeys::parse([one, two]).unwrap();
        assert_eq!(keys(&format!("{one},{two}")), Ok(both));
        assert_eq!(keys(&format!("{one}, {two}")), Ok(both));
        let error = keys("nonsense").unwrap_err().to_string();
        assert!(error.contains("\"nonsense\": not 32 bytes"), "{error}");
        assert!(keys("").is_err(), "an annotation without a key is a mistake");
    }

    #[test]
    fn a_node_without_a_pod_cidr_is_none_yet() {
        let mut bare = node(json!({}));
        bare.spec = Spec::default();
        assert_eq!(bare.candidate(None, 4790), Ok(None));
        bare.spec.pod_cidr = "10.244.9.0/24".into();
        assert_eq!(bare.subnets().unwrap().len(), 1, "the older field alone is enough");
    }

    #[test]
    fn a_taint_is_written_back_whole() {
        let taints = node(json!({})).spec.taints;
        assert_eq!(
            serde_json::to_value(taints).unwrap(),
            json!([{"key": "t", "effect": "NoSchedule", "timeAdded": "x"}])
        );
    }
}
