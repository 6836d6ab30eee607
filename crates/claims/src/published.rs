//! A node as others read of it: the value of an etcd key, the annotations of a Kubernetes node.
//!
//! The one place that turns what a source holds into a [`NodeEntry`] and back.

use std::net::IpAddr;

use culvert_membership::{NodeEntry, NodeKeys, TunnelOptions, WrongKey};
use ipnet::IpNet;
use overlay_proto::{CodecKind, CodecNameError, MacError};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// What a node says of itself beside its subnets. What is left out is as the cluster has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// The address by which peers reach it.
    pub(crate) address: IpAddr,
    /// How it speaks; a node that runs Culvert says what such nodes speak with one another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) codec: Option<String>,
    /// The UDP port at which it listens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) port: Option<u16>,
    /// The hardware address that a codec with Ethernet frames needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mac: Option<String>,
    /// By what peers know it that seal what they send to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) public_keys: Vec<String>,
    /// Whether its traffic may be plain where everything else is sealed.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(crate) plain: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

/// A value of a node that this node cannot understand or speak to. Its text follows the place of
/// the value.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PublishedError {
    /// No codec of this version has the name.
    #[error("codec = \"{text}\": {cause}; correct it, or upgrade this node")]
    Codec {
        /// What stands there.
        text: String,
        /// What is wrong with it.
        cause: CodecNameError,
    },
    /// No hardware address.
    #[error("mac = \"{text}\": {cause}; write it such as 02:ce:c0:a8:01:0b")]
    Mac {
        /// What stands there.
        text: String,
        /// What is wrong with it.
        cause: MacError,
    },
    /// No public key, or not beside the others.
    #[error("public_keys = \"{text}\": {cause}; {}", .cause.remedy())]
    Key {
        /// What stands there.
        text: String,
        /// What is wrong with it.
        cause: WrongKey,
    },
    /// A node that runs Culvert listens at another port than the cluster's.
    #[error("port = {port} is not the cluster's, {cluster}; set underlay.port alike everywhere")]
    Port {
        /// The node's.
        port: u16,
        /// That of the cluster.
        cluster: u16,
    },
}

impl Published {
    /// What this node says. Its Ethernet address in tunnels is derived from `address`, by
    /// everybody.
    pub(crate) fn local(address: IpAddr, port: u16, keys: NodeKeys) -> Self {
        Self {
            address,
            codec: Some(CodecKind::default().as_str().to_owned()),
            port: Some(port),
            mac: None,
            public_keys: texts(keys),
            plain: false,
        }
    }

    /// What `entry` says, and nothing that it leaves out.
    pub fn of(entry: &NodeEntry) -> Self {
        let TunnelOptions { codec, port, mac, keys, plain } = entry.tunnel_options;
        Self {
            address: entry.address,
            codec: codec.map(|codec| codec.as_str().to_owned()),
            port,
            mac: mac.map(|mac| mac.to_string()),
            public_keys: texts(keys),
            plain,
        }
    }

    /// The entry that says this, word for word.
    ///
    /// # Errors
    ///
    /// The first value that this node cannot understand.
    pub fn literally(&self, name: &str, subnets: Vec<IpNet>) -> Result<NodeEntry, PublishedError> {
        let codec = |text: &String| {
            text.parse().map_err(|cause| PublishedError::Codec { text: text.clone(), cause })
        };
        let mac = |text: &String| {
            text.parse().map_err(|cause| PublishedError::Mac { text: text.clone(), cause })
        };
        let keys = NodeKeys::parse(self.public_keys.iter().map(String::as_str));
        let keys = keys.map_err(|cause| {
            let text = self.public_keys[cause.place].clone();
            PublishedError::Key { text, cause }
        })?;
        Ok(NodeEntry {
            name: name.to_owned(),
            address: self.address,
            subnets,
            tunnel_options: TunnelOptions {
                codec: self.codec.as_ref().map(codec).transpose()?,
                port: self.port,
                mac: self.mac.as_ref().map(mac).transpose()?,
                keys,
                plain: self.plain,
            },
        })
    }

    /// The table's entry for the node `name`; `port` is the cluster's.
    ///
    /// What nodes that run Culvert speak with one another is what such a node says; the table has
    /// that as nothing in particular, because such a node speaks the other codecs too.
    ///
    /// # Errors
    ///
    /// The first value that this node cannot understand, or a port to which it cannot speak.
    pub(crate) fn entry(
        &self,
        name: &str,
        subnets: Vec<IpNet>,
        port: u16,
    ) -> Result<NodeEntry, PublishedError> {
        let mut entry = self.literally(name, subnets)?;
        let tunnel_options = &mut entry.tunnel_options;
        if tunnel_options.codec.is_none_or(|codec| codec == CodecKind::default()) {
            if let Some(other) = tunnel_options.port.filter(|other| *other != port) {
                return Err(PublishedError::Port { port: other, cluster: port });
            }
            tunnel_options.codec = None;
            tunnel_options.port = None;
        }
        Ok(entry)
    }
}

fn texts(keys: NodeKeys) -> Vec<String> {
    keys.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Published {
        serde_json::from_str(json).unwrap()
    }

    fn entry(json: &str) -> Result<NodeEntry, PublishedError> {
        read(json).entry("node2", vec![IpNet::new_assert([10, 244, 2, 0].into(), 24)], 4790)
    }

    #[test]
    fn what_this_node_says_is_what_others_read() {
        let said = Published::local("192.168.1.12".parse().unwrap(), 4790, NodeKeys::default());
        let json = serde_json::to_string(&said).unwrap();
        assert_eq!(json, r#"{"address":"192.168.1.12","codec":"vxlan-gpe","port":4790}"#);
        let entry = entry(&json).unwrap();
        assert_eq!((entry.name.as_str(), entry.address), ("node2", said.address));
        assert_eq!(entry.tunnel_options, TunnelOptions::default(), "it speaks everything");
    }

    /// Bob's and Alice's public keys in RFC 7748, 6.1.
    const KEYS: [&str; 2] = [
        "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=",
        "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=",
    ];

    #[test]
    fn keys_are_said_in_their_order_and_what_is_none_is_named() {
        let keys = NodeKeys::parse(KEYS).unwrap();
        let said = Published::local("192.168.1.12".parse().unwrap(), 4790, keys);
        let json = serde_json::to_string(&said).unwrap();
        let [one, two] = KEYS;
        assert!(json.ends_with(&format!(r#","public_keys":["{one}","{two}"]}}"#)), "{json}");
        assert_eq!(entry(&json).unwrap().tunnel_options.keys, keys);
        for (wrong, part) in [("AAAA", "not 32 bytes in base64"), (one, "has this key already")] {
            let json = format!(r#"{{"address":"192.168.1.12","public_keys":["{one}","{wrong}"]}}"#);
            let error = entry(&json).unwrap_err().to_string();
            assert!(error.starts_with(&format!("public_keys = \"{wrong}\": ")), "{error}");
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn an_address_alone_is_enough_and_keys_of_later_versions_are_no_fault() {
        assert!(entry(r#"{"address":"192.168.1.12"}"#).is_ok());
        assert!(entry(r#"{"address":"192.168.1.12","of_a_later_version":"x"}"#).is_ok());
    }

    #[test]
    fn a_node_that_speaks_otherwise_is_named_as_such() {
        let refused = |fields: &str| {
            let json = format!(r#"{{"address":"192.168.1.12",{fields}}}"#);
            entry(&json).unwrap_err().to_string()
        };
        assert!(refused(r#""codec":"pigeon""#).contains("codec = \"pigeon\""));
        assert!(refused(r#""port":4789"#).contains("port = 4789 is not the cluster's, 4790"));
        for mac in ["", "02:cf:0a:f4:01", "02:cf:0a:f4:01:0g", "02:cf:0a:f4:01:00:00"] {
            assert!(refused(&format!(r#""mac":"{mac}""#)).contains("mac = "), "{mac}");
        }
        assert!(entry(r#"{"address":"192.168.1.12","mac":"02:cf:0a:f4:01:00"}"#).is_ok());
    }
    #[test]
    fn codec_port_and_address_of_a_node_without_culvert_are_taken() {
        let found = entry(
            r#"{"address":"192.168.1.12","codec":"vxlan","port":8472,"mac":"02:cf:0a:f4:01:00"}"#,
        );
        let mac = Some("02:cf:0a:f4:01:00".parse().unwrap());
        let tunnel_options = TunnelOptions {
            codec: Some(CodecKind::Vxlan),
            port: Some(8472),
            mac,
            ..TunnelOptions::default()
        };
        assert_eq!(found.map(|entry| entry.tunnel_options), Ok(tunnel_options));
        let found = entry(r#"{"address":"192.168.1.12","codec":"ip-udp"}"#).unwrap().tunnel_options;
        let bare = TunnelOptions { codec: Some(CodecKind::IpUdp), ..TunnelOptions::default() };
        assert_eq!(found, bare);
        let found = entry(r#"{"address":"192.168.1.12","codec":"ip-udp","plain":true}"#).unwrap();
        assert_eq!(found.tunnel_options, TunnelOptions { plain: true, ..bare });
    }

    #[test]
    fn an_entry_is_kept_word_for_word() {
        let gpe = Some(CodecKind::VxlanGpe);
        for tunnel_options in [
            TunnelOptions::default(),
            TunnelOptions { codec: gpe, port: Some(4791), ..TunnelOptions::default() },
            TunnelOptions { keys: NodeKeys::parse(KEYS).unwrap(), ..TunnelOptions::default() },
            TunnelOptions {
                codec: Some(CodecKind::IpUdp),
                plain: true,
                ..TunnelOptions::default()
            },
            TunnelOptions {
                codec: Some(CodecKind::Vxlan),
                mac: Some("02:cf:0a:f4:01:00".parse().unwrap()),
                ..TunnelOptions::default()
            },
        ] {
            let entry = NodeEntry {
                name: "node2".into(),
                address: "192.168.1.12".parse().unwrap(),
                subnets: vec!["10.244.2.0/24".parse().unwrap()],
                tunnel_options,
            };
            let json = serde_json::to_string(&Published::of(&entry)).unwrap();
            assert_eq!(read(&json).literally("node2", entry.subnets.clone()), Ok(entry), "{json}");
        }
    }
}
