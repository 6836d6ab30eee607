//! The data path over in-memory devices: what goes in, what comes out, and what is counted.

mod capture;
mod codecs;
mod egress;
mod fragments;
mod ingress;
mod own_address;
mod packets;
mod probe;
mod reports;
mod sealed;
mod transparency;

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use overlay_proto::{Codec, Ecn, Family, InnerPacket, Mtu, Vni};

use super::offload::split::{SplitPlan, finish_checksum};
use super::offload::{Gso, VnetHeader};
use super::*;
use crate::engine::{
    DropReason, Engine, Foreign, Membership, NodeEntry, Overlay, PeerRegistry, Table, TunnelOptions,
};
use crate::platform::clock;
use crate::platform::tun::{Offload, VNET_HEADER_LEN};

const PORT: u16 = 4790;
const MTU: u32 = 1464;

pub(super) use self::capture::datagram as udp_of_pod;

/// A packet that may wait for more.
pub(super) fn packet_for_the_outlet() -> Vec<u8> {
    packets::Spec::incoming(Family::V4, true, vec![1; 100]).build()
}

/// node1, which the tests are on, and two peers.
pub(super) fn table() -> Table {
    table_with_mtu(MTU)
}

fn table_with_mtu(mtu: u32) -> Table {
    table_where(mtu, TunnelOptions::default())
}

/// The table in which node2 speaks like this.
fn table_where(mtu: u32, node2: TunnelOptions) -> Table {
    table_of(1, mtu, node2)
}

/// The same as another node has it.
fn table_of(own: u8, mtu: u32, node2: TunnelOptions) -> Table {
    table_among(own, mtu, node2, Foreign::default())
}

/// The same where nodes without Culvert are as `foreign` says.
fn table_among(own: u8, mtu: u32, node2: TunnelOptions, foreign: Foreign) -> Table {
    let node = |index: u8| NodeEntry {
        name: format!("node{index}"),
        address: IpAddr::from([192, 168, 1, 10 + index]),
        subnets: vec![
            format!("10.244.{index}.0/24").parse().unwrap(),
            format!("fd00:10:244:{index}::/64").parse().unwrap(),
        ],
        tunnel_options: if index == 2 { node2 } else { TunnelOptions::default() },
    };
    let overlay = Overlay {
        vni: vni(),
        networks: vec!["10.244.0.0/16".parse().unwrap(), "fd00:10:244::/48".parse().unwrap()],
        port: PORT,
        foreign,
    };
    let own_name = format!("node{own}");
    let members = Membership::check(overlay, &own_name, (1..=3).map(node).collect()).unwrap();
    let routers = [format!("10.244.{own}.1"), format!("fd00:10:244:{own}::1")];
    let routers = routers.map(|router| router.parse().unwrap());
    Table::compile(&members, routers.to_vec(), |_| Mtu::new(mtu).unwrap(), &PeerRegistry::default())
}

pub(super) fn vni() -> Vni {
    Vni::new(7).unwrap()
}

pub(super) fn underlay_of(node: u8) -> SocketAddr {
    SocketAddr::new(IpAddr::from([192, 168, 1, 10 + node]), PORT)
}

/// One worker without its thread.
struct Bench {
    table: Table,
    engine: Engine,
    egress: Egress,
    ingress: Ingress,
    tun: MemoryTun,
    underlay: MemoryUnderlay,
    counters: WorkerCounters,
    notices: Notices,
    noticed: tokio::sync::mpsc::Receiver<Notice>,
}

impl Bench {
    fn new(offload: Offload) -> Self {
        let (notices, noticed) = Notices::new();
        let mut egress = Egress::new();
        if offload == Offload::None {
            egress.without_trains();
        }
        Self {
            table: table(),
            engine: Engine::new(clock::now()),
            egress,
            ingress: Ingress::new(offload),
            tun: MemoryTun::default(),
            underlay: MemoryUnderlay::default(),
            counters: WorkerCounters::default(),
            notices,
            noticed,
        }
    }

    /// Runs both directions until there is nothing left to do.
    fn run(&mut self) {
        let mut env = Env::new(
            &mut self.tun,
            &mut self.underlay,
            &self.table,
            &self.counters,
            &self.notices,
            clock::now(),
        );
        while self.egress.round(&mut self.engine, &mut env) == Round::More {}
        loop {
            self.ingress.round(&self.engine, &mut env, 1000);
            if env.underlay.incoming.is_empty() {
                break;
            }
        }
    }

    /// Puts a packet where the worker reads.
    fn pod_sends(&mut self, header: &VnetHeader, packet: &[u8]) {
        let mut bytes = header.encode().to_vec();
        bytes.extend_from_slice(packet);
        self.tun.incoming.push_back(bytes.into());
    }

    /// Lets a train of equal datagrams (the last may be shorter) arrive from a node.
    fn arrive(&mut self, source: SocketAddr, ecn: Ecn, datagrams: &[Vec<u8>]) {
        let segment_size = datagrams.first().map_or(0, Vec::len);
        let size = (datagrams.len() > 1).then(|| u16::try_from(segment_size).unwrap());
        self.underlay.incoming.push_back(MemoryTrain {
            peer: source,
            bucket: 0,
            ecn,
            segment_size: size,
            bytes: datagrams.concat().into(),
        });
    }

    fn drops(&self) -> Vec<(DropReason, u64)> {
        DropReason::ALL
            .into_iter()
            .map(|reason| (reason, self.counters.drops.count(reason)))
            .filter(|(_, count)| *count > 0)
            .collect()
    }

    /// Every inner packet that was sent, with its destination.
    fn sent(&self) -> Vec<(SocketAddr, Vec<u8>)> {
        let mut sent = Vec::new();
        for train in &self.underlay.sent {
            let size = train.segment_size.map_or(train.bytes.len(), usize::from);
            for datagram in train.bytes.chunks(size) {
                let decoded = Codec::default().decode(vni(), datagram).expect("we sent it");
                sent.push((train.peer, decoded.inner.to_vec()));
            }
        }
        sent
    }

    /// Every packet that reached the pods' side, as the kernel would see it.
    fn delivered(&self) -> Vec<Vec<u8>> {
        self.tun.written.iter().flat_map(kernel_split).collect()
    }
}

/// What the kernel makes of a packet on a TUN queue.
fn kernel_split(written: &Bytes) -> Vec<Vec<u8>> {
    let header = VnetHeader::decode(written.first_chunk().unwrap()).unwrap();
    let mut packet = written[VNET_HEADER_LEN..].to_vec();
    if header.gso == Gso::None {
        if let Some(partial) = header.partial {
            finish_checksum(partial, &mut packet).unwrap();
        }
        return vec![packet];
    }
    let parsed = InnerPacket::parse(&packet).unwrap();
    assert_eq!(parsed.len(), packet.len());
    let plan = SplitPlan::new(&header, &parsed).expect("we wrote it");
    (0..plan.count())
        .map(|index| {
            let mut out = vec![0xaa; plan.header_len()];
            plan.write_header(&packet, index, &mut out);
            out.extend_from_slice(&packet[plan.payload(index)]);
            out
        })
        .collect()
}

/// A datagram as a peer sends it.
fn datagram(packet: &[u8]) -> Vec<u8> {
    let family = if packet[0] >> 4 == 4 { Family::V4 } else { Family::V6 };
    [Codec::default().header(vni(), family).as_slice(), packet].concat()
}
