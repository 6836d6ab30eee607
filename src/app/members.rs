//! From the list of nodes to the table that workers decide by, MTUs included.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use culvert_cni::node_file;
use overlay_proto::{CodecKind, Family, Mtu};

use crate::config::Config;
use crate::control::node::{NodeSpec, PathMtu, Reconciler};
use crate::engine::{Foreign, Membership, Overlay, PeerRegistry, Table};

/// Underlay MTU while no route leads to any peer: that of Ethernet.
const ETHERNET_MTU: u16 = 1500;

/// What all nodes share, by the configuration.
pub(super) fn overlay(config: &Config) -> Overlay {
    Overlay {
        vni: config.network.vni,
        networks: config.network.cidrs.clone(),
        port: config.underlay.port,
        foreign: Foreign {
            vxlan_vni: config.network.vxlan_vni,
            vxlan_port: config.underlay.vxlan_port,
            ip_udp_port: config.underlay.ip_udp_port,
        },
    }
}

/// Underlay MTUs, in bytes, toward peers whose path turned out narrower than its route.
pub(super) type Narrow = HashMap<IpAddr, u16>;

/// MTUs of inner packets: of the devices, and toward each peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mtus {
    /// The smallest toward any peer.
    pub(super) device: Mtu,
    to: HashMap<IpAddr, Mtu>,
}

impl Mtus {
    /// Asks the routes to the peers, and what is known of paths that turned out narrower (`narrow`).
    ///
    /// # Errors
    ///
    /// The kernel cannot be asked, or the underlay carries too little for the overlay.
    pub(super) async fn measure(
        config: &Config,
        members: &Membership,
        narrow: &Narrow,
        kernel: &mut Reconciler,
    ) -> anyhow::Result<Self> {
        let routes = match config.underlay.mtu {
            Some(_) => None,
            None => kernel.path_mtu(members.peers().map(|peer| peer.address)).await?,
        };
        Self::conclude(config, members, narrow, routes)
    }

    fn conclude(
        config: &Config,
        members: &Membership,
        narrow: &Narrow,
        routes: Option<PathMtu>,
    ) -> anyhow::Result<Self> {
        let family = Family::of(members.local().address);
        let inner = |underlay: u16, codec: CodecKind| {
            let mtu = Mtu::new(u32::from(underlay)).ok()?;
            mtu.shrink(codec.overhead(family))
        };
        let smallest = match (config.underlay.mtu, &routes) {
            (Some(mtu), _) => mtu.get(),
            (None, Some(routes)) => routes.smallest,
            (None, None) => ETHERNET_MTU,
        };
        let routes: HashMap<IpAddr, u16> =
            routes.map(|routes| routes.per_peer).unwrap_or_default().into_iter().collect();
        let no_room = |underlay: u16| {
            anyhow::anyhow!(
                "an underlay MTU of {underlay} bytes leaves no room for the overlay; raise it, or set \
                 underlay.mtu"
            )
        };
        let mut device: Option<Mtu> = None;
        let mut to = HashMap::new();
        for peer in members.peers() {
            let codec = members.tunnel_to(peer).codec;
            let path = routes.get(&peer.address).copied().unwrap_or(smallest);
            let room = inner(path, codec).ok_or_else(|| no_room(path))?;
            device = Some(device.map_or(room, |least| least.min(room)));
            // A path that claims to carry less than the overlay needs is not believed: anybody on
            // the way can say so.
            let found = narrow.get(&peer.address).and_then(|mtu| inner(*mtu, codec));
            to.insert(peer.address, found.map_or(room, |narrow| narrow.min(room)));
        }
        let device = match device {
            Some(device) => device,
            None => inner(smallest, own_codec(members)).ok_or_else(|| no_room(smallest))?,
        };
        Ok(Self { device, to })
    }

    /// What they are where no route can be asked: by the configuration, else those of Ethernet.
    ///
    /// # Errors
    ///
    /// The underlay carries too little for the overlay.
    pub(super) fn assume(config: &Config, members: &Membership) -> anyhow::Result<Self> {
        Self::conclude(config, members, &Narrow::new(), None)
    }

    /// Compiles `members` with these MTUs.
    pub(super) fn compile(&self, members: &Membership, registry: &PeerRegistry) -> Table {
        let subnets = &members.local().subnets;
        let routers = subnets.iter().map(|subnet| node_file::gateway(subnet).addr()).collect();
        let mtu_to = |peer| self.to.get(&peer).copied().unwrap_or(self.device);
        Table::compile(members, routers, mtu_to, registry)
    }
}

/// What this node speaks unless a peer cannot.
fn own_codec(members: &Membership) -> CodecKind {
    members.local().speech.codec.unwrap_or_default()
}

/// Bytes of the longest header that a tunnel of this node has.
pub(super) fn longest_header(members: &Membership) -> usize {
    let headers = members.tunnels().into_iter().map(|tunnel| tunnel.codec.header_len());
    headers.max().unwrap_or_default()
}

/// Every UDP port that tunnels of this node have, in ascending order.
pub(super) fn ports(members: &Membership) -> Vec<u16> {
    let ports: BTreeSet<u16> = members.tunnels().iter().map(|tunnel| tunnel.port).collect();
    ports.into_iter().collect()
}

/// What the kernel's state should be.
pub(super) fn node_spec(config: &Config, members: &Membership, mtus: &Mtus) -> NodeSpec {
    NodeSpec {
        tun: config.tun.name.clone(),
        bridge: config.bridge.name.clone(),
        cluster_networks: config.network.cidrs.clone(),
        local_subnets: members.local().subnets.clone(),
        mtu: mtus.device.get(),
        underlay_ports: ports(members),
        masquerade: config.egress.masquerade,
    }
}
