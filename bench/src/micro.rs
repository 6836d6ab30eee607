//! What the micro-benchmarks work on: packets and tables; and the one figure of theirs that has a
//! target.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use culvert_dataplane::engine::{
    Engine, Foreign, Membership, NodeEntry, Overlay, PeerRegistry, Table, TunnelOptions,
};
use culvert_dataplane::offload::{Gso, PartialChecksum, VnetHeader};
use culvert_lab::clock;
use etherparse::{IpHeaders, Ipv4Header, Ipv6Header, PacketBuilder, TcpOptionElement};
use overlay_proto::checksum;
use overlay_proto::{Codec, CodecKind, Ecn, Family, InnerPacket, Mtu, Vni};
use serde::Serialize;

/// Longest inner packet on an underlay of 1500.
pub const MTU: u16 = 1464;

/// TCP payload that fits such a packet: IPv4 and TCP header with timestamps take 52 bytes.
pub const TCP_PAYLOAD: u16 = MTU - 52;

/// Port of every node.
const PORT: u16 = 4790;

/// Timed loops of [`hot_path`] look at the clock after so many packets.
const CHUNK: u32 = 10_000;

/// A virtual network.
///
/// # Panics
///
/// Never: seven is one.
#[must_use]
pub fn vni() -> Vni {
    Vni::new(7).expect("seven fits in 24 bits")
}

/// The underlay address of node `node`, which counts from 0.
#[must_use]
pub fn underlay(node: u32) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::from(0xac10_0000 + 1 + node).into(), PORT)
}

/// The address of pod `host` on node `node`.
#[must_use]
pub fn pod(family: Family, node: u32, host: u8) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::from(0x0a00_0000 + node * 256 + u32::from(host)).into(),
        Family::V6 => {
            let [_, a, b, c] = node.to_be_bytes();
            let third = u16::from_be_bytes([a, b]);
            Ipv6Addr::new(0xfd00, 0x10, third, u16::from(c), 0, 0, 0, u16::from(host)).into()
        }
    }
}

/// The table of node 0 in a cluster of `nodes` nodes.
///
/// # Panics
///
/// Never, below 65,536 nodes: their subnets are apart.
#[must_use]
pub fn table(nodes: u32) -> Table {
    let entry = |node: u32| NodeEntry {
        name: format!("node{node}"),
        address: underlay(node).ip(),
        subnets: [(Family::V4, 24), (Family::V6, 64)]
            .map(|(family, len)| format!("{}/{len}", pod(family, node, 0)))
            .iter()
            .filter_map(|subnet| subnet.parse().ok())
            .collect(),
        tunnel_options: TunnelOptions::default(),
    };
    let networks = ["10.0.0.0/8", "fd00:10::/32"].iter().filter_map(|net| net.parse().ok());
    let (networks, foreign) = (networks.collect(), Foreign::default());
    let overlay = Overlay { vni: vni(), networks, port: PORT, foreign };
    let members = Membership::check(overlay, "node0", (0..nodes).map(entry).collect());
    let members = members.expect("names, addresses and subnets differ");
    let mtu = Mtu::new(u32::from(MTU)).expect("an MTU");
    Table::compile(&members, vec![], |_| mtu, &PeerRegistry::default())
}

/// The transport of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// With timestamps, as Linux sends.
    Tcp,
    /// With a checksum.
    Udp,
}

/// A packet between two nodes' first pods.
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    /// The IP version.
    pub family: Family,
    /// The transport.
    pub transport: Transport,
    /// The sender's node.
    pub from: u32,
    /// The receiver's node.
    pub to: u32,
    /// TCP sequence number.
    pub sequence: u32,
    /// IPv4 identification.
    pub identification: u16,
    /// Bytes behind the transport header.
    pub payload_len: usize,
}

impl Packet {
    /// A packet of pods on nodes `from` and `to`.
    #[must_use]
    pub const fn new(transport: Transport, from: u32, to: u32, payload_len: usize) -> Self {
        let (family, sequence, identification) = (Family::V4, 1000, 1);
        Self { family, transport, from, to, sequence, identification, payload_len }
    }

    /// Member `index` of a train of such packets.
    #[must_use]
    pub fn member(mut self, index: u16) -> Self {
        let step = u32::try_from(self.payload_len).unwrap_or_default();
        self.sequence = self.sequence.wrapping_add(u32::from(index).wrapping_mul(step));
        self.identification = self.identification.wrapping_add(index);
        self
    }

    /// Its bytes, checksums complete.
    ///
    /// # Panics
    ///
    /// The payload does not fit an IP packet.
    #[must_use]
    pub fn build(&self) -> Vec<u8> {
        let payload: Vec<u8> = (0..=250).cycle().take(self.payload_len).collect();
        let mut bytes = Vec::new();
        let builder = PacketBuilder::ip(self.ip());
        let written = match self.transport {
            Transport::Tcp => builder
                .tcp(40_000, 80, self.sequence, 502)
                .ack(77)
                .options(&[
                    TcpOptionElement::Noop,
                    TcpOptionElement::Noop,
                    TcpOptionElement::Timestamp(12345, 67890),
                ])
                .expect("twelve bytes of options fit")
                .write(&mut bytes, &payload),
            Transport::Udp => builder.udp(40_000, 80).write(&mut bytes, &payload),
        };
        written.expect("a vector takes everything, and the payload fits");
        bytes
    }

    /// Its bytes and what the kernel says about them, as a super-packet to be cut into pieces with
    /// `gso_size` bytes of payload each, its checksum still to be finished.
    #[must_use]
    pub fn build_super(&self, gso_size: u16) -> (VnetHeader, Vec<u8>) {
        let mut bytes = self.build();
        let start = self.family.header_len();
        let (offset, transport_len, protocol, gso) = match (self.transport, self.family) {
            (Transport::Tcp, Family::V4) => (16, 32, 6, Gso::Tcp4),
            (Transport::Tcp, Family::V6) => (16, 32, 6, Gso::Tcp6),
            (Transport::Udp, Family::V4 | Family::V6) => (6, 8, 17, Gso::Udp),
        };
        let (from, to) = (pod(self.family, self.from, 2), pod(self.family, self.to, 2));
        let len = u32::try_from(bytes.len() - start).unwrap_or_default();
        let sum = checksum::pseudo_header(from, to, protocol, len).fold();
        bytes[start + offset..start + offset + 2].copy_from_slice(&sum.to_be_bytes());
        let short = |len: usize| u16::try_from(len).unwrap_or(u16::MAX);
        let header = VnetHeader {
            partial: Some(PartialChecksum { start: short(start), offset: short(offset) }),
            verified: false,
            gso,
            cwr: false,
            header_len: short(start + transport_len),
            gso_size,
        };
        (header, bytes)
    }

    fn ip(&self) -> IpHeaders {
        match (pod(self.family, self.from, 2), pod(self.family, self.to, 2)) {
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let header = Ipv6Header {
                    hop_limit: 63,
                    source: source.octets(),
                    destination: destination.octets(),
                    ..Ipv6Header::default()
                };
                IpHeaders::Ipv6(header, etherparse::Ipv6Extensions::default())
            }
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let header = Ipv4Header {
                    identification: self.identification,
                    dont_fragment: true,
                    time_to_live: 63,
                    source: source.octets(),
                    destination: destination.octets(),
                    ..Ipv4Header::default()
                };
                IpHeaders::Ipv4(header, etherparse::Ipv4Extensions::default())
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {
                unreachable!("one family has one kind of address")
            }
        }
    }
}

/// A packet as it lies on a TUN queue.
#[must_use]
pub fn on_tun(header: &VnetHeader, packet: &[u8]) -> Bytes {
    [header.encode().as_slice(), packet].concat().into()
}

/// A packet as a peer sends it.
#[must_use]
pub fn datagram(family: Family, packet: &[u8]) -> Vec<u8> {
    [Codec::default().header(vni(), family).as_slice(), packet].concat()
}

/// What deciding about one packet costs, with tables of two sizes.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct HotPath {
    /// With a table of 3 nodes.
    pub short_table: Sides,
    /// With a table of 10,000 nodes.
    pub long_table: Sides,
}

/// Nanoseconds that a packet takes on either side of its way.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Sides {
    /// Parsing it, looking up both addresses, deciding, and writing the overlay header.
    pub egress_ns: f64,
    /// Looking up the sender, checking the overlay header, parsing, looking up both addresses.
    pub ingress_ns: f64,
}

impl Sides {
    /// The slower side.
    #[must_use]
    pub const fn slower_ns(&self) -> f64 {
        self.egress_ns.max(self.ingress_ns)
    }
}

/// A moment that decisions are made at.
pub type Now = Instant;

/// What the sending node does with a packet, besides moving it.
#[inline]
pub fn egress(engine: &mut Engine, table: &Table, packet: &[u8], now: Now) {
    let Ok(inner) = InnerPacket::parse(black_box(packet)) else {
        return;
    };
    let verdict = engine.handle_tun_packet(table, &inner, inner.len(), now);
    black_box((verdict, Codec::default().header(table.vni(), inner.family())));
}

/// What the receiving node does with a datagram of node 1, besides moving it.
#[inline]
pub fn ingress(engine: &Engine, table: &Table, datagram: &[u8]) {
    let Some(sender) = table.sender(black_box(underlay(1).ip())) else {
        return;
    };
    let Some(heard) = table.peer(sender).heard_in(CodecKind::default()) else {
        return;
    };
    let datagram = black_box(datagram);
    let delivery = engine.handle_udp_datagram(table, sender, heard, Ecn::NotEct, datagram);
    black_box(delivery.is_ok());
}

/// Times [`egress`] and [`ingress`] for `time`, half of it with each table.
#[must_use]
pub fn hot_path(time: Duration) -> HotPath {
    HotPath { short_table: sides(3, time / 2), long_table: sides(10_000, time / 2) }
}

fn sides(nodes: u32, time: Duration) -> Sides {
    let table = table(nodes);
    let packet = Packet::new(Transport::Udp, 0, 1, 64).build();
    let arriving = datagram(Family::V4, &Packet::new(Transport::Udp, 1, 0, 64).build());
    let now = clock::now();
    let mut engine = Engine::new(now);
    let egress_ns = nanoseconds(time / 2, || egress(&mut engine, &table, &packet, now));
    Sides { egress_ns, ingress_ns: nanoseconds(time / 2, || ingress(&engine, &table, &arriving)) }
}

/// The least of many averages: what else the machine does can only add.
fn nanoseconds(time: Duration, mut work: impl FnMut()) -> f64 {
    let start = clock::now();
    let mut least = f64::INFINITY;
    while start.elapsed() < time {
        let begin = clock::now();
        for _ in 0..CHUNK {
            work();
        }
        least = least.min(begin.elapsed().as_secs_f64() * 1e9 / f64::from(CHUNK));
    }
    least
}

#[cfg(test)]
mod tests {
    use culvert_dataplane::engine::EgressVerdict;
    use culvert_dataplane::offload::split::SplitPlan;

    use super::*;

    #[test]
    fn packets_go_where_they_should() {
        let table = table(300);
        let mut engine = Engine::new(clock::now());
        for family in [Family::V4, Family::V6] {
            for transport in [Transport::Tcp, Transport::Udp] {
                let packet = Packet { family, ..Packet::new(transport, 0, 299, 100) }.build();
                let inner = InnerPacket::parse(&packet).unwrap();
                let now = clock::now();
                let verdict = engine.handle_tun_packet(&table, &inner, inner.len(), now);
                let EgressVerdict::Forward(peer) = verdict else { panic!("{verdict:?}") };
                assert_eq!(table.peer(peer).endpoint, underlay(299));
            }
        }
    }

    #[test]
    fn a_super_packet_is_one_that_can_be_cut() {
        for family in [Family::V4, Family::V6] {
            for (transport, size) in [(Transport::Tcp, TCP_PAYLOAD), (Transport::Udp, 64)] {
                let payload_len = usize::from(size) * 46;
                let packet = Packet { family, ..Packet::new(transport, 0, 1, payload_len) };
                let (header, bytes) = packet.build_super(size);
                let plan = SplitPlan::new(&header, &InnerPacket::parse(&bytes).unwrap()).unwrap();
                assert_eq!(plan.count(), 46);
                // The checksum of the first piece is right.
                let piece = Packet { payload_len: usize::from(size), ..packet }.build();
                let mut head = vec![0; plan.header_len()];
                plan.write_header(&bytes, 0, &mut head);
                assert_eq!(head[..], piece[..head.len()], "{family:?} {transport:?}");
            }
        }
    }

    #[test]
    fn the_hot_path_takes_some_time() {
        let hot = hot_path(Duration::from_millis(20));
        assert!(hot.short_table.slower_ns() > 1.0 && hot.long_table.slower_ns().is_finite());
    }

    #[test]
    fn what_is_timed_is_delivered() {
        let table = table(3);
        let arriving = datagram(Family::V4, &Packet::new(Transport::Udp, 1, 0, 64).build());
        let sender = table.sender(underlay(1).ip()).unwrap();
        let engine = Engine::new(clock::now());
        let heard = table.peer(sender).heard_in(CodecKind::default()).unwrap();
        assert!(engine.handle_udp_datagram(&table, sender, heard, Ecn::NotEct, &arriving).is_ok());
    }
}
