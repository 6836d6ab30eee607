//! What nodes ask each other, as the document has it.

use overlay_proto::oam::echo::Echo;
use overlay_proto::oam::{self, Answer, Digest, Ends, Message, Question, Route, Timestamp};
use overlay_proto::{DecodeError, Family, InnerPacket};

use super::{GPE, address, documented, vni};

const ROUTE: Route = Route { path: 7, answer_path: 7, nonce: 0x1122_3344_5566_7788 };
const DIGEST: Digest = Digest {
    table: 0x9f31_c2aa,
    version: [0, 1, 0],
    is_ready: true,
    peers_lost: 0,
    mtu: 1464,
    drops: 0,
};

fn question() -> Question {
    let sent = Timestamp::from_unix_nanos(1_700_000_000_500_000_000);
    Question { sequence: 9, sent, session: 0x5a5a, route: ROUTE, digest: DIGEST }
}

fn answer() -> Answer {
    Answer {
        received: Timestamp::from_unix_nanos(1_700_000_000_750_000_000),
        sent: Timestamp(0xe8fe_6f80_c001_0000),
        digest: Digest { table: 0x77aa_01bb, peers_lost: 1, ..DIGEST },
        ..question().answer(64)
    }
}

fn ends(family: Family) -> Ends {
    let [source, destination] = match family {
        Family::V4 => ["10.244.1.1", "10.244.2.1"],
        Family::V6 => ["fd00:10:244:1::1", "fd00:10:244:2::1"],
    };
    Ends { source: address(source), destination: address(destination) }
}

/// The frame around what `write` puts into a buffer that was full of something else.
fn framed(family: Family, write: impl FnOnce(&mut [u8]) -> Option<usize>) -> Vec<u8> {
    let mut packet = vec![0xa5; 2000];
    let len = write(&mut packet).unwrap();
    let header = GPE.oam_header(vni(7), family).unwrap();
    [header.as_slice(), &packet[..len]].concat()
}

#[test]
fn documented_questions_and_answers_are_written() {
    for (name, family) in [("oam-question-ipv4", Family::V4), ("oam-question-ipv6", Family::V6)] {
        let len = Question::packet_len(family, None);
        let frame = framed(family, |out| question().write(ends(family), None, len, out));
        assert_eq!(frame, documented(name), "{name}");
    }
    let turned = ends(Family::V4).turned();
    let frame = framed(Family::V4, |out| answer().write(turned, None, out));
    assert_eq!(frame, documented("oam-answer-ipv4"));
}

#[test]
fn documented_questions_and_answers_are_read() {
    let read = |name| {
        let frame = documented(name);
        assert_eq!(GPE.decode(vni(7), &frame), Err(DecodeError::Flags), "an older node");
        let decoded = GPE.decode_oam(vni(7), &frame).unwrap();
        let packet = InnerPacket::parse_as(decoded.family, decoded.inner).unwrap();
        assert!(oam::is_oam(&packet));
        match oam::parse(&packet).unwrap() {
            Message::Question(question, None) => (Some(question), None),
            Message::Answer(answer, None) => (None, Some(answer)),
            other @ (Message::Question(..) | Message::Answer(..)) => panic!("{other:?}"),
        }
    };
    assert_eq!(read("oam-question-ipv4"), (Some(question()), None));
    assert_eq!(read("oam-question-ipv6"), (Some(question()), None));
    assert_eq!(read("oam-answer-ipv4"), (None, Some(answer())));
}

#[test]
fn only_the_documented_header_is_one_of_questions() {
    let frame = documented("oam-question-ipv4");
    for bit in 0..64 {
        let mut frame = frame.clone();
        frame[bit / 8] ^= 0x80 >> (bit % 8);
        let decoded = GPE.decode_oam(vni(7), &frame);
        // The other family is one, and its packet is not.
        let other = bit == 30 || bit == 31;
        assert_eq!(decoded.is_ok(), other && frame[3] == 2, "bit {bit}");
    }
    assert_eq!(GPE.decode_oam(vni(8), &frame), Err(DecodeError::Vni));
    let plain = documented("datagram-ipv4");
    for vni in [vni(7), vni(8)] {
        assert_eq!(GPE.decode_oam(vni, &plain), Err(DecodeError::Flags));
    }
}

#[test]
fn every_changed_byte_of_a_message_is_noticed() {
    for name in ["oam-question-ipv4", "oam-answer-ipv4", "oam-question-ipv6"] {
        let frame = documented(name);
        for place in 8..frame.len() {
            let mut frame = frame.clone();
            frame[place] ^= 0x40;
            let packet = InnerPacket::parse(&frame[8..]);
            let is_taken = packet.is_ok_and(|packet| oam::parse(&packet).is_ok());
            // IPv6 has no checksum over traffic class, flow label and hop limit.
            let free = name.ends_with("ipv6") && [9, 10, 11, 15].contains(&place);
            assert_eq!(is_taken, free, "{name}, byte {place}");
        }
    }
}

#[test]
fn documented_echo_is_written_and_its_reply_is_read() {
    let echo = Echo { identifier: 0x4242, sequence: 9, nonce: ROUTE.nonce };
    let mut packet = vec![0xa5; 100];
    let len = echo.write(ends(Family::V4), &mut packet).unwrap();
    packet.truncate(len);
    assert_eq!(packet, documented("oam-echo-ipv4"));
    assert_eq!(Echo::parse_reply(&InnerPacket::parse(&packet).unwrap()), None, "a request");
    // A reply differs in type and checksum.
    packet[20] = 0;
    let sum = u16::from_be_bytes([packet[22], packet[23]]).wrapping_add(0x800);
    packet[22..24].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(Echo::parse_reply(&InnerPacket::parse(&packet).unwrap()), Some(echo));
}

#[test]
fn codecs_without_the_bit_have_no_header_of_questions() {
    use overlay_proto::{Codec, Mac};
    let mac = Mac::new([2, 0, 0, 0, 0, 1]);
    for codec in [Codec::IpUdp, Codec::Vxlan { own: mac, peer: mac }] {
        assert_eq!(codec.oam_header(vni(7), Family::V4), None);
        let frame = documented("oam-question-ipv4");
        let decoded = codec.decode_oam(vni(7), &frame);
        assert_eq!(decoded, Err(DecodeError::Flags));
    }
}
