//! A simulated node: the daemon's engine and data path over in-memory devices, and as much of a
//! kernel as decides where packets go next.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use culvert_dataplane::engine::{DropReason, Engine, Membership, PeerRegistry, Table};
use culvert_dataplane::platform::tun::Offload;
use culvert_dataplane::{
    Egress, Env, Ingress, MemoryTrain, Notice, Notices, Round, WorkerCounters,
};
use ipnet::IpNet;
use overlay_proto::{Codec, Ecn, Family, Mtu};
use tokio::sync::mpsc::Receiver;

use crate::cluster::{Cluster, name, router};
use crate::network::Network;
use crate::packet::Read;
use crate::ports::{Fates, Sent, Tun, Underlay};

/// Where a datagram really came from, whatever its outer source says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Emitter {
    Node(usize),
    Stranger,
}

/// One datagram on its way.
#[derive(Clone, Debug)]
pub(crate) struct Flight {
    pub(crate) bytes: Vec<u8>,
    pub(crate) emitter: Emitter,
    /// The packet's account, if it has one.
    pub(crate) number: Option<u32>,
}

/// Datagrams that arrive together: all as long as the first, but for a shorter last.
#[derive(Clone, Debug)]
pub(crate) struct Arrival {
    pub(crate) source: IpAddr,
    pub(crate) ecn: u8,
    pub(crate) flights: Vec<Flight>,
}

/// The part of the kernel that outlives the daemon.
#[derive(Debug, Default)]
pub(crate) struct Kernel {
    /// Subnets that have a bridge here.
    pub(crate) bridges: Vec<IpNet>,
    /// Path MTUs learned, by underlay address.
    pub(crate) path_mtu: BTreeMap<IpAddr, u16>,
}

pub(crate) struct Node {
    pub(crate) id: usize,
    pub(crate) offload: Offload,
    pub(crate) kernel: Kernel,
    pub(crate) daemon: Option<Daemon>,
    /// Whether it should be up; it cannot be while no table has it.
    pub(crate) wanted: bool,
    /// What waits in the TUN queue and in the socket.
    pub(crate) reads: Vec<Read>,
    pub(crate) arrivals: Vec<Arrival>,
    pub(crate) awake: bool,
}

pub(crate) struct Daemon {
    /// Which version of the table it has taken.
    pub(crate) version: usize,
    /// Path MTUs as its control has read them, by node.
    pub(crate) path_mtu: BTreeMap<usize, u16>,
    pub(crate) tun: Tun,
    pub(crate) underlay: Underlay,
    pub(crate) started: Duration,
    /// Answers to pods: sent, and tried.
    pub(crate) replies: u64,
    pub(crate) tries: u64,
    /// What its counters must say.
    pub(crate) drops: BTreeMap<&'static str, u64>,
    pub(crate) traffic: BTreeMap<String, [u64; 2]>,
    engine: Engine,
    egress: Egress,
    ingress: Ingress,
    table: Table,
    registry: PeerRegistry,
    counters: WorkerCounters,
    notices: Notices,
    noticed: Receiver<Notice>,
}

impl Node {
    pub(crate) fn new(id: usize, offload: Offload) -> Self {
        Self {
            id,
            offload,
            kernel: Kernel::default(),
            daemon: None,
            wanted: true,
            reads: Vec::new(),
            arrivals: Vec::new(),
            awake: false,
        }
    }

    /// Takes a version of the table, starting the daemon if it is wanted and down. Says whether it
    /// was taken.
    pub(crate) fn take_table(
        &mut self,
        cluster: &Cluster,
        version: usize,
        (now, instant): (Duration, Instant),
    ) -> Result<bool, String> {
        let newer = self.daemon.as_ref().is_none_or(|daemon| daemon.version < version);
        if !self.wanted || !newer {
            return Ok(false);
        }
        let nodes = cluster.versions[version].nodes.clone();
        let checked = Membership::check(cluster.overlay.clone(), &name(self.id), nodes);
        let members = match (checked, cluster.versions[version].broken) {
            (Ok(members), false) => members,
            (Err(_), true) => return Ok(false),
            // A table without this node is refused as well; the old one stays in force.
            (Err(_), false) if cluster.versions[version].entry(self.id).is_none() => {
                return Ok(false);
            }
            (Ok(_), true) => {
                return Err(format!("version {version} was taken in spite of its mistake"));
            }
            (Err(error), false) => return Err(format!("version {version} was refused: {error}")),
        };
        let registry = self.daemon.as_mut().map(|daemon| std::mem::take(&mut daemon.registry));
        let registry = registry.unwrap_or_default();
        let paths = self.read_paths(cluster);
        let table = compile(cluster, &members, &paths, &registry);
        match &mut self.daemon {
            Some(daemon) => {
                daemon.version = version;
                daemon.path_mtu = paths;
                daemon.table = table;
                daemon.registry = registry;
            }
            None => {
                let (notices, noticed) = Notices::new();
                let mut egress = Egress::new();
                if self.offload == Offload::None {
                    egress.without_trains();
                }
                let headers = if cluster.v6_underlay { 48 } else { 28 };
                let path_mtu = self.kernel.path_mtu.clone();
                self.daemon = Some(Daemon {
                    version,
                    path_mtu: paths,
                    tun: Tun::default(),
                    underlay: Underlay::new(headers, path_mtu),
                    started: now,
                    replies: 0,
                    tries: 0,
                    drops: BTreeMap::new(),
                    traffic: BTreeMap::new(),
                    engine: Engine::new(instant),
                    egress,
                    ingress: Ingress::new(self.offload),
                    table,
                    registry,
                    counters: WorkerCounters::default(),
                    notices,
                    noticed,
                });
            }
        }
        Ok(true)
    }

    /// Control reads the kernel's path MTUs again.
    pub(crate) fn refresh_paths(&mut self, cluster: &Cluster) {
        let paths = self.read_paths(cluster);
        if let Some(daemon) = &mut self.daemon {
            let nodes = cluster.versions[daemon.version].nodes.clone();
            let members = Membership::check(cluster.overlay.clone(), &name(self.id), nodes)
                .expect("it was taken before");
            daemon.table = compile(cluster, &members, &paths, &daemon.registry);
            daemon.path_mtu = paths;
        }
    }

    /// The kernel learns of, or forgets, a path.
    pub(crate) fn learn_path(&mut self, to: IpAddr, mtu: u16) {
        self.kernel.path_mtu.insert(to, mtu);
        if let Some(daemon) = &mut self.daemon {
            daemon.underlay.path_mtu.clone_from(&self.kernel.path_mtu);
        }
    }

    pub(crate) fn forget_paths(&mut self) {
        self.kernel.path_mtu.clear();
        if let Some(daemon) = &mut self.daemon {
            daemon.underlay.path_mtu.clear();
        }
    }

    fn read_paths(&self, cluster: &Cluster) -> BTreeMap<usize, u16> {
        let known = self.kernel.path_mtu.iter();
        known.filter_map(|(address, mtu)| Some((cluster.node_at(*address)?, *mtu))).collect()
    }
}

fn compile(
    cluster: &Cluster,
    members: &Membership,
    paths: &BTreeMap<usize, u16>,
    registry: &PeerRegistry,
) -> Table {
    let family = if cluster.v6_underlay { Family::V6 } else { Family::V4 };
    let mtu_to = |address: IpAddr| {
        let path = cluster.node_at(address).and_then(|node| paths.get(&node));
        let path = Mtu::new(path.copied().unwrap_or(Network::MTU).into()).unwrap();
        path.shrink(Codec::default().overhead(family)).unwrap()
    };
    let routers = members.local().subnets.iter().map(router).collect();
    Table::compile(members, routers, mtu_to, registry)
}

impl Daemon {
    /// One turn of the egress half over `reads`: what was sent, and what was answered to pods.
    pub(crate) fn egress(&mut self, reads: &[Read], now: Instant) -> (Vec<Sent>, Fates) {
        reads.iter().for_each(|read| self.tun.put(&read.bytes));
        let mut env = Env::new(
            &mut self.tun,
            &mut self.underlay,
            &self.table,
            &self.counters,
            &self.notices,
            now,
        );
        while self.egress.round(&mut self.engine, &mut env) == Round::More {}
        (self.underlay.take(), self.tun.take())
    }

    /// One turn of the ingress half over `arrivals`: what was written to the TUN queue.
    pub(crate) fn ingress(&mut self, arrivals: &[Arrival], port: u16, now: Instant) -> Fates {
        for arrival in arrivals {
            let bytes: Vec<&[u8]> =
                arrival.flights.iter().map(|flight| flight.bytes.as_slice()).collect();
            let size = (bytes.len() > 1).then(|| u16::try_from(bytes[0].len()).unwrap());
            self.underlay.put(MemoryTrain {
                peer: (arrival.source, port).into(),
                bucket: 0,
                ecn: Ecn::from_bits(arrival.ecn),
                segment_size: size,
                bytes: bytes.concat().into(),
            });
        }
        let mut env = Env::new(
            &mut self.tun,
            &mut self.underlay,
            &self.table,
            &self.counters,
            &self.notices,
            now,
        );
        while !env.underlay.is_drained() {
            self.ingress.round(&self.engine, &mut env, 0);
        }
        self.tun.take()
    }

    /// Addresses toward which a datagram was longer than the device carries.
    pub(crate) fn narrow_paths(&mut self) -> BTreeSet<IpAddr> {
        let mut narrow = BTreeSet::new();
        while let Ok(notice) = self.noticed.try_recv() {
            match notice {
                Notice::RouteTooNarrow(address) => {
                    narrow.insert(address);
                }
                Notice::PathClaim(_) | Notice::Unreachable(_) | Notice::TunGone => {}
            }
        }
        narrow
    }

    /// Takes note of what its counters must say from now on.
    pub(crate) fn expect_drops(&mut self, reason: DropReason, packets: usize) {
        *self.drops.entry(reason.as_str()).or_default() += packets as u64;
    }

    /// `direction` is 0 for egress and 1 for ingress.
    pub(crate) fn expect_traffic(&mut self, peer: &str, direction: usize, packets: u64) {
        self.traffic.entry(peer.to_owned()).or_default()[direction] += packets;
    }

    /// Compares the counters with what they must say; tells the first that differs.
    pub(crate) fn audit(&self) -> Result<(), String> {
        for reason in DropReason::ALL {
            let counted = self.counters.drops.count(reason);
            let expected = self.drops.get(reason.as_str()).copied().unwrap_or_default();
            if counted != expected {
                return Err(format!("{}: {counted} counted, {expected} dropped", reason.as_str()));
            }
        }
        for peer in self.table.peers() {
            let counted = [peer.counters.egress().packets, peer.counters.ingress().packets];
            let expected = self.traffic.get(peer.name()).copied().unwrap_or_default();
            if counted != expected {
                return Err(format!("{}: {counted:?} counted, {expected:?} passed", peer.name()));
            }
        }
        Ok(())
    }
}
