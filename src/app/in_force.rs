//! What the daemon goes by: one value, replaced as a whole when all of it is good.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use culvert_dataplane::engine::{Membership, PeerRegistry, SealedMode, Table};
use culvert_dataplane::{Ends, super_packet_limit};
use culvert_node::node_file::{NodeFile, OwnPort};
use ipnet::IpNet;
use overlay_proto::{CodecKind, Protocol, esp};

use super::path_mtus::{Mtus, flows_to_peers};
use super::sealed;
use crate::config::{Config, PolicyMode};
use crate::control::node::{NodeSpec, Predecessor, device_name, narrow_subnets};

/// Peers whose routes tell whether the underlay leads anywhere: if none of so many can be sent to,
/// the reason is here.
const PEERS_ASKED: usize = 64;

/// The nodes with what all of them share, and the MTUs toward them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct InForce {
    pub(super) members: Membership,
    pub(super) mtus: Mtus,
    /// The peers' subnets: they follow from the members, and are asked for again and again.
    remote_subnets: Arc<[IpNet]>,
}

impl InForce {
    pub(super) fn new(members: Membership, mtus: Mtus) -> Self {
        let mut remote_subnets = Vec::with_capacity(members.peer_count());
        for peer in members.peers() {
            remote_subnets.extend_from_slice(&peer.subnets);
        }
        Self { members, mtus, remote_subnets: remote_subnets.into() }
    }

    /// The table that workers decide by; `before` is the one that they have.
    pub(super) fn compile(&self, registry: &PeerRegistry, before: Option<&Table>) -> Table {
        self.mtus.compile(&self.members, registry, before)
    }

    /// What the sockets are bound to.
    pub(super) fn ends(&self, config: &Config) -> Ends {
        let members = &self.members;
        let mut tunnels = match sealed::mode(config) {
            Some(mode) => mode.tunnels(members),
            None => members.tunnels(),
        };
        if self.goes_back(config) {
            tunnels.retain(|tunnel| tunnel.codec != CodecKind::Vxlan);
        }
        Ends {
            address: underlay_address(config, members),
            tunnels,
            is_sealing: sealed::own_port(config, members).is_some(),
        }
    }

    /// Whether this node is to be flannel's again, whose device then has the port of VXLAN.
    pub(super) fn goes_back(&self, config: &Config) -> bool {
        let codec = self.members.local().tunnel_options.codec;
        config.is_from_flannel() && codec == Some(CodecKind::Vxlan)
    }

    /// What the kernel's state should be.
    pub(super) fn spec(&self, config: &Config) -> NodeSpec {
        let members = &self.members;
        // Pods reach no port of another node either, whatever this one listens on.
        let codec_ports = config.underlay.codec_ports().into_iter();
        NodeSpec {
            tun: config.tun.name.clone(),
            bridge: config.bridge.name.clone(),
            cluster_networks: members.overlay().networks.clone(),
            local_subnets: members.local().subnets.clone(),
            mtu: self.mtus.device.get(),
            underlay_ports: self.underlay_ports(config).into_iter().collect(),
            codec_ports: codec_ports.chain(sealed::port(config, members)).collect(),
            remote_subnets: Arc::clone(&self.remote_subnets),
            narrow_subnets: self.narrow_subnets(),
            peers: flows_to_peers(underlay_address(config, members), members)
                .take(PEERS_ASKED)
                .collect(),
            masquerade: config.egress.masquerade,
            sealed_only: sealed::mode(config) == Some(SealedMode::Require),
            predecessor: config.is_from_flannel().then(|| Predecessor {
                device: device_name(config.network.vxlan_vni),
                carries: self.goes_back(config),
            }),
        }
    }

    /// The IPv6 subnets of peers toward which less fits than the device carries.
    fn narrow_subnets(&self) -> Vec<(IpNet, u16)> {
        let has_ipv6 = self.members.overlay().networks.iter().any(|net| net.addr().is_ipv6());
        if !has_ipv6 || self.mtus.are_one() {
            return Vec::new();
        }
        let peers = self.members.peers();
        let peers = peers.map(|peer| (&peer.subnets[..], self.mtus.to(peer.address).get()));
        narrow_subnets(self.mtus.device.get(), peers)
    }

    /// The UDP ports that this node listens on for other nodes.
    fn underlay_ports(&self, config: &Config) -> BTreeSet<u16> {
        let tunnels = self.ends(config).tunnels;
        let sealed = sealed::own_port(config, &self.members);
        tunnels.iter().map(|tunnel| tunnel.port).chain(sealed).collect()
    }

    /// Every port that this node listens on, for other nodes and for who observes it.
    fn own_ports(&self, config: &Config) -> Vec<OwnPort> {
        let observed = config.observe.address.map(|address| address.port());
        let observed = observed.map(|port| OwnPort { protocol: Protocol::Tcp, port });
        let underlay = self.underlay_ports(config).into_iter();
        let underlay = underlay.map(|port| OwnPort { protocol: Protocol::Udp, port });
        observed.into_iter().chain(underlay).collect()
    }

    /// What the plugin is told.
    pub(super) fn node_file(&self, config: &Config) -> NodeFile {
        let headers = self.members.tunnels().into_iter().map(|tunnel| tunnel.codec.header_len());
        let mtu = usize::from(self.mtus.device.get());
        let sealed = sealed::own_port(config, &self.members);
        let sealed = sealed.map(|_port| esp::datagram_len(mtu).saturating_sub(mtu));
        let longest_header = headers.chain(sealed).max().unwrap_or_default();
        NodeFile {
            node: config.node.name.clone(),
            bridge: config.bridge.name.clone(),
            mtu: self.mtus.device.get(),
            gso_max_size: Some(super_packet_limit(self.mtus.device, longest_header)),
            subnets: self.members.local().subnets.clone(),
            cluster_networks: self.members.overlay().networks.clone(),
            masquerade: Some(config.egress.masquerade),
            policy: config.policy.mode == PolicyMode::On,
            own_ports: self.own_ports(config),
        }
    }
}

/// The address that the sockets are bound to.
pub(super) fn underlay_address(config: &Config, members: &Membership) -> IpAddr {
    config.underlay.address.unwrap_or_else(|| members.local().address)
}
