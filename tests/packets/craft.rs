//! Packets of pods and datagrams of nodes, made of their parts.

use std::net::IpAddr;

use etherparse::{IpNumber, PacketBuilder, PacketBuilderStep, TcpOptionElement};
use etherparse::{Ipv4Header, Ipv6FlowLabel, Ipv6Header};

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;

/// The pod `host` of `node`.
pub(crate) fn pod4(node: u8, host: u8) -> IpAddr {
    IpAddr::from([10, 244, node, host])
}

/// The same for IPv6.
pub(crate) fn pod6(node: u8, host: u8) -> IpAddr {
    IpAddr::from([0xfd00, 0x10, 0x244, u16::from(node), 0, 0, 0, u16::from(host)])
}

/// The node's underlay address.
pub(crate) fn node(index: u8) -> IpAddr {
    IpAddr::from([192, 168, 1, 10 + index])
}

/// What differs from one IP packet to another.
#[derive(Clone, Copy)]
pub(crate) struct Ip {
    pub(crate) from: IpAddr,
    pub(crate) to: IpAddr,
    pub(crate) ecn: u8,
    pub(crate) dont_fragment: bool,
}

/// From a pod of node1 to one of node2 and the like.
pub(crate) fn ip(from: IpAddr, to: IpAddr) -> Ip {
    Ip { from, to, ecn: 0, dont_fragment: true }
}

impl Ip {
    pub(crate) fn ecn(self, ecn: u8) -> Self {
        Self { ecn, ..self }
    }

    pub(crate) fn may_be_fragmented(self) -> Self {
        Self { dont_fragment: false, ..self }
    }

    fn step(self) -> PacketBuilderStep<etherparse::IpHeaders> {
        match (self.from, self.to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let (from, to) = (from.octets(), to.octets());
                let mut header = Ipv4Header::new(0, 64, IpNumber::UDP, from, to).unwrap();
                header.dont_fragment = self.dont_fragment;
                header.ecn = etherparse::IpEcn::try_new(self.ecn).unwrap();
                header.identification = 0x1234;
                let none = etherparse::Ipv4Extensions::default();
                PacketBuilder::ip(etherparse::IpHeaders::Ipv4(header, none))
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let header = Ipv6Header {
                    traffic_class: self.ecn,
                    flow_label: Ipv6FlowLabel::try_new(0xabcde).unwrap(),
                    payload_length: 0,
                    next_header: IpNumber::UDP,
                    hop_limit: 64,
                    source: from.octets(),
                    destination: to.octets(),
                };
                let none = etherparse::Ipv6Extensions::default();
                PacketBuilder::ip(etherparse::IpHeaders::Ipv6(header, none))
            }
            _ => panic!("addresses of one family"),
        }
    }

    pub(crate) fn udp(self, from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.step().udp(from, to).write(&mut bytes, payload).unwrap();
        bytes
    }

    pub(crate) fn ping(self, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self.from {
            IpAddr::V4(_) => self.step().icmpv4_echo_request(7, 1).write(&mut bytes, payload),
            IpAddr::V6(_) => self.step().icmpv6_echo_request(7, 1).write(&mut bytes, payload),
        }
        .unwrap();
        bytes
    }

    /// An ICMP message of this kind about a packet.
    pub(crate) fn icmp(self, kind: u8, code: u8, rest: [u8; 4], about: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self.from {
            IpAddr::V4(_) => self.step().icmpv4_raw(kind, code, rest).write(&mut bytes, about),
            IpAddr::V6(_) => self.step().icmpv6_raw(kind, code, rest).write(&mut bytes, about),
        }
        .unwrap();
        bytes
    }

    /// A TCP packet with `flags` such as "SA" and options.
    pub(crate) fn tcp(
        self,
        flags: &str,
        sequence: u32,
        options: &[TcpOptionElement],
        payload: &[u8],
    ) -> Vec<u8> {
        let mut step = self.step().tcp(40_000, 80, sequence, 29_200).options(options).unwrap();
        for flag in flags.chars() {
            step = match flag {
                'S' => step.syn(),
                'A' => step.ack(77),
                'F' => step.fin(),
                'P' => step.psh(),
                'R' => step.rst(),
                'E' => step.ece(),
                'C' => step.cwr(),
                other => panic!("no flag {other}"),
            };
        }
        let mut bytes = Vec::new();
        step.write(&mut bytes, payload).unwrap();
        bytes
    }
}

/// An IPv6 packet of these extension headers, each with the number of the next, and a payload.
pub(crate) fn ipv6_raw(from: IpAddr, to: IpAddr, next: u8, rest: &[u8]) -> Vec<u8> {
    let (IpAddr::V6(from), IpAddr::V6(to)) = (from, to) else { panic!("addresses of IPv6") };
    let len = u16::try_from(rest.len()).unwrap();
    let mut bytes = vec![0x60, 0, 0, 0];
    bytes.extend(len.to_be_bytes());
    bytes.extend([next, 64]);
    bytes.extend(from.octets());
    bytes.extend(to.octets());
    bytes.extend_from_slice(rest);
    bytes
}

/// A UDP datagram by itself, for what is put together by hand; its checksum is that of `whole`.
pub(crate) fn transport(whole: &[u8]) -> &[u8] {
    &whole[if whole[0] >> 4 == 4 { 20 } else { 40 }..]
}

/// The VXLAN-GPE header that Culvert writes, byte by byte as docs/wire-format.md has it.
pub(crate) fn gpe(vni: u32, next: u8) -> [u8; 8] {
    let [_, a, b, c] = vni.to_be_bytes();
    [0x0c, 0, 0, next, a, b, c, 0]
}

/// A datagram from node `from` to node1's tunnel, carrying `inner`.
pub(crate) fn tunneled(from: u8, inner: &[u8]) -> Vec<u8> {
    let next = if inner.first().is_some_and(|first| first >> 4 == 6) { 2 } else { 1 };
    carried(from, 0, &[&gpe(1, next), inner].concat())
}

/// A datagram from node `from` to node1's tunnel, with an outer mark and any payload.
pub(crate) fn carried(from: u8, ecn: u8, payload: &[u8]) -> Vec<u8> {
    ip(node(from), node(1)).ecn(ecn).udp(50_000, 4790, payload)
}
