//! VXLAN, byte for byte.

use overlay_proto::{Codec, DecodeError, Decoded, Family, InnerPacket, Mac};

use crate::{address, documented, vni};

/// The tunnel as the node at 192.168.1.11 sees it, and as the one at 192.168.1.12 does.
fn ends() -> (Codec, Codec) {
    let [one, two] = ["192.168.1.11", "192.168.1.12"].map(|node| Mac::derived(address(node)));
    (Codec::Vxlan { own: one, peer: two }, Codec::Vxlan { own: two, peer: one })
}

#[test]
fn documented_datagrams_are_written_and_read() {
    let (sender, receiver) = ends();
    for (block, carried, family) in
        [("vxlan-ipv4", "datagram-ipv4", Family::V4), ("vxlan-ipv6", "datagram-ipv6", Family::V6)]
    {
        let (datagram, inner) = (documented(block), &documented(carried)[8..]);
        let mut written = sender.header(vni(1), family).as_slice().to_vec();
        assert_eq!(written.len(), sender.header_len());
        written.extend_from_slice(inner);
        assert_eq!(written, datagram, "{block}");

        let decoded = receiver.decode(vni(1), &datagram);
        assert_eq!(decoded, Ok(Decoded { family, inner }), "{block}");
        assert!(InnerPacket::parse_as(family, inner).is_ok(), "{block}");
    }
}

#[test]
fn header_of_the_widest_network_is_literally_this() {
    let (own, peer) = (Mac::new([2, 0, 0, 0, 0, 1]), Mac::new([0x9e, 8, 7, 6, 5, 4]));
    let header = Codec::Vxlan { own, peer }.header(vni(0xff_ffff), Family::V6);
    let expected =
        [8, 0, 0, 0, 255, 255, 255, 0, 0x9e, 8, 7, 6, 5, 4, 2, 0, 0, 0, 0, 1, 0x86, 0xdd];
    assert_eq!(header.as_slice(), expected);
}

#[test]
fn every_flipped_header_bit_is_named_but_those_of_the_source() {
    let (_, receiver) = ends();
    for block in ["vxlan-ipv4", "vxlan-ipv6"] {
        for bit in 0..8 * 22 {
            let mut datagram = documented(block);
            datagram[bit / 8] ^= 0x80 >> (bit % 8);
            let decoded = receiver.decode(vni(1), &datagram).map(|decoded| decoded.inner.len());
            let expected = match bit / 8 {
                0 => Err(DecodeError::Flags),
                1..=3 | 7 => Err(DecodeError::Reserved),
                4..=6 => Err(DecodeError::Vni),
                8..=13 => Err(DecodeError::DestinationMac),
                14..=19 => Ok(datagram.len() - 22),
                _ => Err(DecodeError::EtherType),
            };
            assert_eq!(decoded, expected, "{block}, bit {bit}");
        }
    }
}

#[test]
fn frames_that_carry_no_ip_and_frames_for_others_have_their_own_names() {
    let (sender, receiver) = ends();
    let frame = |destination: [u8; 6], kind: u16| {
        let mut datagram = documented("vxlan-ipv4");
        datagram[8..14].copy_from_slice(&destination);
        datagram[20..22].copy_from_slice(&kind.to_be_bytes());
        receiver.decode(vni(1), &datagram).map(|decoded| decoded.family)
    };
    let (broadcast, group) = ([0xff; 6], [0x01, 0, 0x5e, 0, 0, 1]);
    let Codec::Vxlan { own: neighbour, peer: own } = sender else { unreachable!() };
    // ARP, VLAN, MPLS, a length instead of a type.
    for kind in [0x0806, 0x8100, 0x8847, 0x0020] {
        for destination in [own.octets(), broadcast] {
            assert_eq!(frame(destination, kind), Err(DecodeError::EtherType));
        }
    }
    for destination in [broadcast, group, neighbour.octets(), [0; 6]] {
        assert_eq!(frame(destination, 0x0800), Err(DecodeError::DestinationMac));
        assert_eq!(frame(destination, 0x86dd), Err(DecodeError::DestinationMac));
    }
    assert_eq!(frame(own.octets(), 0x0800), Ok(Family::V4));
}

#[test]
fn checks_are_made_in_the_documented_order() {
    let (_, receiver) = ends();
    let right = documented("vxlan-ipv4");
    let mut datagram = [0xff; 22]; // wrong in every field
    let mut seen = vec![receiver.decode(vni(1), &datagram[..21]).unwrap_err()];
    for field in [0..1, 1..4, 7..8, 4..7, 20..22, 8..14] {
        seen.push(receiver.decode(vni(1), &datagram).unwrap_err());
        datagram[field.clone()].copy_from_slice(&right[field]);
    }
    seen.dedup();
    assert_eq!(
        seen,
        [
            DecodeError::TooShort,
            DecodeError::Flags,
            DecodeError::Reserved,
            DecodeError::Vni,
            DecodeError::EtherType,
            DecodeError::DestinationMac,
        ]
    );
    assert!(receiver.decode(vni(1), &datagram).is_ok());
}

#[test]
fn the_header_of_another_codec_is_not_taken() {
    let (_, receiver) = ends();
    for block in ["datagram-ipv4", "datagram-ipv6", "ip-udp-ipv4", "ip-udp-ipv6"] {
        assert_eq!(receiver.decode(vni(7), &documented(block)), Err(DecodeError::Flags), "{block}");
    }
}
