//! Packets that are too long for the path to their peer, and may be fragmented.

use std::cell::RefCell;
use std::sync::atomic::Ordering;

use etherparse::Ipv4HeaderSlice;

use super::packets::Spec;
use super::*;

/// A packet from node 1 to node 2 that may be fragmented.
pub(super) fn fragile(tcp: bool, payload: Vec<u8>) -> Spec {
    Spec { dont_fragment: false, ..Spec::outgoing(Family::V4, tcp, payload) }
}

pub(super) fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from(at % 251).unwrap()).collect()
}

/// What a receiver makes of fragments that arrive in their order: packets with a complete checksum.
pub(super) fn reassembled(packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut whole: Vec<Vec<u8>> = Vec::new();
    for packet in packets {
        let header = Ipv4HeaderSlice::from_slice(packet).unwrap();
        assert_eq!(header.header_checksum(), header.to_header().calc_header_checksum());
        let at = usize::from(header.fragments_offset().value()) * 8;
        if at == 0 {
            whole.push(packet.clone());
        } else {
            let last = whole.last_mut().expect("the first fragment comes first");
            assert_eq!((last[4..6].to_vec(), last.len()), (packet[4..6].to_vec(), at + 20));
            last.extend_from_slice(&packet[20..]);
            last[6] = packet[6] & 0x20;
        }
    }
    for packet in &mut whole {
        assert_eq!(packet[6], 0, "the last fragment is there");
        let len = u16::try_from(packet.len()).unwrap().to_be_bytes();
        packet[2..4].copy_from_slice(&len);
        let sum = Ipv4HeaderSlice::from_slice(packet).unwrap().to_header().calc_header_checksum();
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    whole
}

/// How many packets were fragmented, into how many.
fn counted(counters: &WorkerCounters) -> (u64, u64) {
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    (count(&counters.fragmented), count(&counters.fragments))
}

fn sent(bench: &Bench) -> Vec<Vec<u8>> {
    bench.sent().into_iter().map(|(_, packet)| packet).collect()
}

#[test]
fn a_packet_that_may_be_fragmented_leaves_in_fragments_that_fit() {
    for offload in Offload::ALL {
        for len in [1465 - 28, 3000, 60_000] {
            let mut bench = Bench::new(offload);
            let packet = fragile(false, bytes(len)).build();
            bench.pod_sends(&VnetHeader::default(), &packet);
            bench.run();
            let sent = sent(&bench);
            assert_eq!((bench.drops(), bench.tun.written.len()), (vec![], 0));
            // 1440 bytes fit behind a header, a multiple of eight.
            assert_eq!(sent.len(), (len + 8).div_ceil(1440));
            assert!(sent.iter().all(|fragment| fragment.len() <= 1464));
            assert_eq!(counted(&bench.counters), (1, sent.len() as u64));
            let peer = bench.table.peers()[0].counters.egress().packets;
            assert_eq!(peer, sent.len() as u64);
            assert_eq!(reassembled(&sent), [packet]);
        }
    }
}

#[test]
fn a_packet_of_exactly_the_mtu_and_one_that_must_not_be_are_not_fragmented() {
    let mut bench = Bench::new(Offload::TcpUdp);
    let whole = fragile(false, bytes(1464 - 28)).build();
    bench.pod_sends(&VnetHeader::default(), &whole);
    bench.pod_sends(&VnetHeader::default(), &udp_that_is_too_long(true));
    bench.run();
    assert_eq!((bench.drops(), sent(&bench)), (vec![(DropReason::TooBig, 1)], vec![whole]));
    assert_eq!(counted(&bench.counters), (0, 0));
}

fn udp_that_is_too_long(dont_fragment: bool) -> Vec<u8> {
    Spec { dont_fragment, ..fragile(false, bytes(2000)) }.build()
}

/// As a pod cuts what it sends along a path that carries more.
#[test]
fn a_fragment_that_is_too_long_is_fragmented_again() {
    let mut bench = Bench::new(Offload::TcpUdp);
    let packet = fragile(false, bytes(6000)).build();
    bench.pod_sends(&VnetHeader::default(), &packet);
    bench.table = table_with_mtu(2000);
    bench.run();
    let fragments = sent(&bench);
    bench.underlay.sent.clear();
    bench.table = table_with_mtu(1000);
    fragments.iter().for_each(|fragment| bench.pod_sends(&VnetHeader::default(), fragment));
    bench.run();
    let sent = sent(&bench);
    assert_eq!((fragments.len(), sent.len(), bench.drops()), (4, 10, vec![]));
    assert!(sent.iter().all(|fragment| fragment.len() <= 1000));
    assert_eq!(reassembled(&sent), [packet]);
}

#[test]
fn an_unfinished_checksum_is_finished_before() {
    for tcp in [true, false] {
        let spec = fragile(tcp, bytes(3333));
        let header = VnetHeader { gso: Gso::None, gso_size: 0, ..spec.vnet(1) };
        let mut bench = Bench::new(Offload::TcpUdp);
        bench.pod_sends(&header, &spec.build_partial());
        bench.run();
        assert_eq!(reassembled(&sent(&bench)), [spec.build()]);
    }
}

/// Each packet that a super-packet stands for; the last of them fits.
#[test]
fn packets_of_a_super_packet_are_fragmented_each_by_itself() {
    for tcp in [true, false] {
        let spec = fragile(tcp, bytes(1600 * 5 + 700));
        let mut bench = Bench::new(Offload::TcpUdp);
        bench.pod_sends(&spec.vnet(1600), &spec.build_partial());
        bench.run();
        assert_eq!(bench.drops(), []);
        let sent = sent(&bench);
        assert_eq!((sent.len(), counted(&bench.counters)), (11, (5, 10)));
        assert!(sent.iter().all(|fragment| fragment.len() <= 1464));
        assert_eq!(reassembled(&sent), spec.split(1600), "tcp: {tcp}");
        // What fits is cut, and no more.
        bench.underlay.sent.clear();
        bench.pod_sends(&spec.vnet(1400), &spec.build_partial());
        bench.run();
        let sent: Vec<Vec<u8>> = bench.sent().into_iter().map(|(_, packet)| packet).collect();
        assert_eq!((sent, counted(&bench.counters)), (spec.split(1400), (5, 10)));
    }
}

#[test]
fn fragments_have_the_mark_and_the_source_port_of_their_flow() {
    let mut bench = Bench::new(Offload::TcpUdp);
    for flow in 0..32 {
        let ports = (40_000 + flow, 80);
        let long = Spec { ports, ecn: Ecn::Ect0, ..fragile(false, bytes(3000)) };
        let short = Spec { payload: bytes(9), ..long.clone() };
        bench.underlay.sent.clear();
        bench.pod_sends(&VnetHeader::default(), &short.build());
        bench.run();
        bench.pod_sends(&VnetHeader::default(), &long.build());
        bench.run();
        let trains: Vec<_> =
            bench.underlay.sent.iter().map(|train| (train.bucket, train.ecn)).collect();
        assert!(trains.len() >= 2 && trains.iter().all(|train| *train == trains[0]), "{trains:?}");
        assert_eq!(trains[0].1, Ecn::Ect0);
    }
}

#[test]
fn a_fragment_that_lies_beyond_every_packet_is_dropped() {
    let mut bench = Bench::new(Offload::TcpUdp);
    let mut packet = udp_that_is_too_long(false);
    [packet[6], packet[7]] = [0x1f, 0xff];
    bench.pod_sends(&VnetHeader::default(), &packet);
    bench.run();
    assert_eq!((bench.drops(), sent(&bench)), (vec![(DropReason::TooBig, 1)], vec![]));
    assert_eq!(counted(&bench.counters), (0, 0));
}

#[test]
fn who_looks_sees_the_packet_once_and_each_fragment() {
    #[derive(Default)]
    struct Counts(RefCell<(Vec<usize>, usize)>);
    impl Tap for Counts {
        fn observe(&self, observation: &Observation<'_>) {
            let mut seen = self.0.borrow_mut();
            match observation {
                Observation::Egress { decision: Decision::Forward { datagrams, .. }, .. } => {
                    seen.0.push(*datagrams);
                }
                Observation::Sent { result: Ok(()), .. } => seen.1 += 1,
                Observation::Egress { .. }
                | Observation::Sent { .. }
                | Observation::Ingress { .. }
                | Observation::Lost { .. } => panic!("{observation:?}"),
            }
        }
    }
    let counts = Counts::default();
    let mut rehearsal = Rehearsal::new(Offload::TcpUdp, clock::now());
    rehearsal.pod_sends(&udp_that_is_too_long(false));
    rehearsal.run(&table(), &counts, clock::now());
    assert_eq!(counts.0.take(), (vec![2], 2));
}
