//! From the list of nodes to the table that workers decide by, MTUs included.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use culvert_cni::node_file;
use overlay_proto::{Codec, Family, Mtu};

use crate::config::Config;
use crate::control::node::{NodeSpec, Reconciler};
use crate::engine::{Membership, PeerRegistry, Table};
use crate::platform::clock;

/// Underlay MTU while no route leads to any peer: that of Ethernet.
const ETHERNET_MTU: u16 = 1500;

/// Clusters up to this size have every path asked for each time: that takes 3 ms at most.
const FEW: usize = 256;

/// How often at most all paths of a larger cluster are asked for: ten thousand take 0.1 s.
const RARELY: Duration = Duration::from_secs(10);

/// Underlay MTUs, in bytes, toward peers whose path turned out narrower than its route.
pub(super) type Narrow = HashMap<IpAddr, u16>;

/// The underlay MTUs, in bytes, of the routes to the peers, as they were last asked for.
#[derive(Debug, Default)]
pub(super) struct Paths {
    /// None for a peer that no route leads to.
    known: HashMap<IpAddr, Option<u16>>,
    asked: Option<Instant>,
    outdated: bool,
}

impl Paths {
    /// Takes note that routes may have changed.
    pub(super) fn outdate(&mut self) {
        self.outdated = true;
    }

    /// Asks for what is not known, or for everything if that may have changed and it is time.
    async fn refresh(
        &mut self,
        members: &Membership,
        kernel: &mut Reconciler,
        now: Instant,
    ) -> anyhow::Result<()> {
        let few = members.peers().nth(FEW).is_none();
        let due = self.asked.is_none_or(|asked| now.saturating_duration_since(asked) >= RARELY);
        if few || (self.outdated && due) {
            self.known.clear();
            self.outdated = false;
            self.asked = Some(now);
        }
        let unknown: Vec<IpAddr> = members
            .peers()
            .map(|peer| peer.address)
            .filter(|address| !self.known.contains_key(address))
            .collect();
        if !unknown.is_empty() {
            let found = kernel.path_mtu(unknown.iter().copied()).await?;
            self.known.extend(unknown.into_iter().map(|address| (address, None)));
            let found = found.map(|found| found.per_peer).unwrap_or_default();
            self.known.extend(found.into_iter().map(|(address, mtu)| (address, Some(mtu))));
        }
        // Only peers come into the map, so that it is longer exactly when one of them has gone.
        if self.known.len() > members.peers().count() {
            let present: HashSet<IpAddr> = members.peers().map(|peer| peer.address).collect();
            self.known.retain(|address, _| present.contains(address));
        }
        Ok(())
    }
}

/// MTUs of inner packets: of the devices, and toward each peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mtus {
    /// The smallest toward any peer.
    pub(super) device: Mtu,
    /// Toward peers that have another.
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
        paths: &mut Paths,
        narrow: &Narrow,
        kernel: &mut Reconciler,
    ) -> anyhow::Result<Self> {
        let overhead = Codec::default().overhead(Family::of(members.local().address));
        let inner =
            |underlay: u16| Mtu::new(u32::from(underlay)).ok().and_then(|mtu| mtu.shrink(overhead));
        if config.underlay.mtu.is_none() {
            paths.refresh(members, kernel, clock::now()).await?;
        }
        let smallest = match config.underlay.mtu {
            Some(mtu) => mtu.get(),
            None => paths.known.values().flatten().min().copied().unwrap_or(ETHERNET_MTU),
        };
        let device = inner(smallest).ok_or_else(|| {
            anyhow::anyhow!(
                "an underlay MTU of {smallest} bytes leaves no room for the overlay; raise it, or set \
                 underlay.mtu"
            )
        })?;
        // A path that claims to carry less than the overlay needs is not believed: anybody on the
        // way can say so.
        let mut to: HashMap<IpAddr, Mtu> = paths
            .known
            .iter()
            .filter(|(_, mtu)| mtu.is_some_and(|mtu| mtu != smallest))
            .filter_map(|(address, mtu)| Some((*address, inner((*mtu)?)?)))
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
        underlay_port: config.underlay.port,
        masquerade: config.egress.masquerade,
    }
}
