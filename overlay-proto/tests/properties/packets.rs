//! Packets for the property tests, written byte by byte without the crate's own code.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use overlay_proto::Family;
use proptest::collection::vec;
use proptest::prelude::*;

/// What an IP packet is made of; any combination is a valid packet.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) v6: bool,
    pub(crate) source: u128,
    pub(crate) destination: u128,
    pub(crate) protocol: u8,
    pub(crate) ports: [u8; 4],
    pub(crate) payload: Vec<u8>,
    pub(crate) traffic_class: u8,
    pub(crate) ttl: u8,
    pub(crate) flow_label: u32,
    /// IPv4: words of options. IPv6: which extension headers come first, one bit each.
    pub(crate) extras: u8,
    /// Offset in units of eight bytes, and whether more fragments follow.
    pub(crate) fragment: Option<(u16, bool)>,
}

pub(crate) fn any() -> impl Strategy<Value = Packet> {
    let addresses = (proptest::bool::ANY, proptest::num::u128::ANY, proptest::num::u128::ANY);
    let protocol = prop_oneof![Just(6_u8), Just(17), Just(132), Just(1), Just(58), Just(47)];
    let payload = prop_oneof![vec(proptest::num::u8::ANY, 16..80), vec(Just(0x5a), 1200..1500)];
    let fields = (proptest::num::u8::ANY, proptest::num::u8::ANY, 0_u32..(1 << 20), 0_u8..8);
    let fragment = prop_oneof![
        4 => Just(None),
        1 => (0_u16..0x1fff, proptest::bool::ANY).prop_map(Some),
    ];
    (
        addresses,
        protocol,
        proptest::array::uniform4(proptest::num::u8::ANY),
        payload,
        fields,
        fragment,
    )
        .prop_map(|(addresses, protocol, ports, payload, fields, fragment)| Packet {
            v6: addresses.0,
            source: addresses.1,
            destination: addresses.2,
            protocol,
            ports,
            payload,
            traffic_class: fields.0,
            ttl: fields.1,
            flow_label: fields.2,
            extras: fields.3,
            fragment,
        })
}

/// A plain TCP packet for tests that set the addresses themselves.
pub(crate) fn tcp() -> Packet {
    Packet {
        v6: false,
        source: 0,
        destination: 0,
        protocol: 6,
        ports: [0xc0, 0x00, 0x01, 0xbb],
        payload: vec![0x5a; 32],
        traffic_class: 0,
        ttl: 64,
        flow_label: 0,
        extras: 0,
        fragment: None,
    }
}

impl Packet {
    pub(crate) fn family(&self) -> Family {
        if self.v6 { Family::V6 } else { Family::V4 }
    }

    /// An address of the packet's family to send errors from.
    pub(crate) fn gateway(&self) -> IpAddr {
        let text = if self.v6 { "fd00:10:244:1::1" } else { "10.244.1.1" };
        text.parse().unwrap()
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut transport = self.transport();
        if self.v6 { self.v6_bytes(&mut transport) } else { self.v4_bytes(&transport) }
    }

    /// A TCP, UDP or other header good enough to parse, with the payload behind it.
    fn transport(&self) -> Vec<u8> {
        let mut bytes = self.ports.to_vec();
        match self.protocol {
            6 => bytes.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10, 1, 0, 0, 0, 0, 0]),
            17 => {
                bytes.extend(u16::try_from(8 + self.payload.len()).unwrap().to_be_bytes());
                bytes.extend([0, 0]);
            }
            _ => bytes.extend([0; 4]),
        }
        bytes.extend(&self.payload);
        bytes
    }

    fn v4_bytes(&self, transport: &[u8]) -> Vec<u8> {
        let header_len = 20 + 4 * usize::from(self.extras);
        let total_len = u16::try_from(header_len + transport.len()).unwrap();
        let mut bytes = vec![0x45 + self.extras, self.traffic_class];
        bytes.extend(total_len.to_be_bytes());
        bytes.extend([0x12, 0x34]);
        let flags = match self.fragment {
            Some((offset, more)) => offset | if more { 0x2000 } else { 0 },
            None => {
                if self.flow_label & 1 == 0 {
                    0x4000
                } else {
                    0
                }
            }
        };
        bytes.extend(flags.to_be_bytes());
        bytes.extend([self.ttl, self.protocol, 0, 0]);
        bytes.extend(v4(self.source).octets());
        bytes.extend(v4(self.destination).octets());
        bytes.resize(header_len, 0x01); // no-operation options
        let sum: u32 =
            bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        bytes.extend(transport);
        bytes
    }

    fn v6_bytes(&self, transport: &mut Vec<u8>) -> Vec<u8> {
        // Built from the inside out: each header is put before what is there.
        let mut next = self.protocol;
        if self.extras & 0b100 != 0 && self.fragment.is_none() {
            put_before(transport, &[next, 2, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 7, 7, 7, 7]);
            next = 51; // authentication header of (2 + 2) * 4 bytes
        }
        if let Some((offset, more)) = self.fragment {
            let [high, low] = ((offset << 3) | u16::from(more)).to_be_bytes();
            put_before(transport, &[next, 0, high, low, 1, 2, 3, 4]);
            next = 44;
        }
        if self.extras & 0b010 != 0 {
            put_before(transport, &[next, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            next = 60; // destination options of (1 + 1) * 8 bytes, padding
        }
        if self.extras & 0b001 != 0 {
            put_before(transport, &[next, 0, 1, 4, 0, 0, 0, 0]);
            next = 0; // hop-by-hop options, padding
        }
        let first = 0x6000_0000 | (u32::from(self.traffic_class) << 20) | self.flow_label;
        let mut bytes = first.to_be_bytes().to_vec();
        bytes.extend(u16::try_from(transport.len()).unwrap().to_be_bytes());
        bytes.extend([next, self.ttl]);
        bytes.extend(self.source.to_be_bytes());
        bytes.extend(self.destination.to_be_bytes());
        bytes.append(transport);
        bytes
    }
}

/// The pseudo-header's addresses and its bytes (RFC 9293 §3.1, RFC 8200 §8.1).
pub(crate) fn pseudo_header(
    v6: bool,
    from: u128,
    to: u128,
    protocol: u8,
    len: u16,
) -> (IpAddr, IpAddr, Vec<u8>) {
    let [high, low] = len.to_be_bytes();
    if v6 {
        let bytes =
            [&from.to_be_bytes()[..], &to.to_be_bytes(), &[0, 0, high, low, 0, 0, 0, protocol]];
        (Ipv6Addr::from_bits(from).into(), Ipv6Addr::from_bits(to).into(), bytes.concat())
    } else {
        let (from, to) = (v4(from), v4(to));
        let bytes = [&from.octets()[..], &to.octets(), &[0, protocol, high, low]];
        (from.into(), to.into(), bytes.concat())
    }
}

/// The last four bytes of an address.
fn v4(address: u128) -> Ipv4Addr {
    let [.., a, b, c, d] = address.to_be_bytes();
    Ipv4Addr::new(a, b, c, d)
}

fn put_before(bytes: &mut Vec<u8>, header: &[u8]) {
    bytes.splice(..0, header.iter().copied());
}
