//! The MTUs toward the peers: what the routes say, and the paths that turned out narrower.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use culvert_dataplane::PathClaim;
use culvert_dataplane::engine::{
    Changes, Membership, NodeEntry, PeerRegistry, SealedMode, Table, TunnelOptions, Ways,
};
use culvert_dataplane::platform::{clock, udp};
use culvert_netlink::Flow;
use culvert_node::node_file;
use foldhash::fast::RandomState;
use overlay_proto::{CodecKind, Family, Mtu};

use super::path_questions::PathQuestions;
use super::sealed;
use crate::config::{Config, Underlay};
use crate::control::node::Kernel;

/// Underlay MTU while no route leads to any peer: that of Ethernet.
const ETHERNET_MTU: u16 = 1500;

/// Clusters up to this size have every path asked for each time: that takes 3 ms at most.
const FEW: usize = 256;

/// How often at most all paths of a larger cluster are asked for: ten thousand take 0.1 s.
const RARELY: Duration = Duration::from_secs(10);

/// The underlay carries too little for the overlay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoRoom {
    /// Toward `peer`.
    #[error(
        "the route to {peer} has an MTU of {mtu} bytes, and the overlay needs {least}: raise that of \
         the route or its device"
    )]
    Toward { peer: IpAddr, mtu: u16, least: u16 },
    /// By the configuration.
    #[error("underlay.mtu = {mtu}: the overlay needs {least} bytes")]
    Configured { mtu: u16, least: u16 },
}

/// What is known of the underlay's paths to the peers, in bytes.
#[derive(Debug, Default)]
pub(super) struct PathMtus {
    /// What the configuration says of all of them; the routes are not asked then.
    configured: Option<Mtu>,
    /// The address that the configuration has the sockets bound to, if not that of the table.
    address: Option<IpAddr>,
    /// How strict this node is that seals, if it does.
    sealed: Option<SealedMode>,
    /// By the routes; none for a peer that no route leads to.
    routes: HashMap<IpAddr, Option<u16>, RandomState>,
    asked: Option<Instant>,
    /// The nodes whose routes were asked for.
    asked_for: Option<Membership>,
    revision: u64,
    routes_outdated: bool,
    /// Paths that turned out narrower than their routes.
    narrow: PathQuestions,
    narrow_outdated: bool,
    /// Paths that questions of several lengths have found to be narrower.
    probed: HashMap<IpAddr, u16>,
}

impl PathMtus {
    /// Nothing is known but what the configuration says.
    pub(super) fn new(config: &Config) -> Self {
        let Underlay { mtu, address, .. } = config.underlay;
        Self { configured: mtu, address, sealed: sealed::mode(config), ..Self::default() }
    }

    /// Packets to the peers may leave as `config` says from now on.
    pub(super) fn go_by(&mut self, config: &Config) {
        self.sealed = sealed::mode(config);
    }

    /// Takes note that routes may have changed.
    pub(super) fn outdate(&mut self) {
        self.routes_outdated = true;
        self.narrow.outdate();
    }

    /// Considers what somebody claims of a path. Questions leave from this node's address `from`.
    pub(super) fn on_claim(&mut self, claim: PathClaim, from: IpAddr, members: &Membership) {
        let route = self.route_to(claim.peer);
        self.narrow.on_claim(claim, route, from, members);
    }

    /// Asks the paths again of which it is no longer certain that they are narrow.
    pub(super) fn renew_narrow(&mut self, from: IpAddr, members: &Membership) {
        let peers: HashSet<IpAddr> = members.peers().map(|peer| peer.address).collect();
        self.narrow.retain(|peer| peers.contains(&peer));
        let mut narrow = std::mem::take(&mut self.narrow);
        narrow.renew(|peer| self.route_to(peer), from, members);
        self.narrow = narrow;
    }

    /// Waits until a path turns out narrower, or as wide as its route again.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub(super) async fn changed(&mut self) {
        self.narrow.changed().await;
        self.narrow_outdated = true;
    }

    /// Takes what questions of several lengths have found.
    pub(super) fn set_probed(&mut self, probed: HashMap<IpAddr, u16>) {
        if self.probed != probed {
            self.probed = probed;
            self.narrow_outdated = true;
        }
    }

    /// What the path to `peer` carries, as far as routes and machines on the path say.
    pub(super) fn promised(&self, peer: IpAddr) -> u16 {
        let route = self.route_to(peer);
        self.narrow.mtu(peer).map_or(route, |narrow| narrow.min(route))
    }

    /// Another number whenever more may be known of the path to a peer that was there before.
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    /// Where what is known of paths comes from, as far as it is not their routes.
    pub(super) fn origins(&self) -> HashMap<IpAddr, MtuOrigin> {
        let peers = self.narrow.peers().chain(self.probed.keys().copied());
        let origins = peers.map(|peer| (peer, self.origin(peer)));
        origins.filter(|(_, origin)| *origin != MtuOrigin::Route).collect()
    }

    fn origin(&self, peer: IpAddr) -> MtuOrigin {
        let (promised, route) = (self.promised(peer), self.route_to(peer));
        match self.probed.get(&peer) {
            Some(probed) if *probed < promised => MtuOrigin::Probed,
            _ if promised < route => MtuOrigin::Icmp,
            _ => MtuOrigin::Route,
        }
    }

    /// What the route to `peer` promises, as far as it is known.
    fn route_to(&self, peer: IpAddr) -> u16 {
        let configured = self.configured.map_or(ETHERNET_MTU, Mtu::get);
        self.routes.get(&peer).copied().flatten().unwrap_or(configured)
    }

    /// Asks for what is not known, or for everything if that may have changed and it is time, and
    /// says what follows for the nodes `members`.
    ///
    /// # Errors
    ///
    /// The kernel cannot be asked, or there is [`NoRoom`] for the overlay.
    pub(super) async fn measure(
        &mut self,
        members: &Membership,
        kernel: &Kernel,
    ) -> anyhow::Result<Mtus> {
        if self.configured.is_none() {
            self.ask_routes(members, kernel, clock::now()).await?;
        }
        Ok(self.conclude(members)?)
    }

    /// The same if it may tell something new.
    ///
    /// # Errors
    ///
    /// As [`measure`](Self::measure).
    pub(super) async fn remeasure(
        &mut self,
        members: &Membership,
        kernel: &Kernel,
    ) -> anyhow::Result<Option<Mtus>> {
        // One that failed to be asked for is not there.
        let routes_settled = self.configured.is_some()
            || (!self.should_ask_all(members, clock::now())
                && self.routes.len() >= members.peer_count());
        if routes_settled && !self.narrow_outdated {
            return Ok(None);
        }
        let mtus = self.measure(members, kernel).await?;
        self.revision += 1;
        self.narrow_outdated = false;
        Ok(Some(mtus))
    }

    fn should_ask_all(&self, members: &Membership, now: Instant) -> bool {
        let due = self.asked.is_none_or(|asked| now.saturating_duration_since(asked) >= RARELY);
        members.peer_count() <= FEW || (self.routes_outdated && due)
    }

    async fn ask_routes(
        &mut self,
        members: &Membership,
        kernel: &Kernel,
        now: Instant,
    ) -> anyhow::Result<()> {
        if self.should_ask_all(members, now) {
            self.routes.clear();
            self.asked_for = None;
            self.revision += 1;
            self.routes_outdated = false;
            self.asked = Some(now);
        }
        let own = self.address.unwrap_or_else(|| members.local().address);
        let unknown: Vec<Flow> = match &self.asked_for {
            Some(before) => {
                let Changes { left, came } = members.changes(before);
                for node in left {
                    self.routes.remove(&node.address);
                }
                let came = came.iter().filter(|node| node.name != members.local().name);
                came.map(|peer| flow_to(own, peer, members)).collect()
            }
            None => flows_to_peers(own, members).collect(),
        };
        if !unknown.is_empty() {
            // If the kernel does not answer, all are asked for the next time.
            self.asked_for = None;
            let found = kernel.path_mtu(unknown.clone()).await?;
            self.routes.extend(unknown.into_iter().map(|flow| (flow.destination, None)));
            let found = found.map(|found| found.per_peer).unwrap_or_default();
            self.routes.extend(found.into_iter().map(|(address, mtu)| (address, Some(mtu))));
        }
        self.asked_for = Some(members.clone());
        Ok(())
    }

    /// What follows from what is known, without asking.
    ///
    /// # Errors
    ///
    /// There is no room for the overlay.
    pub(super) fn conclude(&self, members: &Membership) -> Result<Mtus, NoRoom> {
        let family = Family::of(members.local().address);
        let way_to = |peer: &NodeEntry| {
            let TunnelOptions { codec, keys, .. } = peer.tunnel_options;
            let sealed = self.sealed.filter(|_| members.local().tunnel_options.codec.is_none());
            let ways = sealed.map_or(Ways::Plain, |mode| mode.ways(!keys.is_empty(), codec));
            (ways, members.tunnel_to(peer).codec)
        };
        let inner = |underlay: u16, (ways, codec): (Ways, CodecKind)| {
            ways.mtu(codec, Mtu::new(u32::from(underlay)).ok()?, family)
        };
        let least = |(ways, codec): (Ways, CodecKind)| ways.least_underlay(codec, family);
        let smallest = match self.configured {
            Some(mtu) => mtu.get(),
            None => self.routes.values().flatten().min().copied().unwrap_or(ETHERNET_MTU),
        };
        let mut device: Option<Mtu> = None;
        let mut rooms = Vec::with_capacity(members.peer_count());
        for peer in members.peers() {
            let way = way_to(peer);
            let path = self.routes.get(&peer.address).copied().flatten().unwrap_or(smallest);
            let room = inner(path, way).ok_or_else(|| self.no_room(path, least(way)))?;
            device = Some(device.map_or(room, |least| least.min(room)));
            rooms.push(room);
        }
        let device = match device {
            Some(device) => device,
            None => {
                // As toward one that would be as this one.
                let own = way_to(members.local());
                inner(smallest, own).ok_or_else(|| self.no_room(smallest, least(own)))?
            }
        };
        let usual = most_frequent(&rooms).unwrap_or(device);
        let mut to = HashMap::default();
        for (peer, room) in members.peers().zip(rooms) {
            // No network carries less than the overlay needs: a machine that says so is not
            // believed.
            let found = [self.narrow.mtu(peer.address), self.probed.get(&peer.address).copied()];
            let found = found.into_iter().flatten().min();
            let found = found.and_then(|mtu| inner(mtu, way_to(peer)));
            let room = found.map_or(room, |narrow| narrow.min(room));
            if room != usual {
                to.insert(peer.address, room);
            }
        }
        Ok(Mtus { device, usual, to })
    }

    /// Where `mtu` comes from, which is less than `least`.
    fn no_room(&self, mtu: u16, least: u16) -> NoRoom {
        let narrow = self.routes.iter().filter(|(_peer, found)| **found == Some(mtu));
        match narrow.map(|(peer, _)| *peer).min() {
            Some(peer) => NoRoom::Toward { peer, mtu, least },
            None => NoRoom::Configured { mtu, least },
        }
    }
}

/// How it is known what a path carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MtuOrigin {
    /// By the route, or the configuration.
    Route,
    /// A machine on the path has said so, when it was asked.
    Icmp,
    /// By what got there and what did not.
    Probed,
}

impl MtuOrigin {
    /// The word in status.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Route => "route",
            Self::Icmp => "icmp",
            Self::Probed => "probed",
        }
    }
}

/// Datagrams to all peers as the sockets, bound to `own`, send them: rules may choose a route by
/// any of this.
pub(super) fn flows_to_peers(own: IpAddr, members: &Membership) -> impl Iterator<Item = Flow> {
    members.peers().map(move |peer| flow_to(own, peer, members))
}

fn flow_to(own: IpAddr, peer: &NodeEntry, members: &Membership) -> Flow {
    Flow {
        source: Some(own),
        udp_port: Some(members.tunnel_to(peer).port),
        mark: udp::SOCKET_MARK,
        ..Flow::to(peer.address)
    }
}

/// MTUs of inner packets: of the devices, and toward each peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mtus {
    /// The smallest toward any peer.
    pub(super) device: Mtu,
    /// The one toward most peers.
    usual: Mtu,
    /// Toward peers that have another.
    to: HashMap<IpAddr, Mtu, RandomState>,
}

/// There are as many different ones as there are kinds of underlay: a few.
fn most_frequent(mtus: &[Mtu]) -> Option<Mtu> {
    let mut counts: Vec<(Mtu, usize)> = Vec::new();
    for mtu in mtus {
        match counts.iter_mut().find(|(counted, _)| counted == mtu) {
            Some((_, count)) => *count += 1,
            None => counts.push((*mtu, 1)),
        }
    }
    counts.into_iter().max_by_key(|(mtu, count)| (*count, *mtu)).map(|(mtu, _)| mtu)
}

impl Mtus {
    /// Compiles `members` with these MTUs; `before` is the table until now.
    pub(super) fn compile(
        &self,
        members: &Membership,
        registry: &PeerRegistry,
        before: Option<&Table>,
    ) -> Table {
        let subnets = &members.local().subnets;
        let routers = subnets.iter().map(|subnet| node_file::gateway(subnet).addr()).collect();
        Table::compile_after(before, members, routers, |peer| self.to(peer), registry)
    }

    /// Whether the one toward each peer is that of the devices.
    pub(super) fn are_one(&self) -> bool {
        self.to.is_empty() && self.usual == self.device
    }

    /// The one toward `peer`.
    pub(super) fn to(&self, peer: IpAddr) -> Mtu {
        self.to.get(&peer).copied().unwrap_or(self.usual)
    }
}
