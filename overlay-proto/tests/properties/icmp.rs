//! ICMP errors: sound packets, and none where the RFCs forbid one.

use std::net::IpAddr;

use etherparse::SlicedPacket;
use overlay_proto::icmp::{self, Unreachable};
use overlay_proto::{Family, InnerPacket, Mtu};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::checksum::slow;
use crate::packets::{self, Packet};

proptest! {
    #[test]
    fn icmp_errors_are_sound(packet in packets::any(), room in 0_usize..1400, mtu in 576_u32..9000) {
        let bytes = packet.bytes();
        let offender = InnerPacket::parse(&bytes).unwrap();
        let source = packet.gateway();
        let mtu = Mtu::new(mtu).unwrap();
        let mut out = vec![0xa5; room];
        let len = icmp::too_big(&offender, source, mtu, &mut out);
        check_error(&offender, source, len, &out)?;
        let mut out = vec![0xa5; room];
        let len = icmp::unreachable(&offender, source, Unreachable::AdminProhibited, &mut out);
        check_error(&offender, source, len, &out)?;
    }

    #[test]
    fn icmp_of_arbitrary_packets_never_panics(
        bytes in vec(any::<u8>(), 40..120), v6 in any::<bool>(), room in 0_usize..200,
    ) {
        let mut bytes = bytes;
        bytes[0] = if v6 { 0x60 } else { 0x45 };
        bytes[2..6].copy_from_slice(&[0, 40, 0, 0]);
        let offender = InnerPacket::parse(&bytes);
        prop_assume!(offender.is_ok());
        let mut out = vec![0xa5; room];
        for source in ["10.244.1.1", "fd00:10:244:1::1"] {
            let mtu = Mtu::new(1400).unwrap();
            let _ = icmp::too_big(&offender.unwrap(), source.parse().unwrap(), mtu, &mut out);
        }
    }
}

#[test]
fn quote_fills_576_or_1280_bytes() {
    for (v6, most) in [(false, 576), (true, 1280)] {
        let packet = Packet { payload: vec![0x5a; 1400], ..pod(v6) };
        assert_eq!(answers(&packet), (Some(most), Some(most)));
    }
}

#[test]
fn ordinary_packets_are_answered() {
    for v6 in [false, true] {
        let refused = [6, 17, 132, 47, 50]
            .into_iter()
            .filter(|protocol| answers(&Packet { protocol: *protocol, ..pod(v6) }).0.is_none());
        assert_eq!(refused.collect::<Vec<_>>(), [0; 0]);
    }
}

/// RFC 1122 §3.2.2: no error about an error; unknown types may be errors.
#[test]
fn only_icmp_queries_are_answered() {
    let answered = |v6: bool| {
        (0..=u8::MAX).filter(move |kind| {
            let protocol = if v6 { 58 } else { 1 };
            let packet = Packet { protocol, ports: [*kind, 0, 0, 0], ..pod(v6) };
            let (too_big, unreachable) = answers(&packet);
            assert_eq!(too_big.is_some(), unreachable.is_some());
            too_big.is_some()
        })
    };
    let queries = [0, 8, 9, 10, 13, 14, 15, 16, 17, 18, 42, 43];
    assert_eq!(answered(false).collect::<Vec<_>>(), queries);
    let informational = (128..=u8::MAX).filter(|kind| *kind != 137);
    assert_eq!(answered(true).collect::<Vec<_>>(), informational.collect::<Vec<_>>());
}

#[test]
fn later_ipv4_fragments_are_not_answered_and_ipv6_ones_are() {
    let fragment = |v6, protocol, fragment| {
        answers(&Packet { protocol, fragment: Some(fragment), ..pod(v6) }).0.is_some()
    };
    assert!(fragment(false, 17, (0, true)));
    assert!(!fragment(false, 17, (7, true)));
    assert!(!fragment(false, 17, (7, false)));
    assert!(fragment(true, 17, (0, true)));
    assert!(fragment(true, 17, (7, true)));
    assert!(!fragment(true, 58, (7, true)), "might be a piece of an ICMPv6 error");
}

#[test]
fn addresses_that_are_no_single_host_are_not_answered() {
    let others = ["0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.1", "255.255.255.255", "::", "::1"];
    for text in others {
        let (v6, address) = bits(text);
        let from = Packet { source: address, ..pod(v6) };
        assert_eq!(answers(&from), (None, None), "from {text}");
        let to = Packet { destination: address, ..pod(v6) };
        assert_eq!(answers(&to), (None, None), "to {text}");
    }
    for text in ["240.0.0.1", "ff02::1"] {
        let (v6, address) = bits(text);
        assert_eq!(answers(&Packet { source: address, ..pod(v6) }), (None, None), "from {text}");
    }
}

/// RFC 4443 §2.4 (e.3): path MTU discovery works for multicast.
#[test]
fn ipv6_multicast_gets_too_big_only() {
    let (v6, destination) = bits("ff0e::1");
    let (too_big, unreachable) = answers(&Packet { destination, ..pod(v6) });
    assert!(too_big.is_some());
    assert_eq!(unreachable, None);
}

#[test]
fn source_of_the_other_family_is_refused() {
    let mut out = [0; icmp::MAX_LEN];
    for v6 in [false, true] {
        let bytes = pod(v6).bytes();
        let offender = InnerPacket::parse(&bytes).unwrap();
        let source = pod(!v6).gateway();
        assert_eq!(icmp::unreachable(&offender, source, Unreachable::Address, &mut out), None);
        assert_eq!(icmp::too_big(&offender, source, mtu(1400), &mut out), None);
    }
}

/// RFC 8201 §4: a smaller value would be discarded.
#[test]
fn ipv6_is_not_told_an_mtu_below_1280() {
    let mut out = [0; icmp::MAX_LEN];
    let bytes = pod(true).bytes();
    let offender = InnerPacket::parse(&bytes).unwrap();
    let source = pod(true).gateway();
    assert_eq!(icmp::too_big(&offender, source, mtu(1279), &mut out), None);
    assert!(icmp::too_big(&offender, source, mtu(1280), &mut out).is_some());
}

/// The lengths of both errors about `packet`.
fn answers(packet: &Packet) -> (Option<usize>, Option<usize>) {
    let mut out = [0xa5; icmp::MAX_LEN];
    let bytes = packet.bytes();
    let offender = InnerPacket::parse(&bytes).unwrap();
    let source = packet.gateway();
    let too_big = icmp::too_big(&offender, source, mtu(1400), &mut out);
    (too_big, icmp::unreachable(&offender, source, Unreachable::NoRoute, &mut out))
}

fn pod(v6: bool) -> Packet {
    let source = if v6 { "fd00:10:244:1::2" } else { "10.244.1.2" };
    let destination = if v6 { "fd00:10:244:2::3" } else { "10.244.2.3" };
    Packet { v6, source: bits(source).1, destination: bits(destination).1, ..packets::tcp() }
}

/// Whether an address is IPv6, and its number.
fn bits(text: &str) -> (bool, u128) {
    match text.parse().unwrap() {
        IpAddr::V4(address) => (false, u128::from(address.to_bits())),
        IpAddr::V6(address) => (true, address.to_bits()),
    }
}

fn mtu(bytes: u32) -> Mtu {
    Mtu::new(bytes).unwrap()
}

/// Checks a built error with etherparse and the slow checksum.
fn check_error(
    offender: &InnerPacket<'_>,
    source: IpAddr,
    len: Option<usize>,
    out: &[u8],
) -> Result<(), TestCaseError> {
    let Some(len) = len else { return Ok(()) };
    let error = &out[..len];
    prop_assert!(out[len..].iter().all(|byte| *byte == 0xa5), "wrote past the packet");
    let sliced = SlicedPacket::from_ip(error).unwrap();
    prop_assert!(sliced.transport.is_some());
    let parsed = InnerPacket::parse(error).unwrap();
    prop_assert_eq!(parsed.source(), source);
    prop_assert_eq!(parsed.destination(), offender.source());
    prop_assert_eq!((parsed.ttl(), parsed.traffic_class()), (64, 0xc0));
    let body = parsed.transport();
    let quote = &body[8..];
    prop_assert_eq!(quote, &offender.bytes()[..quote.len()]);
    let most = match parsed.family() {
        Family::V4 => {
            prop_assert!(!parsed.dont_fragment());
            prop_assert_eq!(slow(&[&error[..20]]), 0);
            prop_assert_eq!(slow(&[body]), 0);
            576
        }
        Family::V6 => {
            let body_len = u16::try_from(body.len()).unwrap();
            let (_, _, pseudo) = packets::pseudo_header(
                true,
                parsed.source_bits(),
                parsed.destination_bits(),
                58,
                body_len,
            );
            prop_assert_eq!(slow(&[&pseudo, body]), 0);
            1280
        }
    };
    let whole = error.len() - quote.len() + offender.len();
    prop_assert_eq!(len, most.min(out.len()).min(whole), "as much as fits is quoted");
    Ok(())
}
