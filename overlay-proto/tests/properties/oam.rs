//! Questions and answers of nodes: what is written is read, of any length, and nothing panics.

use std::net::IpAddr;

use overlay_proto::oam::{
    self, Answer, Digest, Ends, MAX_LEN, MAX_TRACE_LEN, Message, Question, Route, Timestamp,
};
use overlay_proto::{Family, InnerPacket};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

fn ends() -> impl Strategy<Value = Ends> {
    let v4 = any::<[[u8; 4]; 2]>().prop_map(|[source, destination]| Ends {
        source: IpAddr::from(source),
        destination: IpAddr::from(destination),
    });
    let v6 = any::<[[u8; 16]; 2]>().prop_map(|[source, destination]| Ends {
        source: IpAddr::from(source),
        destination: IpAddr::from(destination),
    });
    prop_oneof![v4, v6]
}

fn questions() -> impl Strategy<Value = Question> {
    let route = any::<(u8, u8, u64)>().prop_map(|(path, answer_path, nonce)| Route {
        path,
        answer_path,
        nonce,
    });
    let digest = any::<(u32, [u8; 3], bool, u16, u16, u32)>().prop_map(
        |(table, version, is_ready, peers_lost, mtu, drops)| Digest {
            table,
            version,
            is_ready,
            peers_lost,
            mtu,
            drops,
        },
    );
    (any::<(u32, u64, u16)>(), route, digest).prop_map(
        |((sequence, sent, session), route, digest)| Question {
            sequence,
            sent: Timestamp(sent),
            session,
            route,
            digest,
        },
    )
}

fn traces() -> impl Strategy<Value = Option<Vec<u8>>> {
    option::of(vec(any::<u8>(), 0..=MAX_TRACE_LEN))
}

proptest! {
    #[test]
    fn question_comes_back_however_long_it_is(
        question in questions(),
        ends in ends(),
        trace in traces(),
        padding in prop_oneof![Just(0_usize), 4_usize..9000],
    ) {
        let family = ends.family().unwrap();
        let trace = trace.as_deref();
        let len = Question::packet_len(family, trace) + padding;
        let mut bytes = vec![0xa5; 10_000];
        prop_assert_eq!(question.write(ends, trace, len, &mut bytes), Some(len));
        let packet = InnerPacket::parse(&bytes).unwrap();
        prop_assert_eq!(packet.len(), len);
        prop_assert_eq!((packet.source(), packet.destination()), (ends.source, ends.destination));
        prop_assert!(oam::is_oam(&packet));
        prop_assert_eq!(oam::parse(&packet), Ok(Message::Question(question, trace)));
    }

    #[test]
    fn answer_comes_back_and_is_no_longer_than_its_question(
        question in questions(),
        ends in ends(),
        trace in traces(),
        (received, sent, ttl) in any::<(u64, u64, u8)>(),
    ) {
        let family = ends.family().unwrap();
        let trace = trace.as_deref();
        let answer = Answer {
            received: Timestamp(received),
            sent: Timestamp(sent),
            digest: question.digest,
            ..question.answer(ttl)
        };
        let mut bytes = vec![0xa5; MAX_LEN];
        let len = answer.write(ends.turned(), trace, &mut bytes).unwrap();
        prop_assert!(len <= Question::packet_len(family, trace));
        let packet = InnerPacket::parse(&bytes).unwrap();
        prop_assert_eq!(oam::parse(&packet), Ok(Message::Answer(answer, trace)));
    }

    #[test]
    fn whatever_arrives_is_read_or_refused(bytes in vec(any::<u8>(), 0..300), place in 0_usize..120) {
        // Half of them begin as a question does.
        let ends = Ends { source: [10, 0, 0, 1].into(), destination: [10, 0, 1, 1].into() };
        let mut packet = vec![0; 300];
        let question = Question::default();
        question.write(ends, None, 300, &mut packet).unwrap();
        let end = (place + bytes.len()).min(packet.len());
        packet[place..end].copy_from_slice(&bytes[..end - place]);
        for bytes in [&bytes, &packet] {
            if let Ok(packet) = InnerPacket::parse(bytes) {
                let is_read = oam::parse(&packet).is_ok();
                prop_assert!(!is_read || oam::is_oam(&packet));
            }
        }
    }

    #[test]
    fn times_are_told_apart(nanos in 0_u64..4_000_000_000_000_000_000, passed in 0_u64..10_000_000_000) {
        let (before, after) =
            (Timestamp::from_unix_nanos(nanos), Timestamp::from_unix_nanos(nanos + passed));
        if let Some(found) = after.nanos_since(before) {
            prop_assert!(found.abs_diff(passed) <= 2, "{found} for {passed}");
        }
    }
}

#[test]
fn ends_of_two_families_have_no_packet() {
    let ends = Ends { source: [10, 0, 0, 1].into(), destination: [0; 16].into() };
    assert_eq!(ends.family(), None);
    assert_eq!(Question::default().write(ends, None, 500, &mut [0; 1000]), None);
    let room = Question::packet_len(Family::V4, None);
    let ends = Ends { source: [10, 0, 0, 1].into(), destination: [10, 0, 0, 2].into() };
    assert_eq!(Question::default().write(ends, None, room - 1, &mut [0; 1000]), None);
    assert_eq!(Question::default().write(ends, Some(&[0; 201]), 800, &mut [0; 1000]), None);
}
