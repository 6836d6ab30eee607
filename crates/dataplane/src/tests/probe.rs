//! Questions of other nodes: who is answered, by which path, and what never reaches a pod.

use overlay_proto::oam::echo::Echo;
use overlay_proto::oam::{self, Digest, Ends, Message, Question, Route};
use tokio::sync::mpsc::Receiver;

use super::packets::Spec;
use super::*;
use crate::engine::router_of;

const NONCE: u64 = 0x1122_3344_5566_7788;

fn ends(family: Family, from: u8, to: u8) -> Ends {
    let router = |node: u8| match family {
        Family::V4 => router_of(&format!("10.244.{node}.0/24").parse().unwrap()),
        Family::V6 => router_of(&format!("fd00:10:244:{node}::/64").parse().unwrap()),
    };
    Ends { source: router(from), destination: router(to) }
}

fn question(sequence: u32, answer_path: u8) -> Question {
    let route = Route { path: 3, answer_path, nonce: NONCE };
    Question { sequence, route, ..Question::default() }
}

/// The frame of a question that is `padding` bytes longer than needed.
fn frame(question: Question, ends: Ends, padding: usize, trace: Option<&[u8]>) -> Vec<u8> {
    let family = ends.family().unwrap();
    let len = Question::packet_len(family, trace) + padding;
    let mut packet = vec![0xa5; len];
    question.write(ends, trace, len, &mut packet).unwrap();
    [Codec::default().oam_header(vni(), family).unwrap().as_slice(), &packet].concat()
}

fn bench() -> (Bench, Probes, Receiver<ProbeArrival>) {
    let mut bench = Bench::new(Offload::TcpUdp);
    let (probes, arrivals) = Probes::new(0x4242);
    bench.ingress.reflect(probes.clone());
    (bench, probes, arrivals)
}

fn arrives(bench: &mut Bench, from: u8, frame: &[u8]) {
    bench.arrive(underlay_of(from), Ecn::NotEct, &[frame.to_vec()]);
}

/// What the bench has answered: to whom, by which path, and with what.
fn answers(bench: &Bench) -> Vec<(SocketAddr, usize, oam::Answer)> {
    let read = |train: &MemoryTrain| {
        let decoded = Codec::default().decode_oam(vni(), &train.bytes).unwrap();
        let packet = InnerPacket::parse_as(decoded.family, decoded.inner).unwrap();
        let Ok(Message::Answer(answer, None)) = oam::parse(&packet) else { panic!("no answer") };
        (train.peer, train.bucket, answer)
    };
    bench.underlay.sent.iter().map(read).collect()
}

#[test]
fn a_question_is_answered_by_the_path_that_it_asks_for_and_reaches_no_pod() {
    for family in [Family::V4, Family::V6] {
        for padding in [0, 1000] {
            let (mut bench, probes, _arrivals) = bench();
            probes.set_digest(Digest { table: 7, is_ready: true, ..Digest::default() });
            let frame = frame(question(9, 11), ends(family, 2, 1), padding, None);
            arrives(&mut bench, 2, &frame);
            bench.run();
            let [(to, path, answer)] = answers(&bench)[..] else { panic!("one answer") };
            assert_eq!((to, path), (underlay_of(2), 11));
            assert_eq!((answer.sequence, answer.route.nonce, answer.ttl), (9, NONCE, 64));
            assert_eq!((answer.digest.table, answer.digest.is_ready), (7, true));
            assert!(bench.underlay.sent[0].bytes.len() <= frame.len());
            assert_eq!((bench.tun.written.len(), bench.drops()), (0, vec![]));
            // It is no traffic.
            let counters = &bench.table.peers()[0].counters;
            assert_eq!((counters.ingress().packets, counters.last_heard_ms()), (0, None));
        }
    }
}

#[test]
fn only_a_peer_is_answered_and_only_from_bridge_to_bridge() {
    let refused = |from: u8, ends: Ends| {
        let (mut bench, ..) = bench();
        arrives(&mut bench, from, &frame(question(9, 0), ends, 0, None));
        bench.run();
        assert_eq!((bench.tun.written.len(), bench.underlay.sent.len()), (0, 0));
        bench.drops()
    };
    let right = ends(Family::V4, 2, 1);
    assert_eq!(refused(9, right), [(DropReason::UnknownPeer, 1)]);
    assert_eq!(refused(3, right), [(DropReason::SpoofedSource, 1)]);
    let pod = Ends { source: "10.244.2.5".parse().unwrap(), ..right };
    assert_eq!(refused(2, pod), [(DropReason::SpoofedSource, 1)]);
    let pod = Ends { destination: "10.244.1.5".parse().unwrap(), ..right };
    assert_eq!(refused(2, pod), [(DropReason::NotOurDestination, 1)]);
}

#[test]
fn what_has_the_bit_and_is_no_message_is_dropped_for_its_flags() {
    let flags = [(DropReason::Header(overlay_proto::DecodeError::Flags), 1)];
    let (mut bench, ..) = bench();
    // A pod's packet behind the bit accuses nobody of another's address.
    let packet = Spec::incoming(Family::V4, false, vec![1; 100]).build();
    let header = Codec::default().oam_header(vni(), Family::V4).unwrap();
    arrives(&mut bench, 2, &[header.as_slice(), &packet].concat());
    bench.run();
    assert_eq!((bench.drops(), bench.tun.written.len()), (flags.to_vec(), 0));
    let (mut bench, ..) = self::bench();
    let mut frame = frame(question(9, 0), ends(Family::V4, 2, 1), 0, None);
    *frame.last_mut().unwrap() ^= 1;
    arrives(&mut bench, 2, &frame);
    bench.run();
    assert_eq!((bench.drops(), bench.underlay.sent.len()), (flags.to_vec(), 0));
    // And by whoever does not answer at all.
    let mut bench = Bench::new(Offload::TcpUdp);
    *frame.last_mut().unwrap() ^= 1;
    arrives(&mut bench, 2, &frame);
    bench.run();
    assert_eq!((bench.drops(), bench.underlay.sent.len()), (flags.to_vec(), 0));
}

#[test]
fn a_flood_of_questions_gets_few_answers() {
    let (mut bench, ..) = bench();
    for sequence in 0..1000 {
        arrives(&mut bench, 2, &frame(question(sequence, 0), ends(Family::V4, 2, 1), 0, None));
    }
    arrives(&mut bench, 3, &frame(question(1, 0), ends(Family::V4, 3, 1), 0, None));
    bench.run();
    // The other peer does not suffer.
    assert_eq!(bench.underlay.sent.len(), 64 + 1);
    assert_eq!(bench.drops(), []);
    let counters = &bench.counters;
    let counts = [&counters.probes_answered, &counters.probes_refused];
    let counts = counts.map(|count| count.load(std::sync::atomic::Ordering::Relaxed));
    assert_eq!(counts, [65, 936]);
}

#[test]
fn an_answer_is_handed_on_and_reaches_no_pod() {
    let (mut bench, _probes, mut arrivals) = bench();
    let mut packet = vec![0; 500];
    let answer = question(9, 4).answer(64);
    let len = answer.write(ends(Family::V4, 2, 1), None, &mut packet).unwrap();
    let header = Codec::default().oam_header(vni(), Family::V4).unwrap();
    arrives(&mut bench, 2, &[header.as_slice(), &packet[..len]].concat());
    bench.run();
    let Ok(ProbeArrival::Answer { peer, answer: found, .. }) = arrivals.try_recv() else {
        panic!("nothing was handed on")
    };
    assert_eq!((peer, found), (underlay_of(2).ip(), answer));
    assert_eq!((bench.tun.written.len(), bench.drops()), (0, vec![]));
}

#[test]
fn a_question_about_a_packet_is_left_to_control() {
    let (mut bench, _probes, mut arrivals) = bench();
    let frame = frame(question(9, 4), ends(Family::V4, 2, 1), 100, Some(b"a question"));
    arrives(&mut bench, 2, &frame);
    bench.run();
    let Ok(ProbeArrival::Trace { trace, room, .. }) = arrivals.try_recv() else {
        panic!("nothing was handed on")
    };
    assert_eq!((&*trace, room), (&b"a question"[..], frame.len() - 8));
    assert_eq!((bench.tun.written.len(), bench.underlay.sent.len()), (0, 0));
}

#[test]
fn an_echo_reply_of_this_daemon_is_taken_while_it_is_waited_for_and_no_other() {
    let bridges = ends(Family::V4, 2, 1);
    let pod = Ends { destination: "10.244.1.5".parse().unwrap(), ..bridges };
    let reply = |identifier, ends| {
        let echo = Echo { identifier, sequence: 9, nonce: NONCE };
        let mut packet = vec![0; 100];
        let len = echo.write(ends, &mut packet).unwrap();
        packet.truncate(len);
        packet[20] = 0;
        let sum = u16::from_be_bytes([packet[22], packet[23]]);
        let (sum, carry) = sum.overflowing_add(0x0800);
        packet[22..24].copy_from_slice(&(sum + u16::from(carry)).to_be_bytes());
        let header = Codec::default().header(vni(), Family::V4);
        [header.as_slice(), &packet].concat()
    };
    for (identifier, ends, echoes, is_taken) in [
        (0x4242, bridges, true, true),
        (0x4243, bridges, true, false),
        // A pod's `ping` may have this number, too.
        (0x4242, pod, true, false),
        (0x4242, bridges, false, false),
    ] {
        let (mut bench, _probes, mut arrivals) = bench();
        bench.table.peers()[0].paths.set_echoes(echoes);
        arrives(&mut bench, 2, &reply(identifier, ends));
        bench.run();
        let arrived = arrivals.try_recv();
        assert_eq!(matches!(arrived, Ok(ProbeArrival::Echo { .. })), is_taken);
        assert_eq!(
            bench.tun.written.len(),
            usize::from(!is_taken),
            "{identifier:x} {ends:?} {echoes}"
        );
    }
}

#[test]
fn flows_leave_by_another_path_while_theirs_is_lost() {
    let mut bench = Bench::new(Offload::None);
    let send = |bench: &mut Bench| {
        for port in 0..64_u8 {
            let spec = Spec::outgoing(Family::V4, false, vec![port; 10 + usize::from(port)]);
            let mut packet = spec.build();
            packet[21] = port;
            bench.pod_sends(&VnetHeader::default(), &packet);
        }
        bench.run();
        let buckets: Vec<_> = bench.underlay.sent.iter().map(|train| train.bucket).collect();
        bench.underlay.sent.clear();
        buckets
    };
    let before = send(&mut bench);
    let lost = before[0];
    bench.table.peers()[0].paths.avoid(1 << lost);
    let after = send(&mut bench);
    assert_eq!(before.len(), 64);
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(before != after, *before == lost, "{before} became {after}");
        assert_ne!(*after, lost);
    }
    bench.table.peers()[0].paths.avoid(0);
    assert_eq!(send(&mut bench), before);
}

#[test]
fn a_question_is_as_long_as_it_is_to_be_on_the_underlay() {
    for (family, outer_len) in
        [(Family::V4, 1280), (Family::V6, 1281), (Family::V4, 1500), (Family::V6, 9000)]
    {
        let table = table();
        let peer = &table.peers()[0];
        let what =
            What::Stamp { question: question(9, 0), outer_len: Some(outer_len), trace: None };
        let ask = Ask { peer: peer.address(), ends: ends(family, 1, 2), path: 19, what };
        let mut sent = None;
        let way = crate::probe::Way { peer, path: 19, worker: None, now: clock::now() };
        ask.send(&way, &mut |hash, transmit| {
            let len: usize = transmit.parts.iter().map(|part| part.len()).sum();
            sent = Some((transmit.destination, bucket(hash), len + 20 + 8));
            Ok(())
        })
        .unwrap();
        assert_eq!(sent, Some((peer.endpoint, 3, usize::from(outer_len))), "{family}");
    }
}
