//! A node as others read of it: the value of an etcd key, the annotations of a Kubernetes node.
//!
//! The one place that turns what a source holds into a [`NodeEntry`] and back.

use std::net::IpAddr;

use ipnet::IpNet;
use overlay_proto::Codec;
use serde::{Deserialize, Serialize};

use crate::engine::NodeEntry;

/// What a node says of itself beside its subnets. What is left out is as the cluster has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::control) struct Published {
    /// The address by which peers reach it.
    pub(in crate::control) address: IpAddr,
    /// How it speaks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::control) codec: Option<String>,
    /// The UDP port at which it listens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::control) port: Option<u16>,
    /// The hardware address that a codec with Ethernet frames needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::control) mac: Option<String>,
}

impl Published {
    /// What this node says.
    pub(in crate::control) fn local(address: IpAddr, port: u16) -> Self {
        Self {
            address,
            codec: Some(Codec::default().as_str().to_owned()),
            port: Some(port),
            mac: None,
        }
    }

    /// The table's entry for the node `name`; `port` is the cluster's.
    ///
    /// # Errors
    ///
    /// What this node cannot speak to, in words that follow the place of the value.
    pub(in crate::control) fn entry(
        &self,
        name: &str,
        subnets: Vec<IpNet>,
        port: u16,
    ) -> Result<NodeEntry, String> {
        if let Some(codec) = &self.codec
            && codec != Codec::default().as_str()
        {
            return Err(format!("codec = \"{codec}\" is none that this node speaks; upgrade it"));
        }
        if let Some(other) = self.port
            && other != port
        {
            return Err(format!(
                "port = {other} is not the cluster's, {port}; set underlay.port alike everywhere"
            ));
        }
        if let Some(mac) = &self.mac
            && !is_mac(mac)
        {
            return Err(format!("mac = \"{mac}\" is no hardware address; write 02:cf:0a:f4:01:00"));
        }
        Ok(NodeEntry { name: name.to_owned(), address: self.address, subnets })
    }
}

fn is_mac(text: &str) -> bool {
    let mut octets = 0;
    text.split(':').all(|octet| {
        octets += 1;
        octet.len() == 2 && octet.bytes().all(|digit| digit.is_ascii_hexdigit())
    }) && octets == 6
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(json: &str) -> Result<NodeEntry, String> {
        let published: Published = serde_json::from_str(json).unwrap();
        published.entry("node2", vec!["10.244.2.0/24".parse().unwrap()], 4790)
    }

    #[test]
    fn what_this_node_says_is_what_others_read() {
        let said = Published::local("192.168.1.12".parse().unwrap(), 4790);
        let json = serde_json::to_string(&said).unwrap();
        assert_eq!(json, r#"{"address":"192.168.1.12","codec":"vxlan-gpe","port":4790}"#);
        let entry = entry(&json).unwrap();
        assert_eq!((entry.name.as_str(), entry.address), ("node2", said.address));
    }

    #[test]
    fn an_address_alone_is_enough_and_keys_of_later_versions_are_no_fault() {
        assert!(entry(r#"{"address":"192.168.1.12"}"#).is_ok());
        assert!(entry(r#"{"address":"192.168.1.12","public_key":"x"}"#).is_ok());
    }

    #[test]
    fn a_node_that_speaks_otherwise_is_named_as_such() {
        let refused =
            |fields: &str| entry(&format!(r#"{{"address":"192.168.1.12",{fields}}}"#)).unwrap_err();
        assert!(refused(r#""codec":"pigeon""#).contains("codec = \"pigeon\""));
        assert!(refused(r#""port":4789"#).contains("port = 4789 is not the cluster's, 4790"));
        for mac in ["", "02:cf:0a:f4:01", "02:cf:0a:f4:01:0g", "02:cf:0a:f4:01:00:00"] {
            assert!(refused(&format!(r#""mac":"{mac}""#)).contains("no hardware address"), "{mac}");
        }
        assert!(entry(r#"{"address":"192.168.1.12","mac":"02:cf:0a:f4:01:00"}"#).is_ok());
    }
}
