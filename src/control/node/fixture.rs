//! A dual-stack node, for the unit tests of this module.

use culvert_netlink::{MAIN_TABLE, Route};
use ipnet::IpNet;

use super::NodeSpec;

pub(super) fn spec() -> NodeSpec {
    NodeSpec {
        tun: "culvert0".into(),
        bridge: "v-net-0".into(),
        cluster_networks: vec![net("10.244.0.0/16"), net("fd00:10:244::/48")],
        local_subnets: vec![net("10.244.1.0/24"), net("fd00:10:244:1::/64")],
        mtu: 1464,
        underlay_ports: vec![4790],
        codec_ports: vec![4790, 8472, 8285],
        remote_subnets: [net("10.244.2.0/24"), net("fd00:10:244:2::/64")].into(),
        peers: Vec::new(),
        masquerade: true,
        sealed_only: false,
        narrow_subnets: Vec::new(),
        predecessor: None,
    }
}

/// A route of somebody else to everywhere, by a device with index 7.
pub(super) fn route() -> Route {
    Route {
        destination: net("0.0.0.0/0"),
        table: MAIN_TABLE,
        protocol: 4,
        scope: 253,
        priority: 0,
        link: Some(7),
        gateway: None,
        source: None,
        mtu: None,
        advmss: None,
        direct: true,
    }
}

pub(super) fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}
