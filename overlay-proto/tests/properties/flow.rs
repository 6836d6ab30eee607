//! The flow hash: what it ignores, what fragments share, how it spreads.

use overlay_proto::{Fragment, InnerPacket};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::packets::{self, Packet};

proptest! {
    #[test]
    fn flow_hash_ignores_what_changes_during_a_flow(
        packet in packets::any(), payload in vec(any::<u8>(), 0..100),
        traffic_class in any::<u8>(), ttl in any::<u8>(), flow_label in 0_u32..(1 << 20),
    ) {
        let later = Packet { payload, traffic_class, ttl, flow_label, ..packet.clone() };
        prop_assert_eq!(hash(&packet), hash(&later));
    }

    #[test]
    fn fragments_of_a_packet_hash_the_same(packet in packets::any(), at in 1_u16..0x1fff) {
        let first = Packet { fragment: Some((0, true)), ..packet.clone() };
        let middle = Packet { fragment: Some((at, true)), ..packet.clone() };
        let last = Packet { fragment: Some((at, false)), payload: vec![0xa5; 3], ..packet };
        prop_assert_eq!(hash(&first), hash(&middle));
        prop_assert_eq!(hash(&first), hash(&last));
        let kinds = [&first, &middle, &last].map(|packet| {
            InnerPacket::parse(&packet.bytes()).unwrap().upper_layer().fragment
        });
        prop_assert_eq!(kinds, [Fragment::First, Fragment::Later, Fragment::Later]);
    }
}

/// Neighbouring ports and pods are the usual input, and the one that shows a weak hash.
#[test]
fn neighbouring_flows_spread_over_high_and_low_bits() {
    for v6 in [false, true] {
        let by_port = (0..4096_u16).map(|i| {
            let [high, low] = (32_768 + i).to_be_bytes();
            Packet { ports: [high, low, 0x01, 0xbb], ..flow(v6) }
        });
        let by_pod = (0..4096_u128).map(|i| Packet { source: flow(v6).source + i, ..flow(v6) });
        let by_subnet = (0..4096_u128).map(|i| Packet {
            destination: flow(v6).destination + (i << if v6 { 64 } else { 8 }),
            ..flow(v6)
        });
        check_spread(&by_port.map(|packet| hash(&packet)).collect::<Vec<_>>());
        check_spread(&by_pod.map(|packet| hash(&packet)).collect::<Vec<_>>());
        check_spread(&by_subnet.map(|packet| hash(&packet)).collect::<Vec<_>>());
    }
}

#[test]
fn directions_and_protocols_are_different_flows() {
    let there = flow(false);
    let back = Packet { source: there.destination, destination: there.source, ..there.clone() };
    let udp = Packet { protocol: 17, ..there.clone() };
    assert_ne!(hash(&there), hash(&back));
    assert_ne!(hash(&there), hash(&udp));
}

/// Checks that every 16th of the hashes' range, told by any four bits in a row, gets its share.
fn check_spread(hashes: &[u32]) {
    let expected = hashes.len() / 16;
    let slack = 5 * expected.isqrt(); // five standard deviations of a fair bucket
    for shift in 0..=28 {
        let mut buckets = [0_usize; 16];
        for hash in hashes {
            buckets[(hash >> shift) as usize & 0xf] += 1;
        }
        let fair = expected - slack..=expected + slack;
        assert!(buckets.iter().all(|len| fair.contains(len)), "bits {shift}..: {buckets:?}");
    }
}

fn flow(v6: bool) -> Packet {
    Packet {
        v6,
        source: if v6 { 0xfd00_0010_0244_0001_0000_0000_0000_0002 } else { 0x0af4_0102 },
        destination: if v6 { 0xfd00_0010_0244_0002_0000_0000_0000_0003 } else { 0x0af4_0203 },
        ..packets::tcp()
    }
}

fn hash(packet: &Packet) -> u32 {
    InnerPacket::parse(&packet.bytes()).unwrap().flow_hash()
}
