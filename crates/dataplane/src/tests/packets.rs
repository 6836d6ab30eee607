//! Packets for the tests, built by a library that is not the code under test.

use etherparse::{
    IpFragOffset, IpHeaders, Ipv4Header, Ipv6Header, PacketBuilder, TcpOptionElement,
};
use overlay_proto::checksum::Sum;
use overlay_proto::{Ecn, Family};

/// All that the tests vary about a packet.
#[derive(Clone, Debug)]
pub(super) struct Spec {
    pub(super) family: Family,
    pub(super) tcp: bool,
    /// Node and host part of the addresses.
    pub(super) from: (u8, u8),
    pub(super) to: (u8, u8),
    pub(super) ports: (u16, u16),
    pub(super) sequence: u32,
    pub(super) acknowledgement: u32,
    pub(super) window: u16,
    pub(super) flags: u8,
    pub(super) options: bool,
    pub(super) identification: u16,
    pub(super) ttl: u8,
    pub(super) ecn: Ecn,
    pub(super) dont_fragment: bool,
    pub(super) payload: Vec<u8>,
}

pub(super) const FIN: u8 = 0x01;
pub(super) const SYN: u8 = 0x02;
pub(super) const PSH: u8 = 0x08;
pub(super) const ACK: u8 = 0x10;
pub(super) const URG: u8 = 0x20;
pub(super) const ECE: u8 = 0x40;
pub(super) const CWR: u8 = 0x80;

impl Spec {
    /// From node 1 to node 2, as a pod sends.
    pub(super) fn outgoing(family: Family, tcp: bool, payload: Vec<u8>) -> Self {
        Self {
            family,
            tcp,
            from: (1, 2),
            to: (2, 2),
            ports: (40_000, 80),
            sequence: 1_000_000,
            acknowledgement: 77,
            window: 502,
            flags: ACK,
            options: true,
            identification: 500,
            ttl: 63,
            ecn: Ecn::NotEct,
            dont_fragment: true,
            payload,
        }
    }

    /// From node 2 to node 1, as it arrives.
    pub(super) fn incoming(family: Family, tcp: bool, payload: Vec<u8>) -> Self {
        Self { from: (2, 2), to: (1, 2), ..Self::outgoing(family, tcp, payload) }
    }

    fn ip(&self) -> IpHeaders {
        let ((a, b), (c, d)) = (self.from, self.to);
        match self.family {
            Family::V4 => {
                let mut header =
                    Ipv4Header::new(0, self.ttl, 0.into(), [10, 244, a, b], [10, 244, c, d])
                        .unwrap();
                header.identification = self.identification;
                header.dont_fragment = self.dont_fragment;
                header.ecn = self.ecn.bits().try_into().unwrap();
                header.fragment_offset = IpFragOffset::ZERO;
                IpHeaders::Ipv4(header, etherparse::Ipv4Extensions::default())
            }
            Family::V6 => {
                let address = |node: u8, host: u8| {
                    let bits = [0xfd00, 0x10, 0x244, u16::from(node), 0, 0, 0, u16::from(host)];
                    std::net::Ipv6Addr::from(bits).octets()
                };
                let header = Ipv6Header {
                    traffic_class: self.ecn.bits(),
                    flow_label: 0x12345_u32.try_into().unwrap(),
                    hop_limit: self.ttl,
                    source: address(a, b),
                    destination: address(c, d),
                    ..Ipv6Header::default()
                };
                IpHeaders::Ipv6(header, etherparse::Ipv6Extensions::default())
            }
        }
    }

    /// The packet, checksums complete.
    pub(super) fn build(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let builder = PacketBuilder::ip(self.ip());
        if self.tcp {
            let mut tcp = builder.tcp(self.ports.0, self.ports.1, self.sequence, self.window);
            for (bit, set) in [(FIN, 0), (SYN, 1), (PSH, 2), (URG, 3), (ECE, 4), (CWR, 5)] {
                if self.flags & bit != 0 {
                    tcp = match set {
                        0 => tcp.fin(),
                        1 => tcp.syn(),
                        2 => tcp.psh(),
                        3 => tcp.urg(0),
                        4 => tcp.ece(),
                        _ => tcp.cwr(),
                    };
                }
            }
            if self.flags & ACK != 0 {
                tcp = tcp.ack(self.acknowledgement);
            }
            if self.options {
                use TcpOptionElement::{Noop, Timestamp};
                tcp = tcp.options(&[Noop, Noop, Timestamp(12345, 67890)]).unwrap();
            }
            tcp.write(&mut bytes, &self.payload).unwrap();
        } else {
            builder.udp(self.ports.0, self.ports.1).write(&mut bytes, &self.payload).unwrap();
        }
        bytes
    }

    pub(super) fn ip_len(&self) -> usize {
        self.family.header_len()
    }

    pub(super) fn header_len(&self) -> usize {
        self.ip_len()
            + if !self.tcp {
                8
            } else if self.options {
                32
            } else {
                20
            }
    }

    fn checksum_at(&self) -> usize {
        self.ip_len() + if self.tcp { 16 } else { 6 }
    }

    /// The packet as the kernel hands it over with its checksum still to be finished.
    pub(super) fn build_partial(&self) -> Vec<u8> {
        let mut bytes = self.build();
        let addresses =
            if self.family == Family::V4 { bytes[12..20].to_vec() } else { bytes[8..40].to_vec() };
        let len = u32::try_from(bytes.len() - self.ip_len()).unwrap().to_be_bytes();
        let protocol = if self.tcp { 6 } else { 17 };
        let sum = Sum::of(&addresses).push(&len).push(&[0, 0, 0, protocol]).fold();
        let at = self.checksum_at();
        bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    /// What the kernel says about the packet if it stands for several of `gso_size` bytes each.
    pub(super) fn vnet(&self, gso_size: u16) -> super::VnetHeader {
        use crate::offload::{Gso, PartialChecksum, VnetHeader};
        let len = |value: usize| u16::try_from(value).unwrap();
        VnetHeader {
            partial: Some(PartialChecksum {
                start: len(self.ip_len()),
                offset: len(self.checksum_at() - self.ip_len()),
            }),
            verified: false,
            gso: match (self.tcp, self.family) {
                (true, Family::V4) => Gso::Tcp4,
                (true, Family::V6) => Gso::Tcp6,
                (false, _) => Gso::Udp,
            },
            cwr: self.flags & CWR != 0,
            header_len: len(self.header_len()),
            gso_size,
        }
    }

    /// The packets that it stands for, each built from nothing.
    pub(super) fn split(&self, gso_size: usize) -> Vec<Vec<u8>> {
        let count = self.payload.chunks(gso_size).count();
        self.payload
            .chunks(gso_size)
            .enumerate()
            .map(|(index, payload)| {
                let mut flags = self.flags;
                if index + 1 < count {
                    flags &= !(FIN | PSH);
                }
                if index > 0 {
                    flags &= !CWR;
                }
                let step = u32::try_from(index * gso_size).unwrap();
                let packet = Self {
                    flags,
                    sequence: self.sequence.wrapping_add(step),
                    identification: self.identification.wrapping_add(u16::try_from(index).unwrap()),
                    payload: payload.to_vec(),
                    ..self.clone()
                };
                packet.build()
            })
            .collect()
    }
}
