//! A Kubernetes node: the part of it that we read, and what we make of it.
//!
//! Pure. Only the fields that matter are named, so that ten thousand nodes with their lists of
//! container images cost a few megabytes.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use overlay_proto::{CodecKind, Family, Mac, Vni};
use serde::{Deserialize, Serialize};

use super::failure::NodeProblem;
use super::flannel::{self, Lease};
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

/// How Nodes are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sight {
    /// The port of the tunnel.
    pub port: u16,
    /// The network of flannel's VXLAN, while the cluster changes over from flannel: a node that
    /// says nothing of Culvert and has flannel's annotations is served by flannel.
    pub flannel: Option<Vni>,
}

/// Who carries the packets of a node's pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// A daemon of ours.
    Culvert,
    /// Flannel, which is reached there.
    Flannel {
        /// Where datagrams for it go.
        address: Ipv4Addr,
        /// The hardware address of frames to it.
        mac: Mac,
    },
    /// Neither.
    Nobody,
}

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
        let is_read = |key: &str| [PREFIX, flannel::PREFIX].iter().any(|it| key.starts_with(it));
        self.metadata.annotations.retain(|key, _| is_read(key));
        self.status.conditions.retain(|condition| condition.kind == "NetworkUnavailable");
        self
    }

    /// How flannel's nodes reach the node, if it is or was one of them.
    pub(super) fn lease(&self, sight: Sight) -> Result<Option<Lease>, NodeProblem> {
        let read = |vni| Lease::read(&self.metadata.annotations, vni);
        sight.flannel.map(read).transpose().map(Option::flatten)
    }

    /// Who carries the packets of the node's pods.
    ///
    /// # Errors
    ///
    /// What keeps it from being a peer.
    pub fn carrier(&self, sight: Sight) -> Result<Carrier, String> {
        let lease = self.lease(sight).map_err(|problem| problem.to_string())?;
        let subnets = self.subnets().map_err(|problem| problem.to_string())?;
        if subnets.is_empty() {
            return Err("has no podCIDR".to_owned());
        }
        let is_culverts = self.said_codec().is_some_and(|it| it != CodecKind::Vxlan.as_str());
        match lease {
            _ if is_culverts => Ok(Carrier::Culvert),
            Some(_) if subnets.iter().any(|subnet| subnet.addr().is_ipv6()) => {
                Err("has an IPv6 podCIDR, and only IPv4 can come over".to_owned())
            }
            Some(Lease { address, mac }) => Ok(Carrier::Flannel { address, mac }),
            None => Ok(Carrier::Nobody),
        }
    }

    /// What the node is annotated to speak.
    pub(super) fn said_codec(&self) -> Option<&str> {
        self.metadata.annotations.get(CODEC).map(String::as_str)
    }

    /// The address by which peers reach the node: as it is annotated, by its `lease`, or the first
    /// of `family` if it has several.
    fn address(&self, family: Option<Family>, lease: Option<Lease>) -> Result<IpAddr, NodeProblem> {
        if let Some(text) = self.metadata.annotations.get(ADDRESS) {
            let problem = || NodeProblem::Address { key: ADDRESS, text: text.clone() };
            return text.parse().map_err(|_| problem());
        }
        if let Some(lease) = lease {
            return Ok(lease.address.into());
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

    /// What the node has to be annotated with to keep the address of its `lease` when nobody reads
    /// that any more; none if it has it anyway.
    pub(super) fn address_to_say(&self, lease: Lease) -> Option<IpAddr> {
        let address = IpAddr::from(lease.address);
        let without = self.address(Some(Family::V4), None);
        let is_said = self.metadata.annotations.contains_key(ADDRESS);
        (!is_said && without != Ok(address)).then_some(address)
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

    /// Another node as the table has it; none while it has no podCIDR.
    pub(super) fn candidate(
        &self,
        family: Option<Family>,
        sight: Sight,
    ) -> Result<Option<Candidate>, NodeProblem> {
        let lease = self.lease(sight)?;
        let by_flannel = lease.map(|_| CodecKind::Vxlan.as_str());
        self.entry(family, sight.port, lease, self.said_codec().or(by_flannel))
    }

    /// This node as its own table has it: it runs Culvert, whatever its Node says so far, unless it
    /// is to go back to flannel.
    pub(super) fn own(&self, sight: Sight) -> Result<Option<Candidate>, NodeProblem> {
        let lease = self.lease(sight)?;
        let codec = self.said_codec().filter(|_| sight.flannel.is_none() || self.goes_back(sight));
        self.entry(None, sight.port, lease, codec)
    }

    /// Whether somebody has annotated the node to be one of flannel's again.
    pub(super) fn goes_back(&self, sight: Sight) -> bool {
        let was_flannels = matches!(self.lease(sight), Ok(Some(_)));
        was_flannels && self.said_codec() == Some(CodecKind::Vxlan.as_str())
    }

    fn entry(
        &self,
        family: Option<Family>,
        port: u16,
        lease: Option<Lease>,
        codec: Option<&str>,
    ) -> Result<Option<Candidate>, NodeProblem> {
        let subnets = self.subnets()?;
        if subnets.is_empty() {
            return Ok(None);
        }
        let annotation = |key: &str| self.metadata.annotations.get(key).cloned();
        // A node that flannel served goes on with its address: flannel's nodes have it.
        let mac = lease.map(|lease| lease.mac.to_string());
        // One that goes back to flannel still says at which port it was, and how it sealed.
        let is_flannels = lease.is_some() && codec == Some(CodecKind::Vxlan.as_str());
        let said = |key: &str| annotation(key).filter(|_| !is_flannels);
        let published = Published {
            address: self.address(family, lease)?,
            codec: codec.map(str::to_owned),
            port: match said(PORT) {
                None => None,
                Some(text) => {
                    Some(text.parse().map_err(|_| NodeProblem::Port { key: PORT, text })?)
                }
            },
            mac: annotation(MAC).or(mac),
            public_keys: match said(PUBLIC_KEY) {
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

    const SIGHT: Sight = Sight { port: 4790, flannel: None };

    /// The same while the cluster changes over.
    fn changing() -> Sight {
        Sight { flannel: Some(Vni::new(1).unwrap()), ..SIGHT }
    }

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
        let four = node.candidate(None, SIGHT).unwrap().unwrap();
        assert_eq!(four.entry.address.to_string(), "192.168.1.11");
        assert_eq!(four.entry.subnets.len(), 2);
        assert_eq!(four.since, 20_260_102_030_405);
        let six = node.candidate(Some(Family::V6), SIGHT).unwrap().unwrap();
        assert_eq!(six.entry.address.to_string(), "fd00:192:168:1::11");
    }

    #[test]
    fn an_annotation_goes_before_the_addresses() {
        let moved = node(json!({ADDRESS: "198.51.100.7"})).candidate(None, SIGHT).unwrap().unwrap();
        assert_eq!(moved.entry.address.to_string(), "198.51.100.7");
        let error = node(json!({ADDRESS: "here"})).candidate(None, SIGHT).unwrap_err().to_string();
        assert!(error.contains("culvert.dev/address = \"here\""), "{error}");
        let error = node(json!({PORT: "none"})).candidate(None, SIGHT).unwrap_err().to_string();
        assert!(error.contains("culvert.dev/port = \"none\""), "{error}");
        let error = node(json!({PLAIN: "yes"})).candidate(None, SIGHT).unwrap_err().to_string();
        assert!(error.contains("culvert.dev/plain = \"yes\""), "{error}");
    }

    #[test]
    fn one_public_key_or_two_are_read() {
        let [one, two] = [
            "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=",
            "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=",
        ];
        let keys = |text: &str| {
            let found = node(json!({PUBLIC_KEY: text})).candidate(None, SIGHT);
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

    /// A node as flannel leaves it, and what else it says.
    fn flannels(more: serde_json::Value) -> Node {
        let mut annotations = json!({
            "flannel.alpha.coreos.com/kube-subnet-manager": "true",
            "flannel.alpha.coreos.com/backend-type": "vxlan",
            "flannel.alpha.coreos.com/backend-data": r#"{"VNI":1,"VtepMAC":"aa:bb:cc:dd:ee:01"}"#,
            "flannel.alpha.coreos.com/public-ip": "192.168.7.11",
        });
        annotations.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        node(annotations).slim()
    }

    fn mac() -> Mac {
        "aa:bb:cc:dd:ee:01".parse().unwrap()
    }

    #[test]
    fn a_node_of_flannels_is_a_peer_that_speaks_vxlan_while_the_cluster_changes_over() {
        let found = flannels(json!({})).candidate(None, changing()).unwrap().unwrap();
        let options = found.entry.tunnel_options;
        assert_eq!((options.codec, options.mac), (Some(CodecKind::Vxlan), Some(mac())));
        assert_eq!(found.entry.address.to_string(), "192.168.7.11", "flannel's goes first");
        let found = flannels(json!({})).candidate(None, SIGHT).unwrap().unwrap();
        assert_eq!(found.entry.tunnel_options.codec, None, "nobody believes it otherwise");
        assert_eq!(found.entry.address.to_string(), "192.168.1.11");
    }

    #[test]
    fn a_node_that_has_changed_keeps_address_and_hardware_address_of_flannels() {
        let said = json!({CODEC: "vxlan-gpe", PORT: "4790"});
        let others = flannels(said).candidate(None, changing()).unwrap().unwrap();
        let own = flannels(json!({})).own(changing()).unwrap().unwrap();
        assert_eq!(others, own, "it knows itself before it says so");
        assert_eq!(
            (own.entry.tunnel_options.codec, own.entry.tunnel_options.mac),
            (None, Some(mac()))
        );
        assert_eq!(own.entry.address.to_string(), "192.168.7.11");
    }

    #[test]
    fn an_address_that_only_flannel_says_is_to_be_said_by_us() {
        let say = |node: Node| {
            let lease = node.lease(changing()).unwrap().unwrap();
            node.address_to_say(lease).map(|address| address.to_string())
        };
        assert_eq!(say(flannels(json!({}))), Some("192.168.7.11".to_owned()));
        assert_eq!(say(flannels(json!({ADDRESS: "192.168.7.11"}))), None);
        assert_eq!(say(flannels(json!({ADDRESS: "198.51.100.7"}))), None, "somebody else's word");
        let usual = json!({"flannel.alpha.coreos.com/public-ip": "192.168.1.11"});
        assert_eq!(say(flannels(usual)), None, "the kubelet says so");
    }

    #[test]
    fn a_node_on_its_way_back_is_one_of_flannels_whatever_it_said_before() {
        let key = "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=";
        let said = json!({CODEC: "vxlan", PORT: "4790", PUBLIC_KEY: key});
        let leaving = flannels(said);
        let served = flannels(json!({})).candidate(None, changing());
        assert_eq!(leaving.candidate(None, changing()), served);
        assert_eq!(leaving.own(changing()), served, "it knows that it is to go back");
    }

    #[test]
    fn a_node_without_a_pod_cidr_is_none_yet() {
        let mut bare = node(json!({}));
        bare.spec = Spec::default();
        assert_eq!(bare.candidate(None, SIGHT), Ok(None));
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
