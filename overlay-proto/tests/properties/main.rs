//! What holds for every packet: round trips, no panic on any bytes, fast equals slow.

#![expect(clippy::unwrap_used, clippy::unwrap_in_result, reason = "a test fails by panicking")]

mod checksum;
mod esp;
mod extensions;
mod flow;
mod fragments;
mod icmp;
mod oam;
mod packets;

use etherparse::IpSlice;
use overlay_proto::ecn::{decapsulate, encapsulate, set_ecn};
use overlay_proto::{Codec, DecodeError, Ecn, Family, Fragment, InnerPacket, Mac, Vni};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::checksum::slow;

const GPE: Codec = Codec::VxlanGpe;
const CODECS: [Codec; 3] = [
    GPE,
    Codec::Vxlan { own: Mac::new([2, 0, 0, 0, 0, 1]), peer: Mac::new([2, 0, 0, 0, 0, 2]) },
    Codec::IpUdp,
];
const ALL_ECN: [Ecn; 4] = [Ecn::NotEct, Ecn::Ect1, Ecn::Ect0, Ecn::Ce];

/// The codec as the node at the other end of the tunnel has it.
fn other_end(codec: Codec) -> Codec {
    let Codec::Vxlan { own, peer } = codec else { return codec };
    Codec::Vxlan { own: peer, peer: own }
}

proptest! {
    #[test]
    fn encapsulated_packet_comes_back(vni in 0..=Vni::MAX, packet in packets::any()) {
        let vni = Vni::new(vni).unwrap();
        for codec in CODECS {
            let mut datagram = codec.header(vni, packet.family()).as_slice().to_vec();
            prop_assert_eq!(datagram.len(), codec.header_len());
            datagram.extend_from_slice(&packet.bytes());
            let decoded = other_end(codec).decode(vni, &datagram).unwrap();
            let inner = InnerPacket::parse_as(decoded.family, decoded.inner).unwrap();
            prop_assert_eq!(inner.bytes(), packet.bytes());
        }
    }

    #[test]
    fn other_vni_is_rejected(sent in 0..=Vni::MAX, ours in 0..=Vni::MAX) {
        prop_assume!(sent != ours);
        for codec in &CODECS[..2] {
            let header = codec.header(Vni::new(sent).unwrap(), Family::V4);
            let decoded = other_end(*codec).decode(Vni::new(ours).unwrap(), header.as_slice());
            prop_assert_eq!(decoded, Err(DecodeError::Vni));
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..200), nibble in 0_u8..4) {
        for codec in CODECS {
            let _ = codec.decode(Vni::new(7).unwrap(), &bytes);
        }
        use_everything(&bytes);
        // The same bytes with a version nibble that gets past the first check.
        let mut bytes = bytes;
        if let Some(first) = bytes.first_mut() {
            *first = [0x45, 0x46, 0x4f, 0x60][usize::from(nibble)];
        }
        use_everything(&bytes);
        // And with a length field that is right.
        if let Some([_, _, high, low, v6_high, v6_low, ..]) = bytes.get_mut(..) {
            [*high, *low] = 120_u16.to_be_bytes();
            [*v6_high, *v6_low] = 80_u16.to_be_bytes();
        }
        use_everything(&bytes);
    }

    #[test]
    fn arbitrary_extension_chain_never_panics(
        first in 0_usize..5,
        mut body in vec(prop_oneof![Just(0_u8), Just(43), Just(44), Just(51), Just(60), 0_u8..8],
                        0..160),
    ) {
        let mut bytes = vec![0x60, 0, 0, 0, 0, 0, [0, 43, 44, 51, 60][first], 64];
        bytes.extend([0xfd; 32]);
        bytes[5] = u8::try_from(body.len()).unwrap();
        bytes.append(&mut body);
        use_everything(&bytes);
    }

    #[test]
    fn truncated_packet_is_rejected_at_every_length(packet in packets::any()) {
        let bytes = packet.bytes();
        for len in 0..bytes.len() {
            prop_assert!(InnerPacket::parse(&bytes[..len]).is_err(), "{} of {}", len, bytes.len());
        }
        prop_assert!(InnerPacket::parse(&bytes).is_ok());
    }

    #[test]
    fn fields_are_those_etherparse_sees(packet in packets::any()) {
        let bytes = packet.bytes();
        let ours = InnerPacket::parse(&bytes).unwrap();
        match IpSlice::from_slice(&bytes).unwrap() {
            IpSlice::Ipv4(ip) => {
                prop_assert_eq!(ours.source(), ip.header().source_addr());
                prop_assert_eq!(ours.destination(), ip.header().destination_addr());
                prop_assert_eq!(ours.ttl(), ip.header().ttl());
                prop_assert_eq!(ours.dont_fragment(), ip.header().dont_fragment());
                prop_assert_eq!(ours.ecn().bits(), ip.header().ecn().value());
                let is_fragment = ours.upper_layer().fragment != Fragment::Whole;
                prop_assert_eq!(is_fragment, ip.header().is_fragmenting_payload());
                prop_assert_eq!(ours.protocol(), ip.header().protocol().0);
                prop_assert_eq!(ours.transport(), ip.payload().payload);
            }
            IpSlice::Ipv6(ip) => {
                prop_assert_eq!(ours.source(), ip.header().source_addr());
                prop_assert_eq!(ours.destination(), ip.header().destination_addr());
                prop_assert_eq!(ours.ttl(), ip.header().hop_limit());
                prop_assert_eq!(ours.traffic_class(), ip.header().traffic_class());
                prop_assert_eq!(ours.protocol(), ip.payload().ip_number.0);
                prop_assert_eq!(ours.transport(), ip.payload().payload);
            }
        }
        let starts = packet.fragment.is_none_or(|(offset, _)| offset == 0);
        let [s0, s1, d0, d1] = packet.ports;
        let ports = (u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1]));
        let ports = (starts && [6, 17, 132].contains(&packet.protocol)).then_some(ports);
        prop_assert_eq!(ours.ports(), ports);
    }

    #[test]
    fn rewritten_ecn_keeps_the_rest_and_the_checksum(packet in packets::any(), to in 0_u8..4) {
        let before = packet.bytes();
        let mut after = before.clone();
        set_ecn(&mut after, packet.family(), Ecn::from_bits(to));
        let parsed = InnerPacket::parse(&after).unwrap();
        prop_assert_eq!(parsed.ecn(), Ecn::from_bits(to));
        if packet.family() == Family::V4 {
            prop_assert_eq!(slow(&[&after[..parsed.transport_offset()]]), 0);
        }
        let from = InnerPacket::parse(&before).unwrap().ecn();
        set_ecn(&mut after, packet.family(), from);
        prop_assert_eq!(after, before);
    }
}

/// RFC 6040 §4.2, figure 4, row by row; `None` is a drop.
#[test]
fn ecn_table_is_that_of_rfc_6040() {
    use Ecn::{Ce, Ect0, Ect1, NotEct};
    let outer = [NotEct, Ect0, Ect1, Ce];
    let table = [
        (NotEct, [Some(NotEct), Some(NotEct), Some(NotEct), None]),
        (Ect0, [Some(Ect0), Some(Ect0), Some(Ect1), Some(Ce)]),
        (Ect1, [Some(Ect1), Some(Ect1), Some(Ect1), Some(Ce)]),
        (Ce, [Some(Ce), Some(Ce), Some(Ce), Some(Ce)]),
    ];
    for (inner, row) in table {
        for (outer, expected) in outer.into_iter().zip(row) {
            assert_eq!(decapsulate(inner, outer).ok(), expected, "{inner:?} in {outer:?}");
        }
    }
    for ecn in ALL_ECN {
        assert_eq!(encapsulate(ecn), ecn);
        assert_eq!(Ecn::from_bits(ecn.bits() | 0xfc), ecn);
    }
}

/// Calls every accessor on whatever parses.
fn use_everything(bytes: &[u8]) {
    let Ok(packet) = InnerPacket::parse(bytes) else { return };
    assert!(packet.transport_offset() <= packet.len());
    assert!(packet.len() <= bytes.len());
    let _ = (packet.source(), packet.destination(), packet.source_bits(), packet.ports());
    let _ = (packet.flow_hash(), packet.transport(), packet.upper_layer().fragment, packet.ecn());
    for ecn in ALL_ECN {
        set_ecn(&mut bytes.to_vec(), packet.family(), ecn);
        set_ecn(&mut bytes[..bytes.len() / 3].to_vec(), packet.family(), ecn);
    }
}
