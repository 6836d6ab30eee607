//! ICMP errors: whatever is quoted, the answer is a whole packet with right checksums, goes back
//! where it came from, and is never an answer to an error.

use overlay_proto::{Family, InnerPacket, Mtu, icmp};

use crate::input::{Input, naive_checksum};

pub(crate) fn run(input: &[u8]) {
    let mut input = Input::new(input);
    let room = usize::from(input.word()) % (icmp::MAX_LEN + 1);
    let mtu = Mtu::new(u32::from(input.word()).max(u32::from(Mtu::MIN))).unwrap();
    let Ok(offending) = InnerPacket::parse(input.rest()) else { return };
    let router = match offending.family() {
        Family::V4 => "10.244.1.1".parse().unwrap(),
        Family::V6 => "fd00:10:244:1::1".parse().unwrap(),
    };
    for room in [room, icmp::MAX_LEN] {
        let mut out = vec![0xa5; room];
        let len = icmp::too_big(&offending, router, mtu, &mut out);
        check(&offending, len.map(|len| &out[..len]));
        for why in [
            icmp::Unreachable::NoRoute,
            icmp::Unreachable::AdminProhibited,
            icmp::Unreachable::Address,
        ] {
            let mut out = vec![0xa5; room];
            let len = icmp::unreachable(&offending, router, why, &mut out);
            check(&offending, len.map(|len| &out[..len]));
        }
    }
}

fn check(offending: &InnerPacket<'_>, answer: Option<&[u8]>) {
    let Some(answer) = answer else { return };
    let packet = InnerPacket::parse(answer).expect("an answer is a packet");
    assert_eq!(packet.len(), answer.len());
    assert_eq!(packet.destination(), offending.source());
    let ip_len = packet.family().header_len();
    let body = &answer[ip_len..];
    match packet.family() {
        Family::V4 => {
            assert!(answer.len() <= 576);
            assert_eq!(naive_checksum(&[&answer[..ip_len]]), 0);
            assert_eq!(naive_checksum(&[body]), 0);
        }
        Family::V6 => {
            assert!(answer.len() <= 1280);
            let len = u32::try_from(body.len()).unwrap().to_be_bytes();
            assert_eq!(naive_checksum(&[&answer[8..40], &len, &[0, 0, 0, 58], body]), 0);
        }
    }
    assert!(offending.bytes().starts_with(&body[8..]), "the quote is the offender's start");
    // RFC 1122 §3.2.2: no error about an error.
    let mut out = vec![0; icmp::MAX_LEN];
    let why = icmp::Unreachable::NoRoute;
    assert_eq!(icmp::unreachable(&packet, packet.destination(), why, &mut out), None);
}
