//! The keys under our prefix, and what stands in their values.
//!
//! ```text
//! PREFIX/config                       what all nodes share            written once, by anybody
//! PREFIX/reservations/10.244.7.0-24   a subnet for one node, or none  written by the operator
//! PREFIX/subnets/10.244.1.0-24        the owner and its address       lives with the owner's lease
//! PREFIX/unique/name/node1            who has the name                the same
//! PREFIX/unique/address/192.168.1.11  who has the address             the same
//! ```
//!
//! Nodes follow the first three kinds, which are one range of keys. The last two are only compared
//! when a claim is made.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{Parameters, Published, PublishedError};

/// Why a key or its value cannot be understood, in words that follow the key.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(super) enum Problem {
    #[error("not a key of Culvert; delete it")]
    NotOurs,
    #[error("not a subnet, such as 10.244.1.0-24; delete the key")]
    NotASubnet,
    /// With the words of the JSON parser.
    #[error("not what belongs there ({0}); correct or delete it")]
    Value(String),
    #[error(transparent)]
    Settings(#[from] SettingsFault),
    /// A node that this one cannot speak to.
    #[error(transparent)]
    Entry(#[from] PublishedError),
}

/// What is wrong with the settings.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(super) enum SettingsFault {
    #[error("cidrs = []: the cluster needs a pod network")]
    NoNetwork,
    #[error("cidrs: {network} has bits set beyond its length")]
    HostBits { network: IpNet },
    #[error("cidrs: {network} is a second network of the same family")]
    SecondOfFamily { network: IpNet },
    #[error("subnet_len = {len}: not the length of a subnet of {network}")]
    SubnetLen { len: u8, network: IpNet },
    #[error("port = 0: not a port")]
    Port,
}

/// The keys under one prefix.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    prefix: String,
}

/// What a key of the range that nodes follow is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Settings,
    Reservation(IpNet),
    Subnet(IpNet),
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    /// The range that nodes follow: from the first to before the second.
    pub(super) fn followed(&self) -> (String, String) {
        // '0' comes directly after '/'.
        (self.settings(), format!("{}/subnets0", self.prefix))
    }

    /// The range of the subnets' keys.
    pub(super) fn subnets(&self) -> (String, String) {
        (format!("{}/subnets/", self.prefix), format!("{}/subnets0", self.prefix))
    }

    pub(super) fn settings(&self) -> String {
        format!("{}/config", self.prefix)
    }

    pub(super) fn subnet(&self, subnet: &IpNet) -> String {
        format!("{}/subnets/{}-{}", self.prefix, subnet.network(), subnet.prefix_len())
    }

    pub(super) fn name(&self, name: &str) -> String {
        format!("{}/unique/name/{name}", self.prefix)
    }

    pub(super) fn address(&self, address: IpAddr) -> String {
        format!("{}/unique/address/{address}", self.prefix)
    }

    /// What `key` is about; an error says why it is none of ours.
    pub(super) fn parse(&self, key: &str) -> Result<Key, Problem> {
        let rest = key.strip_prefix(&self.prefix).and_then(|rest| rest.strip_prefix('/'));
        match rest.and_then(|rest| rest.split_once('/')) {
            None if rest == Some("config") => Ok(Key::Settings),
            Some(("reservations", subnet)) => parse_subnet(subnet).map(Key::Reservation),
            Some(("subnets", subnet)) => parse_subnet(subnet).map(Key::Subnet),
            _ => Err(Problem::NotOurs),
        }
    }
}

fn parse_subnet(text: &str) -> Result<IpNet, Problem> {
    let net = text
        .rsplit_once('-')
        .and_then(|(address, len)| IpNet::new(address.parse().ok()?, len.parse().ok()?).ok());
    match net {
        // One way to write a subnet, so that two keys are two subnets.
        Some(net) if format!("{}-{}", net.trunc().addr(), net.prefix_len()) == text => Ok(net),
        _ => Err(Problem::NotASubnet),
    }
}

/// The value of the key `config`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Settings {
    #[serde(flatten)]
    pub(super) parameters: Parameters,
    /// Length of a node's IPv4 subnet.
    #[serde(default = "default_len")]
    pub(super) subnet_len: u8,
    /// Length of a node's IPv6 subnet.
    #[serde(default = "default_len_v6")]
    pub(super) subnet_len_v6: u8,
}

pub(super) const fn default_len() -> u8 {
    24
}

pub(super) const fn default_len_v6() -> u8 {
    64
}

impl Settings {
    /// The value of the key.
    pub(super) fn encode(&self) -> Vec<u8> {
        // Numbers and prefixes: nothing that JSON could refuse.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Length of a node's subnet of `network`.
    pub(super) fn len(&self, network: &IpNet) -> u8 {
        match network {
            IpNet::V4(_) => self.subnet_len,
            IpNet::V6(_) => self.subnet_len_v6,
        }
    }

    /// What is wrong with them.
    pub(super) fn fault(&self) -> Option<SettingsFault> {
        if self.parameters.cidrs.is_empty() {
            return Some(SettingsFault::NoNetwork);
        }
        for (index, &network) in self.parameters.cidrs.iter().enumerate() {
            let len = self.len(&network);
            if network.trunc() != network {
                return Some(SettingsFault::HostBits { network });
            }
            if self.parameters.cidrs[..index]
                .iter()
                .any(|other| other.addr().is_ipv4() == network.addr().is_ipv4())
            {
                return Some(SettingsFault::SecondOfFamily { network });
            }
            if len < network.prefix_len() || len > network.max_prefix_len() - 2 {
                return Some(SettingsFault::SubnetLen { len, network });
            }
        }
        (self.parameters.port == 0).then_some(SettingsFault::Port)
    }
}

/// The value of a key in `subnets` and `unique`: who has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Claim {
    /// The owner's name.
    pub(super) node: String,
    /// Tells the owner from another machine of that name.
    pub(super) instance: String,
    #[serde(flatten)]
    pub(super) published: Published,
}

impl Claim {
    /// The value of the key.
    pub(super) fn encode(&self) -> Vec<u8> {
        // Strings, numbers and addresses: nothing that JSON could refuse.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// The value of a key in `reservations`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Reservation {
    /// The node that it is for; for none, if absent.
    #[serde(default)]
    pub(super) node: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_read_back_and_lie_in_the_range_that_is_followed() {
        let keys = Keys::new("/culvert");
        for subnet in ["10.244.1.0/24", "fd00:10:244:1::/64"] {
            let subnet: IpNet = subnet.parse().unwrap();
            assert_eq!(keys.parse(&keys.subnet(&subnet)), Ok(Key::Subnet(subnet)));
            let (first, end) = keys.followed();
            assert!(first <= keys.subnet(&subnet) && keys.subnet(&subnet) < end);
            assert!(keys.name("a") > end && keys.address(subnet.addr()) > end);
        }
        assert_eq!(
            keys.subnet(&"10.244.1.0/24".parse().unwrap()),
            "/culvert/subnets/10.244.1.0-24"
        );
        assert_eq!(keys.parse("/culvert/config"), Ok(Key::Settings));
    }

    #[test]
    fn foreign_keys_are_told_from_ours() {
        let keys = Keys::new("/culvert");
        for key in [
            "/culvert/subnets/10.244.1.7-24",
            "/culvert/subnets/10.244.1.0",
            "/culvert/subnets/10.244.1.0-33",
            "/culvert/subnets/10.244.1.0-024",
            "/culvert/subnets/",
            "/culvert/config/x",
            "/culvert/more",
            "/other",
        ] {
            assert!(keys.parse(key).is_err(), "{key}");
        }
    }

    #[test]
    fn settings_are_checked() {
        let fault = |json: &str| serde_json::from_str::<Settings>(json).unwrap().fault();
        let good = r#"{"cidrs":["10.244.0.0/16","fd00:10:244::/48"],"vni":1,"port":4790}"#;
        assert_eq!(fault(good), None);
        let cases = [
            (good.replace("10.244.0.0/16", "10.244.1.0/16"), "beyond its length"),
            (good.replace("fd00:10:244::/48", "10.245.0.0/16"), "second network"),
            (good.replace("\"vni\"", "\"subnet_len\":8,\"vni\""), "subnet_len = 8"),
            (good.replace("\"vni\"", "\"subnet_len\":31,\"vni\""), "subnet_len = 31"),
            (good.replace("4790", "0"), "not a port"),
        ];
        for (json, part) in cases {
            assert!(fault(&json).is_some_and(|fault| fault.to_string().contains(part)), "{json}");
        }
    }
}
