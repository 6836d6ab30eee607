//! Fragments, put together again the slow way.

use etherparse::Ipv4HeaderSlice;
use overlay_proto::{Fragments, InnerPacket, Mtu};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::checksum::slow;
use crate::packets;

const MORE: u16 = 0x2000;
const OFFSET: u16 = 0x1fff;

/// An IPv4 packet with any header, whose checksum is right.
fn packet() -> impl Strategy<Value = Vec<u8>> {
    let option = prop_oneof![
        3 => Just(vec![1_u8]),
        1 => Just(vec![0_u8]),
        6 => (any::<u8>(), vec(any::<u8>(), 0..9)).prop_map(|(kind, mut data)| {
            let len = u8::try_from(data.len() + 2).unwrap();
            data.splice(..0, [kind, len]);
            data
        }),
        // No option at all.
        1 => vec(any::<u8>(), 1..5),
    ];
    let options = vec(option, 0..5).prop_map(|options| {
        let mut options = options.concat();
        options.resize(options.len().next_multiple_of(4).min(40), 0);
        options
    });
    let word = prop_oneof![Just(0_u16), any::<u16>(), (0_u16..0x2000).prop_map(|at| at | MORE)];
    let len = prop_oneof![0_usize..3000, 0_usize..=65_475];
    (vec(any::<u8>(), 20), options, word, len, any::<u8>()).prop_map(
        |(mut bytes, options, word, len, first)| {
            let header_len = 20 + options.len();
            bytes[0] = 0x40 | u8::try_from(header_len / 4).unwrap();
            bytes[2..4].copy_from_slice(&u16::try_from(header_len + len).unwrap().to_be_bytes());
            bytes[6..8].copy_from_slice(&word.to_be_bytes());
            bytes[10..12].fill(0);
            bytes.extend(options);
            let sum = slow(&[&bytes]);
            bytes[10..12].copy_from_slice(&sum.to_be_bytes());
            bytes.extend((0..len).map(|at| first.wrapping_add(u8::try_from(at % 253).unwrap())));
            bytes
        },
    )
}

fn mtu() -> impl Strategy<Value = Mtu> {
    prop_oneof![576_u32..600, 576_u32..9001].prop_map(|bytes| Mtu::new(bytes).unwrap())
}

fn fragments_of(packet: &[u8], mtu: Mtu) -> Option<Vec<Vec<u8>>> {
    let mut bytes = packet.to_vec();
    let parsed = InnerPacket::parse(packet).unwrap();
    let mut fragments = Fragments::new(&parsed, mtu)?;
    let count = fragments.count_of(packet.len());
    let all = std::iter::from_fn(|| fragments.next_in(&mut bytes).map(|one| one.to_vec()));
    let all: Vec<Vec<u8>> = all.collect();
    assert_eq!(all.len(), count);
    Some(all)
}

fn word(packet: &[u8]) -> u16 {
    u16::from_be_bytes([packet[6], packet[7]])
}

/// What of the options a later fragment has, option by option (RFC 791 §3.1).
fn copied(options: &[u8]) -> Vec<u8> {
    match *options {
        [] | [0, ..] => options.to_vec(),
        [1, ref rest @ ..] => [&[1], &copied(rest)[..]].concat(),
        [kind, len, ..] if len >= 2 && usize::from(len) <= options.len() => {
            let (own, rest) = options.split_at(len.into());
            let own = if kind >= 128 { own.to_vec() } else { vec![1; own.len()] };
            [own, copied(rest)].concat()
        }
        _ => options.to_vec(),
    }
}

/// Puts the payloads of fragments where their offsets say, in the first one's packet.
fn reassembled(fragments: &[Vec<u8>]) -> Vec<u8> {
    let start = usize::from(word(&fragments[0]) & OFFSET) * 8;
    let header_len = usize::from(fragments[0][0] & 15) * 4;
    let mut packet = fragments[0][..header_len].to_vec();
    let last = fragments.last().unwrap();
    packet[6] = packet[6] & !0x20 | last[6] & 0x20;
    for fragment in fragments {
        let header = Ipv4HeaderSlice::from_slice(fragment).unwrap();
        let at = usize::from(header.fragments_offset().value()) * 8 - start;
        assert_eq!(at + header_len, packet.len(), "no gap and no overlap");
        packet.extend_from_slice(&fragment[header.slice().len()..]);
    }
    let len = u16::try_from(packet.len()).unwrap().to_be_bytes();
    packet[2..4].copy_from_slice(&len);
    packet[10..12].fill(0);
    let sum = slow(&[&packet[..header_len]]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet
}

proptest! {
    #[test]
    fn fragments_fit_and_are_the_packet_together(packet in packet(), mtu in mtu()) {
        let header_len = usize::from(packet[0] & 15) * 4;
        let end = usize::from(word(&packet) & OFFSET) * 8 + packet.len();
        let is_possible = word(&packet) & 0x4000 == 0 && end <= 65_535;
        let fragments = fragments_of(&packet, mtu);
        prop_assert_eq!(fragments.is_some(), is_possible);
        let Some(fragments) = fragments else { return Ok(()) };
        if mtu.fits(packet.len()) {
            prop_assert_eq!(&fragments[..], std::slice::from_ref(&packet));
        }
        let later = copied(&packet[20..header_len]);
        for (index, fragment) in fragments.iter().enumerate() {
            let is_last = index + 1 == fragments.len();
            let header = Ipv4HeaderSlice::from_slice(fragment).unwrap();
            prop_assert!(mtu.fits(fragment.len()));
            prop_assert_eq!(usize::from(header.total_len()), fragment.len());
            prop_assert_eq!(slow(&[&fragment[..header_len]]), 0);
            prop_assert!(is_last || (fragment.len() - header_len) % 8 == 0);
            // No more than it takes: eight bytes more would not have fit.
            prop_assert!(is_last || !mtu.fits(fragment.len() + 8));
            prop_assert_eq!(header.more_fragments(), !is_last || word(&packet) & MORE != 0);
            prop_assert_eq!(fragment[6] & 0xc0, packet[6] & 0xc0);
            let options = if index == 0 { &packet[20..header_len] } else { &later };
            prop_assert_eq!(header.options(), options);
            for field in [0..2, 4..6, 8..10, 12..20] {
                prop_assert_eq!(&fragment[field.clone()], &packet[field]);
            }
        }
        prop_assert_eq!(reassembled(&fragments), packet);
    }

    #[test]
    fn fragments_of_fragments_are_the_packet_too(packet in packet(), a in mtu(), b in mtu()) {
        let Some(once) = fragments_of(&packet, a) else { return Ok(()) };
        let twice: Vec<Vec<u8>> =
            once.iter().flat_map(|fragment| fragments_of(fragment, b).unwrap()).collect();
        prop_assert!(twice.iter().all(|fragment| a.fits(fragment.len()) && b.fits(fragment.len())));
        prop_assert_eq!(reassembled(&twice), packet);
    }

    #[test]
    fn nothing_else_is_fragmented(packet in packets::any(), mtu in mtu()) {
        let bytes = packet.bytes();
        let parsed = InnerPacket::parse(&bytes).unwrap();
        if packet.v6 || parsed.dont_fragment() {
            prop_assert!(Fragments::new(&parsed, mtu).is_none());
        }
    }

    #[test]
    fn a_buffer_that_is_too_short_ends_it(packet in packet(), mtu in mtu(), len in 0_usize..3000) {
        let parsed = InnerPacket::parse(&packet).unwrap();
        let Some(mut fragments) = Fragments::new(&parsed, mtu) else { return Ok(()) };
        let mut short = packet[..len.min(packet.len())].to_vec();
        while let Some(fragment) = fragments.next_in(&mut short) {
            prop_assert!(mtu.fits(fragment.len()));
        }
    }
}
