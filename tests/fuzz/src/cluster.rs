//! A worker of node1 without its thread, among three nodes: what the packet targets feed.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};

use culvert_dataplane::engine::{
    DropReason, Engine, Foreign, Membership, NodeEntry, Overlay, PeerRegistry, Table, TunnelOptions,
};
use culvert_dataplane::platform::clock;
use culvert_dataplane::platform::tun::Offload;
use culvert_dataplane::{
    Egress, Env, Ingress, MemoryTun, MemoryUnderlay, Notices, Round, WorkerCounters,
};
use overlay_proto::{Mtu, Vni};

pub(crate) const PORT: u16 = 4790;
pub(crate) const VNI: u32 = 1;
pub(crate) const MTU: u16 = 1464;

/// What all nodes share.
pub(crate) fn overlay() -> Overlay {
    Overlay {
        vni: Vni::new(VNI).unwrap(),
        networks: vec!["10.244.0.0/16".parse().unwrap(), "fd00:10:244::/48".parse().unwrap()],
        port: PORT,
        foreign: Foreign::default(),
    }
}

/// Underlay address of a node.
pub(crate) fn address(node: u8) -> IpAddr {
    IpAddr::from([192, 168, 1, 10 + node])
}

/// Where a node sends from.
pub(crate) fn endpoint(node: u8) -> SocketAddr {
    SocketAddr::new(address(node), PORT)
}

/// Which node owns an inner address, by the first bytes alone.
pub(crate) fn owner(address: IpAddr) -> Option<u8> {
    let node = match address {
        IpAddr::V4(address) => match address.octets() {
            [10, 244, node, _] => node,
            _ => return None,
        },
        IpAddr::V6(address) => match address.segments() {
            [0xfd00, 0x10, 0x244, node, ..] => u8::try_from(node).ok()?,
            _ => return None,
        },
    };
    (1..=3).contains(&node).then_some(node)
}

pub(crate) fn table() -> Table {
    let node = |index: u8| NodeEntry {
        name: format!("node{index}"),
        address: address(index),
        subnets: vec![
            format!("10.244.{index}.0/24").parse().unwrap(),
            format!("fd00:10:244:{index}::/64").parse().unwrap(),
        ],
        tunnel_options: TunnelOptions::default(),
    };
    let members = Membership::check(overlay(), "node1", (1..=3).map(node).collect()).unwrap();
    let routers = ["10.244.1.1", "fd00:10:244:1::1"].map(|router| router.parse().unwrap());
    let mtu = |_| Mtu::new(MTU.into()).unwrap();
    Table::compile(&members, routers.to_vec(), mtu, &PeerRegistry::default())
}

pub(crate) struct Worker {
    pub(crate) table: Table,
    pub(crate) tun: MemoryTun,
    pub(crate) underlay: MemoryUnderlay,
    pub(crate) counters: WorkerCounters,
    engine: Engine,
    offload: Offload,
    notices: Notices,
}

thread_local! {
    // Their buffers are long, and making them anew would cost more than all the rest of a run.
    // Nothing here refuses a packet, so that neither half ever gives up an offload for good.
    static PLAIN: RefCell<Egress> = RefCell::new({
        let mut egress = Egress::new();
        egress.without_trains();
        egress
    });
    static TRAINS: RefCell<Egress> = RefCell::new(Egress::new());
    static INGRESS: RefCell<Ingress> = RefCell::new(Ingress::new(Offload::None));
}

impl Worker {
    pub(crate) fn new(offload: Offload) -> Self {
        Self {
            table: table(),
            tun: MemoryTun::default(),
            underlay: MemoryUnderlay::default(),
            counters: WorkerCounters::default(),
            engine: Engine::new(clock::now()),
            offload,
            notices: Notices::new().0,
        }
    }

    /// Handles what waits on both sides.
    pub(crate) fn run(&mut self) {
        let mut env = Env::new(
            &mut self.tun,
            &mut self.underlay,
            &self.table,
            &self.counters,
            &self.notices,
            clock::now(),
        );
        let half = if self.offload == Offload::None { &PLAIN } else { &TRAINS };
        half.with_borrow_mut(
            |egress| {
                while egress.round(&mut self.engine, &mut env) == Round::More {}
            },
        );
        INGRESS.with_borrow_mut(|ingress| {
            ingress.set_offload(self.offload);
            while !env.underlay.incoming.is_empty() {
                ingress.round(&self.engine, &mut env, 0);
            }
        });
    }

    /// How many packets were dropped, for all reasons together.
    pub(crate) fn drops(&self) -> u64 {
        DropReason::ALL.into_iter().map(|reason| self.counters.drops.count(reason)).sum()
    }
}

/// What the first byte of an input chooses.
pub(crate) fn offload(choice: u8) -> Offload {
    Offload::ALL[usize::from(choice) % Offload::ALL.len()]
}
