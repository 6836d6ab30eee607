//! The bytes on the wire, literally: `docs/wire-format.md` and the crate must say the same.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod esp;
mod fragments;
mod ip_udp;
mod oam;
mod vxlan;

use std::net::IpAddr;

use overlay_proto::icmp::{self, Unreachable};
use overlay_proto::{
    Codec, CodecKind, DecodeError, Decoded, Ecn, Family, InnerError, InnerPacket, Mtu, Vni,
};

const DOCUMENT: &str = include_str!("../../../docs/wire-format.md");

const GPE: Codec = Codec::VxlanGpe;

#[test]
fn header_is_the_documented_one() {
    let expected_v4 = [0x0c, 0x00, 0x00, 0x01, 0x00, 0x00, 0x07, 0x00];
    let expected_v6 = [0x0c, 0x00, 0x00, 0x02, 0x00, 0x00, 0x07, 0x00];
    assert_eq!(GPE.header(vni(7), Family::V4).as_slice(), expected_v4);
    assert_eq!(GPE.header(vni(7), Family::V6).as_slice(), expected_v6);
    assert_eq!(documented("header-ipv4"), expected_v4);
    assert_eq!(documented("header-ipv6"), expected_v6);
}

#[test]
fn widest_vni_fills_its_three_bytes() {
    assert_eq!(
        GPE.header(vni(0x12_3456), Family::V4).as_slice(),
        [0x0c, 0x00, 0x00, 0x01, 0x12, 0x34, 0x56, 0x00]
    );
    assert_eq!(
        GPE.header(vni(Vni::MAX), Family::V6).as_slice(),
        [0x0c, 0x00, 0x00, 0x02, 0xff, 0xff, 0xff, 0x00]
    );
}

#[test]
fn port_and_overhead_are_the_documented_ones() {
    for (codec, left) in [
        (CodecKind::VxlanGpe, [1464, 1444]),
        (CodecKind::Vxlan, [1450, 1430]),
        (CodecKind::IpUdp, [1472, 1452]),
    ] {
        let port = codec.default_port();
        let sentence = format!("UDP\ndestination port {port}");
        assert!(DOCUMENT.replace(' ', "\n").contains(&sentence.replace(' ', "\n")), "{codec}");
        assert!(DOCUMENT.lines().any(|line| {
            line.starts_with(&format!("| `{codec}` |")) && line.contains(&format!("| {port} |"))
        }));
        for ((family, name, ip), left) in
            [(Family::V4, "IPv4", 20), (Family::V6, "IPv6", 40)].into_iter().zip(left)
        {
            let (overhead, header) = (codec.overhead(family), codec.header_len());
            let row = format!("| `{codec}` | {name} | {ip} | 8 | {header} | {overhead} | {left} |");
            assert!(DOCUMENT.contains(&row), "no row {row}");
            assert_eq!(mtu(1500).shrink(overhead), Some(mtu(left)));
        }
    }
}

#[test]
fn every_drop_reason_is_documented() {
    let decode = DecodeError::ALL.map(DecodeError::as_str);
    let inner = InnerError::ALL.map(InnerError::as_str);
    for name in decode.iter().chain(&inner) {
        assert!(DOCUMENT.contains(&format!("`{name}`")), "{name}");
    }
}

#[test]
fn documented_datagrams_decode() {
    for (name, family) in [("datagram-ipv4", Family::V4), ("datagram-ipv6", Family::V6)] {
        let datagram = documented(name);
        let decoded = GPE.decode(vni(7), &datagram).unwrap();
        assert_eq!(decoded, Decoded { family, inner: &datagram[8..] }, "{name}");

        let packet = InnerPacket::parse_as(family, decoded.inner).unwrap();
        assert_eq!(packet.bytes(), &datagram[8..], "{name}");
        assert_eq!(packet.family(), family, "{name}");
        assert_eq!(packet.ecn(), Ecn::Ect0, "{name}");
        assert_eq!(packet.ttl(), 63, "{name}");
        assert!(packet.dont_fragment(), "{name}");
        assert_eq!(packet.protocol(), 0x11, "{name}");
        assert_eq!(packet.ports(), Some((49_152, 53)), "{name}");
        assert_eq!(&packet.transport()[8..], b"ping", "{name}");

        let mut rebuilt = GPE.header(vni(7), family).as_slice().to_vec();
        rebuilt.extend_from_slice(packet.bytes());
        assert_eq!(rebuilt, datagram, "{name}");
    }
}

#[test]
fn documented_addresses_are_read() {
    let v4 = documented("datagram-ipv4");
    let packet = InnerPacket::parse(&v4[8..]).unwrap();
    assert_eq!(packet.source(), address("10.244.1.2"));
    assert_eq!(packet.destination(), address("10.244.2.3"));
    assert_eq!(packet.source_bits(), 0x0af4_0102 << 96);
    assert_eq!(packet.destination_bits(), 0x0af4_0203 << 96);

    let v6 = documented("datagram-ipv6");
    let packet = InnerPacket::parse(&v6[8..]).unwrap();
    assert_eq!(packet.source(), address("fd00:10:244:1::2"));
    assert_eq!(packet.destination(), address("fd00:10:244:2::3"));
    assert_eq!(packet.source_bits(), 0xfd00_0010_0244_0001_0000_0000_0000_0002);
    assert_eq!(packet.destination_bits(), 0xfd00_0010_0244_0002_0000_0000_0000_0003);
}

#[test]
fn every_flipped_header_bit_is_rejected_and_named() {
    for block in ["datagram-ipv4", "datagram-ipv6"] {
        for bit in 0..64 {
            let mut datagram = documented(block);
            datagram[bit / 8] ^= 0x80 >> (bit % 8);
            let next_protocol_is_still_known = datagram[3] == 0x01 || datagram[3] == 0x02;
            let expected = match bit {
                0 | 1 => DecodeError::Reserved,
                2 | 3 => DecodeError::Version,
                4..=7 => DecodeError::Flags,
                8..=23 => DecodeError::Reserved,
                24..=31 => {
                    assert!(!next_protocol_is_still_known, "one bit does not lead from 1 to 2");
                    DecodeError::NextProtocol
                }
                32..=55 => DecodeError::Vni,
                _ => DecodeError::Reserved,
            };
            assert_eq!(GPE.decode(vni(7), &datagram), Err(expected), "{block}, bit {bit}");
        }
    }
}

#[test]
fn every_reserved_byte_and_next_protocol_value_is_checked() {
    for value in 1..=u8::MAX {
        for reserved in [1, 2, 7] {
            let mut datagram = documented("datagram-ipv4");
            datagram[reserved] = value;
            assert_eq!(GPE.decode(vni(7), &datagram), Err(DecodeError::Reserved));
        }
    }
    for value in (0..=u8::MAX).filter(|value| ![1, 2].contains(value)) {
        let mut datagram = documented("datagram-ipv4");
        datagram[3] = value;
        assert_eq!(GPE.decode(vni(7), &datagram), Err(DecodeError::NextProtocol));
    }
}

#[test]
fn checks_are_made_in_the_documented_order() {
    let mut datagram = [0xff; 8]; // wrong in every field
    let mut seen = vec![GPE.decode(vni(7), &datagram[..7]).unwrap_err()];
    for (byte, right) in [(0, 0xcf), (0, 0xcc), (0, 0x0c), (1, 0), (2, 0), (7, 0), (3, 1)] {
        seen.push(GPE.decode(vni(7), &datagram).unwrap_err());
        datagram[byte] = right;
    }
    seen.push(GPE.decode(vni(7), &datagram).unwrap_err());
    seen.dedup();
    assert_eq!(seen, DecodeError::ALL[..6]); // the others are of other codecs
}

#[test]
fn announced_family_must_be_that_of_the_packet() {
    let v4 = documented("datagram-ipv4");
    let v6 = documented("datagram-ipv6");
    let mismatch = Err(InnerError::FamilyMismatch);
    assert_eq!(InnerPacket::parse_as(Family::V6, &v4[8..]), mismatch);
    assert_eq!(InnerPacket::parse_as(Family::V4, &v6[8..]), mismatch);
    assert_eq!(InnerPacket::parse_as(Family::V4, &[0x55; 64]), Err(InnerError::Version));
    assert_eq!(InnerPacket::parse_as(Family::V4, &[]), Err(InnerError::TooShort));
}

#[test]
fn impossible_lengths_are_named() {
    let v4 = documented("datagram-ipv4")[8..].to_vec();
    let v6 = documented("datagram-ipv6")[8..].to_vec();
    let with = |packet: &[u8], changes: &[(usize, u8)]| {
        let mut bytes = packet.to_vec();
        for (at, value) in changes {
            bytes[*at] = *value;
        }
        InnerPacket::parse(&bytes).map(|packet| packet.len()).unwrap_err()
    };
    assert_eq!(with(&v4, &[(0, 0x44)]), InnerError::HeaderLength);
    assert_eq!(with(&v4, &[(3, 19)]), InnerError::TotalLength);
    assert_eq!(with(&v4, &[(3, 0)]), InnerError::TotalLength);
    assert_eq!(with(&v4, &[(0, 0x4f)]), InnerError::TotalLength);
    assert_eq!(with(&v4, &[(3, 33)]), InnerError::Truncated);
    assert_eq!(with(&v6, &[(5, 13)]), InnerError::Truncated);
    assert_eq!(with(&v6, &[(5, 0), (6, 0)]), InnerError::Jumbogram);
}

#[test]
fn bytes_behind_the_packet_are_left_out() {
    for (block, len) in [("datagram-ipv4", 32), ("datagram-ipv6", 52)] {
        let mut padded = documented(block)[8..].to_vec();
        padded.extend_from_slice(&[0xa5; 30]);
        assert_eq!(InnerPacket::parse(&padded).unwrap().bytes(), &padded[..len]);
    }
}

#[test]
fn too_big_is_the_documented_packet() {
    // A UDP packet of 1500 zero bytes but for its headers.
    let mut v4 = hex("45 00 05 dc 1c 46 40 00 40 11 ff de 0a f4 01 02 0a f4 02 03
                      c0 00 00 35 05 c8 1b 3c");
    v4.resize(1500, 0);
    let mut v6 = hex("60 00 00 00 05 b4 11 40 fd 00 00 10 02 44 00 01 00 00 00 00 00 00 00 02
                      fd 00 00 10 02 44 00 02 00 00 00 00 00 00 00 03 c0 00 00 35 05 b4 35 9f");
    v6.resize(1500, 0);

    for (offender, from, mtu_bytes, block) in
        [(v4, "10.244.1.1", 1464, "too-big-ipv4"), (v6, "fd00:10:244:1::1", 1444, "too-big-ipv6")]
    {
        let expected = documented(block);
        let mut out = vec![0xa5; expected.len()];
        let offender = InnerPacket::parse(&offender).unwrap();
        let len = icmp::too_big(&offender, address(from), mtu(mtu_bytes), &mut out);
        assert_eq!(len, Some(expected.len()), "{block}");
        assert_eq!(out, expected, "{block}");

        let mut short = vec![0xa5; expected.len() - 1];
        let len = icmp::too_big(&offender, address(from), mtu(mtu_bytes), &mut short);
        assert_eq!(len, None, "{block}: no room for the least quote");
    }
}

#[test]
fn unreachable_is_the_documented_packet() {
    for (block, error, from) in [
        ("datagram-ipv4", "no-route-ipv4", "10.244.1.1"),
        ("datagram-ipv6", "no-route-ipv6", "fd00:10:244:1::1"),
    ] {
        let datagram = documented(block);
        let offender = InnerPacket::parse(&datagram[8..]).unwrap();
        let mut out = [0xa5; icmp::MAX_LEN];
        let len = icmp::unreachable(&offender, address(from), Unreachable::NoRoute, &mut out);
        let expected = documented(error);
        assert_eq!(out[..len.unwrap()], expected, "{error}");
        assert!(out[expected.len()..].iter().all(|byte| *byte == 0xa5), "wrote past the packet");
    }
}

#[test]
fn unreachable_codes_are_the_documented_ones() {
    use Unreachable::{Address, AdminProhibited, NoRoute};
    for (block, from, kind_at, kind, codes) in [
        ("datagram-ipv4", "10.244.1.1", 20, 3, [0, 13, 1]),
        ("datagram-ipv6", "fd00:10:244:1::1", 40, 1, [0, 1, 3]),
    ] {
        let datagram = documented(block);
        let offender = InnerPacket::parse(&datagram[8..]).unwrap();
        for (why, code) in [NoRoute, AdminProhibited, Address].into_iter().zip(codes) {
            let mut out = [0xa5; icmp::MAX_LEN];
            assert!(icmp::unreachable(&offender, address(from), why, &mut out).is_some());
            assert_eq!(out[kind_at..kind_at + 2], [kind, code], "{block}, {why:?}");
        }
    }
}

fn vni(value: u32) -> Vni {
    Vni::new(value).unwrap()
}

fn mtu(bytes: u32) -> Mtu {
    Mtu::new(bytes).unwrap()
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The bytes of the document's block ```` ```hex NAME ````.
fn documented(name: &str) -> Vec<u8> {
    let fence = format!("```hex {name}\n");
    let (_, rest) = DOCUMENT.split_once(&fence).unwrap_or_else(|| panic!("no block {name}"));
    let (block, _) = rest.split_once("```").expect("fences come in pairs");
    hex(block)
}

fn hex(text: &str) -> Vec<u8> {
    text.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
}
