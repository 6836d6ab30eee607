//! From the list of nodes to the table that workers decide by, MTUs included.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use culvert_cni::node_file;
use foldhash::fast::RandomState;
use overlay_proto::{CodecKind, Family, Mtu};

use crate::config::Config;
use crate::control::narrow_paths::NarrowPaths;
use crate::control::node::{NodeSpec, Reconciler};
use crate::engine::{Membership, PeerRegistry, Table};
use crate::platform::clock;

/// Underlay MTU while no route leads to any peer: that of Ethernet.
const ETHERNET_MTU: u16 = 1500;

/// Clusters up to this size have every path asked for each time: that takes 3 ms at most.
const FEW: usize = 256;

/// How often at most all paths of a larger cluster are asked for: ten thousand take 0.1 s.
const RARELY: Duration = Duration::from_secs(10);

/// The underlay MTUs, in bytes, of the routes to the peers, as they were last asked for.
#[derive(Debug, Default)]
pub(super) struct Paths {
    /// None for a peer that no route leads to.
    known: HashMap<IpAddr, Option<u16>, RandomState>,
    asked: Option<Instant>,
    outdated: bool,
}

impl Paths {
    /// Takes note that routes may have changed.
    pub(super) fn outdate(&mut self) {
        self.outdated = true;
    }

    /// Whether everything is to be asked for again.
    fn should_ask_all(&self, members: &Membership, now: Instant) -> bool {
        let due = self.asked.is_none_or(|asked| now.saturating_duration_since(asked) >= RARELY);
        members.peer_count() <= FEW || (self.outdated && due)
    }

    /// The underlay MTU that the route to `peer` promises, as far as it is known.
    pub(super) fn to(&self, peer: IpAddr, config: &Config) -> u16 {
        let configured = config.underlay.mtu.map_or(ETHERNET_MTU, |mtu| mtu.get());
        self.known.get(&peer).copied().flatten().unwrap_or(configured)
    }

    /// Whether asking would tell nothing new.
    pub(super) fn is_settled(&self, members: &Membership, now: Instant) -> bool {
        // One that failed to be asked for is not there.
        !self.should_ask_all(members, now) && self.known.len() >= members.peer_count()
    }

    /// Asks for what is not known, or for everything if that may have changed and it is time.
    async fn refresh(
        &mut self,
        members: &Membership,
        kernel: &mut Reconciler,
        now: Instant,
    ) -> anyhow::Result<()> {
        if self.should_ask_all(members, now) {
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
        if self.known.len() > members.peer_count() {
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
        narrow: &NarrowPaths,
        kernel: &mut Reconciler,
    ) -> anyhow::Result<Self> {
        if config.underlay.mtu.is_none() {
            paths.refresh(members, kernel, clock::now()).await?;
        }
        Self::conclude(config, members, paths, narrow)
    }

    fn conclude(
        config: &Config,
        members: &Membership,
        paths: &Paths,
        narrow: &NarrowPaths,
    ) -> anyhow::Result<Self> {
        let family = Family::of(members.local().address);
        let inner = |underlay: u16, codec: CodecKind| {
            let mtu = Mtu::new(u32::from(underlay)).ok()?;
            mtu.shrink(codec.overhead(family))
        };
        let smallest = match config.underlay.mtu {
            Some(mtu) => mtu.get(),
            None => paths.known.values().flatten().min().copied().unwrap_or(ETHERNET_MTU),
        };
        let no_room = |underlay: u16| {
            anyhow::anyhow!(
                "an underlay MTU of {underlay} bytes leaves no room for the overlay; raise it, or set \
                 underlay.mtu"
            )
        };
        let mut device: Option<Mtu> = None;
        let mut rooms = Vec::with_capacity(members.peer_count());
        for peer in members.peers() {
            let codec = members.tunnel_to(peer).codec;
            let path = paths.known.get(&peer.address).copied().flatten().unwrap_or(smallest);
            let room = inner(path, codec).ok_or_else(|| no_room(path))?;
            device = Some(device.map_or(room, |least| least.min(room)));
            rooms.push(room);
        }
        let device = match device {
            Some(device) => device,
            None => inner(smallest, own_codec(members)).ok_or_else(|| no_room(smallest))?,
        };
        let mut to = HashMap::new();
        for (peer, room) in members.peers().zip(rooms) {
            // No network carries less than the overlay needs: who says so is not believed.
            let found = narrow.mtu(peer.address);
            let found = found.and_then(|mtu| inner(mtu, members.tunnel_to(peer).codec));
            let room = found.map_or(room, |narrow| narrow.min(room));
            if room != device {
                to.insert(peer.address, room);
            }
        }
        Ok(Self { device, to })
    }

    /// What they are where no route can be asked: by the configuration, else those of Ethernet.
    ///
    /// # Errors
    ///
    /// The underlay carries too little for the overlay.
    pub(super) fn assume(config: &Config, members: &Membership) -> anyhow::Result<Self> {
        Self::conclude(config, members, &Paths::default(), &NarrowPaths::default())
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
