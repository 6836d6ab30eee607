//! Ports of the node that lead to a pod.
//!
//! Owns what a pod has of them, the file that says so for as long as the pod runs, the nftables
//! table that does the work, and entering and leaving it. The table is there once a pod has wanted
//! a port; nothing of this costs a pod anything that wants none. The plugin writes the file before
//! the rules, and the daemon puts rules back by the files. Never decides which port a pod may have:
//! the first who has one keeps it.

mod change;
mod file;
mod rules;

use std::fmt;
use std::net::IpAddr;

use culvert_nft::TableFamily;
use overlay_proto::Protocol;
use serde::{Deserialize, Serialize};

pub use self::change::{Taken, Wanted, enter, is_right, leave};
pub use self::file::{all, forget, remember, remembered};
pub use self::rules::table;

/// Family of the table.
pub const FAMILY: TableFamily = TableFamily::Inet;

/// Name of the table.
pub const TABLE: &str = "culvert-host-ports";

/// Most ports of one pod: what one transaction and one file hold with ease.
pub const MAX_PORTS: usize = 1024;

/// A port of the node, and the pod's behind it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HostPort {
    /// The protocol of both.
    #[serde(with = "crate::protocol")]
    pub protocol: Protocol,
    /// The node's address, if not any of them. One that is unspecified means any of its family.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
    /// The node's port.
    pub host_port: u16,
    /// The pod's port.
    pub container_port: u16,
}

impl HostPort {
    /// Whether it leads to the address that is `of` one family.
    fn leads_to(&self, of: IpAddr) -> bool {
        self.host_ip.is_none_or(|host| host.is_ipv4() == of.is_ipv4())
    }

    /// The one address of the node that it is about.
    fn single_address(&self) -> Option<IpAddr> {
        self.host_ip.filter(|address| !address.is_unspecified())
    }

    /// Whether processes of the node reach it by 127.0.0.1.
    #[must_use]
    pub fn is_at_localhost(&self) -> bool {
        self.host_ip.is_none_or(|address| {
            address.is_ipv4() && (address.is_loopback() || address.is_unspecified())
        })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (port, protocol) = (self.host_port, self.protocol.as_str());
        match self.host_ip {
            Some(address) => {
                write!(formatter, "{}/{protocol}", std::net::SocketAddr::new(address, port))
            }
            None => write!(formatter, "{port}/{protocol}"),
        }
    }
}

/// What a pod has of the node's ports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodPorts {
    /// The node's end of the pod's cable, after which file and rules are called.
    pub device: String,
    /// The pod's address of each family that it has.
    pub addresses: Vec<IpAddr>,
    /// The ports, in their order and each once.
    pub ports: Vec<HostPort>,
}

impl PodPorts {
    /// Whether processes of the node reach one of the ports by 127.0.0.1.
    #[must_use]
    pub fn are_at_localhost(&self) -> bool {
        let has_ipv4 = self.addresses.iter().any(IpAddr::is_ipv4);
        has_ipv4 && self.ports.iter().any(HostPort::is_at_localhost)
    }
}

/// A pod with ports, for the tests of this crate.
#[cfg(test)]
pub(crate) fn example() -> PodPorts {
    let port = |protocol, host_ip: Option<&str>, host_port, container_port| HostPort {
        protocol,
        host_ip: host_ip.map(|address| address.parse().unwrap()),
        host_port,
        container_port,
    };
    PodPorts {
        device: "culv9597bc6a7ab".to_owned(),
        addresses: ["10.244.1.2", "fd00:1::2"].map(|address| address.parse().unwrap()).into(),
        ports: vec![
            port(Protocol::Tcp, None, 8080, 80),
            port(Protocol::Udp, Some("192.168.1.11"), 53, 5353),
            port(Protocol::Sctp, Some("fd00::11"), 3868, 3868),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_is_shown_as_people_write_it() {
        let shown: Vec<String> = example().ports.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["8080/tcp", "192.168.1.11:53/udp", "[fd00::11]:3868/sctp"]);
    }

    #[test]
    fn localhost_is_any_address_or_one_of_ipv4_for_a_pod_with_ipv4() {
        let at = |host_ip: Option<&str>| {
            let host_ip = host_ip.map(|address| address.parse().unwrap());
            let ports = vec![HostPort { host_ip, ..example().ports[0].clone() }];
            PodPorts { ports, ..example() }
        };
        for address in [None, Some("0.0.0.0"), Some("127.0.0.1")] {
            assert!(at(address).are_at_localhost(), "{address:?}");
            let ipv6 = PodPorts { addresses: vec!["fd00:1::2".parse().unwrap()], ..at(address) };
            assert!(!ipv6.are_at_localhost());
        }
        for address in ["192.168.1.11", "::", "::1"] {
            assert!(!at(Some(address)).are_at_localhost(), "{address}");
        }
    }
}
