//! Fragments of IPv4 packets.

use overlay_proto::{Fragments, InnerPacket};

use crate::{documented, hex, mtu};

/// A packet with this header, and `len` bytes that say where they are.
fn packet(header: &[u8], len: usize) -> Vec<u8> {
    let mut packet = header.to_vec();
    packet.extend((0..len).map(|at| u8::try_from(at % 251).unwrap()));
    packet
}

fn fragments(packet: &[u8], mtu_bytes: u32) -> Vec<Vec<u8>> {
    let mut bytes = packet.to_vec();
    let parsed = InnerPacket::parse(packet).unwrap();
    let mut fragments = Fragments::new(&parsed, mtu(mtu_bytes)).unwrap();
    std::iter::from_fn(|| fragments.next_in(&mut bytes).map(|fragment| fragment.to_vec())).collect()
}

#[test]
fn fragments_are_the_documented_ones() {
    let packet = packet(&documented("fragments-of"), 1200);
    let headers = documented("fragments");
    let expected: Vec<Vec<u8>> = [32..576, 576..1120, 1120..1232]
        .into_iter()
        .zip(headers.chunks(32))
        .map(|(payload, header)| [header, &packet[payload]].concat())
        .collect();
    assert_eq!(fragments(&packet, 576), expected);
}

/// Of a fragment that more follow, and of the last one of a packet: offsets go on from its own.
#[test]
fn fragment_of_a_fragment_has_its_place_in_the_whole() {
    for (header, first, last) in [
        (
            "45 00 03 34 12 34 20 64 40 01 2c 45 0a f4 01 02 0a f4 02 03",
            "45 00 02 3c 12 34 20 64 40 01 2d 3d 0a f4 01 02 0a f4 02 03",
            "45 00 01 0c 12 34 20 a9 40 01 2e 28 0a f4 01 02 0a f4 02 03",
        ),
        (
            "45 00 03 34 12 34 00 64 40 01 4c 45 0a f4 01 02 0a f4 02 03",
            "45 00 02 3c 12 34 20 64 40 01 2d 3d 0a f4 01 02 0a f4 02 03",
            "45 00 01 0c 12 34 00 a9 40 01 4e 28 0a f4 01 02 0a f4 02 03",
        ),
    ] {
        let packet = packet(&hex(header), 800);
        let expected = [[&hex(first)[..], &packet[20..572]], [&hex(last)[..], &packet[572..]]];
        assert_eq!(fragments(&packet, 576), expected.map(|parts| parts.concat()));
    }
}

/// DF, IPv6, and a place that no whole packet can have.
#[test]
fn what_nobody_may_or_can_fragment_is_left() {
    let dont_fragment =
        packet(&hex("45 00 03 34 12 34 40 00 40 01 0c a9 0a f4 01 02 0a f4 02 03"), 800);
    let beyond = packet(&hex("45 00 03 34 12 34 1f ff 40 01 2c aa 0a f4 01 02 0a f4 02 03"), 800);
    let mut v6 = hex("60 00 00 00 03 34 11 40");
    v6.resize(40 + 0x334, 0);
    for packet in [dont_fragment, beyond, v6] {
        let parsed = InnerPacket::parse(&packet).unwrap();
        assert!(Fragments::new(&parsed, mtu(576)).is_none(), "{:02x?}", &packet[..20]);
    }
}
