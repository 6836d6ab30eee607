//! The walk over IPv6 extension headers, chain by chain.

use overlay_proto::{Fragment, InnerPacket, UpperLayer};

const HOP_BY_HOP: u8 = 0;
const TCP: u8 = 6;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const OPTIONS: u8 = 60;

#[test]
fn every_known_header_is_walked() {
    let chain = [
        extension(HOP_BY_HOP, ROUTING, 0, 8),
        extension(ROUTING, FRAGMENT, 2, 24),
        extension(FRAGMENT, AUTHENTICATION, 0, 8),
        extension(AUTHENTICATION, OPTIONS, 1, 12),
        extension(OPTIONS, TCP, 1, 16),
    ];
    let expected = UpperLayer { protocol: TCP, offset: 40 + 68, fragment: Fragment::First };
    assert_eq!(walked(&chain), (expected, Some((0xc000, 0x01bb))));
}

#[test]
fn walk_ends_after_eight_headers() {
    let eight: Vec<_> =
        (0..8).map(|i| extension(OPTIONS, if i == 7 { TCP } else { OPTIONS }, 0, 8)).collect();
    let expected = UpperLayer { protocol: TCP, offset: 104, fragment: Fragment::Whole };
    assert_eq!(walked(&eight), (expected, Some((0xc000, 0x01bb))));

    let mut nine = vec![extension(OPTIONS, OPTIONS, 0, 8)];
    nine.extend(eight);
    let expected = UpperLayer { protocol: OPTIONS, offset: 104, fragment: Fragment::Whole };
    assert_eq!(walked(&nine), (expected, None));
}

#[test]
fn header_longer_than_the_packet_ends_the_walk() {
    for (kind, words) in [(HOP_BY_HOP, 3), (ROUTING, 255), (AUTHENTICATION, 6)] {
        let expected = UpperLayer { protocol: kind, offset: 40, fragment: Fragment::Whole };
        assert_eq!(walked(&[extension(kind, TCP, words, 8)]), (expected, None));
    }
}

#[test]
fn smallest_fragment_offset_makes_a_later_fragment() {
    let mut later = extension(FRAGMENT, TCP, 0, 8);
    later.bytes[3] = 0x08;
    let expected = UpperLayer { protocol: TCP, offset: 48, fragment: Fragment::Later };
    assert_eq!(walked(&[later]), (expected, None));
}

/// RFC 8200 §4.5: reassembly looks at the first fragment's next header only.
#[test]
fn fragments_hash_the_same_whatever_they_say_follows() {
    let first = [extension(FRAGMENT, OPTIONS, 0, 8), extension(OPTIONS, TCP, 0, 8)];
    let mut later = extension(FRAGMENT, OPTIONS, 0, 8);
    later.bytes[2] = 0x10;
    let mut other = later.clone();
    other.bytes[0] = TCP;
    let hash = |chain: &[Extension]| InnerPacket::parse(&packet(chain)).unwrap().flow_hash();
    assert_eq!(hash(&first), hash(&[later]));
    assert_eq!(hash(&first), hash(&[other]));
}

#[derive(Clone)]
struct Extension {
    kind: u8,
    bytes: Vec<u8>,
}

/// A header of `len` bytes, all 0 but for the next header and, if not a fragment, its length field.
fn extension(kind: u8, next: u8, len_field: u8, len: usize) -> Extension {
    let mut bytes = vec![0; len];
    bytes[..2].copy_from_slice(&[next, len_field]);
    Extension { kind, bytes }
}

/// An IPv6 packet with `chain` and the first sixteen bytes of a TCP header.
fn packet(chain: &[Extension]) -> Vec<u8> {
    let body_len = chain.iter().map(|header| header.bytes.len()).sum::<usize>() + 16;
    let mut bytes = vec![0x60, 0, 0, 0, 0, u8::try_from(body_len).unwrap(), chain[0].kind, 64];
    bytes.extend([0xfd; 32]);
    for header in chain {
        bytes.extend(&header.bytes);
    }
    bytes.extend([0xc0, 0x00, 0x01, 0xbb, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10, 0, 0]);
    bytes
}

fn walked(chain: &[Extension]) -> (UpperLayer, Option<(u16, u16)>) {
    let bytes = packet(chain);
    let packet = InnerPacket::parse(&bytes).unwrap();
    (packet.upper_layer(), packet.ports())
}
