//! From the list of nodes to the table that workers decide by, MTUs included.

use std::collections::HashMap;
use std::net::IpAddr;

use culvert_cni::node_file;
use overlay_proto::{Codec, Family, Mtu};

use crate::config::Config;
use crate::control::node::{NodeSpec, Reconciler};
use crate::engine::{Membership, Overlay, PeerRegistry, Table};

/// Underlay MTU while no route leads to any peer: that of Ethernet.
const ETHERNET_MTU: u16 = 1500;

/// What all nodes share, by the configuration.
pub(super) fn overlay(config: &Config) -> Overlay {
    Overlay {
        vni: config.network.vni,
        networks: config.network.cidrs.clone(),
        port: config.underlay.port,
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
        let overhead = Codec::default().overhead(Family::of(members.local().address));
        let inner =
            |underlay: u16| Mtu::new(u32::from(underlay)).ok().and_then(|mtu| mtu.shrink(overhead));
        let routes = match config.underlay.mtu {
            Some(_) => None,
            None => kernel.path_mtu(members.peers().map(|peer| peer.address)).await?,
        };
        let smallest = match (config.underlay.mtu, &routes) {
            (Some(mtu), _) => mtu.get(),
            (None, Some(routes)) => routes.smallest,
            (None, None) => ETHERNET_MTU,
        };
        let device = inner(smallest).ok_or_else(|| {
            anyhow::anyhow!(
                "an underlay MTU of {smallest} bytes leaves no room for the overlay; raise it, or set \
                 underlay.mtu"
            )
        })?;
        // A path that claims to carry less than the overlay needs is not believed: anybody on the
        // way can say so.
        let mut to: HashMap<IpAddr, Mtu> = routes
            .map(|routes| routes.per_peer)
            .unwrap_or_default()
            .into_iter()
            .filter_map(|(address, mtu)| Some((address, inner(mtu)?)))
            .collect();
        for (address, mtu) in narrow {
            if let Some(mtu) = inner(*mtu) {
                let known = to.entry(*address).or_insert(device);
                *known = mtu.min(*known);
            }
        }
        Ok(Self { device, to })
    }

    /// Compiles `members` with these MTUs.
    pub(super) fn compile(&self, members: &Membership, registry: &PeerRegistry) -> Table {
        let subnets = &members.local().subnets;
        let routers = subnets.iter().map(|subnet| node_file::gateway(subnet).addr()).collect();
        let mtu_to = |peer| self.to.get(&peer).copied().unwrap_or(self.device);
        Table::compile(members, routers, mtu_to, registry)
    }
}

/// What the kernel's state should be.
pub(super) fn node_spec(config: &Config, members: &Membership, mtus: &Mtus) -> NodeSpec {
    NodeSpec {
        tun: config.tun.name.clone(),
        bridge: config.bridge.name.clone(),
        cluster_networks: config.network.cidrs.clone(),
        local_subnets: members.local().subnets.clone(),
        mtu: mtus.device.get(),
        underlay_ports: vec![config.underlay.port],
        masquerade: config.egress.masquerade,
    }
}
