//! Live captures of a worker in memory.

use std::sync::mpsc;

use super::*;
use crate::capture::{self, LocalEnd, Taps};

fn filter() -> CaptureFilter {
    CaptureFilter { pod: None, peer: None, drops: false, sample: 1, snap_len: 65_535 }
}

/// Lets a worker handle one packet to each peer, one to nobody and one from a liar, and returns
/// what was captured: side, direction, verdict, peer, length and bytes kept.
fn captured(filter: &CaptureFilter) -> Vec<(String, usize, usize)> {
    let local_end = LocalEnd { address: underlay_of(1).ip(), source_ports: [50_000; SENDERS] };
    let (mut capture, taps) = capture::open(filter, 1, (clock::now(), 0));
    let mut all = Taps::default();
    for mut tap in taps {
        tap.show(local_end);
        all.add(tap);
    }
    let mut rehearsal = Rehearsal::new(Offload::TcpUdp, clock::now());
    let table = table();
    for to in [[10, 244, 2, 2], [10, 244, 3, 2], [10, 244, 9, 9]] {
        rehearsal.pod_sends(&datagram([10, 244, 1, 2], to));
    }
    let header = Codec::default().header(vni(), Family::V4);
    for from in [[10, 244, 2, 2], [10, 244, 3, 2]] {
        let inner = datagram(from, [10, 244, 1, 5]);
        rehearsal.arrives(underlay_of(2), Ecn::NotEct, &[header.as_slice(), &inner].concat());
    }
    let tap = all.prepare(clock::now()).unwrap();
    rehearsal.run(&table, tap, clock::now());
    let mut records = Vec::new();
    while let Some(record) = capture.take(u64::MAX) {
        let way = if record.egress { "egress" } else { "ingress" };
        let text = format!("{:?} {way} {:?} {}", record.side, record.verdict, record.peer);
        records.push((text, record.original_len, record.bytes.len()));
    }
    assert_eq!(capture.counts(), (records.len() as u64, 0));
    drop(capture);
    assert!(all.prepare(clock::now()).is_none());
    records
}

pub(crate) fn datagram(from: [u8; 4], to: [u8; 4]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let builder = etherparse::PacketBuilder::ipv4(from, to, 64).udp(1, 2);
    builder.write(&mut bytes, &[7; 12]).unwrap();
    bytes
}

fn texts(filter: &CaptureFilter) -> Vec<String> {
    captured(filter).into_iter().map(|(text, ..)| text).collect()
}

#[test]
fn both_sides_of_the_tunnel_are_captured_with_verdict_and_peer() {
    let records = captured(&filter());
    let texts: Vec<_> = records.iter().map(|(text, ..)| text.as_str()).collect();
    assert_eq!(
        texts,
        [
            // A datagram waits for others that could go with it.
            "Inner egress Forward node2",
            "Inner egress Forward node3",
            "Inner egress Reply(NoOwner) ",
            "Inner ingress Answer ",
            "Outer egress Forward node2",
            "Outer egress Forward node3",
            "Outer ingress Deliver node2",
            "Inner ingress Deliver node2",
            "Outer ingress Drop(SpoofedSource) node2",
        ]
    );
    // 20 bytes of IP, 8 of UDP and 12 of payload; outside, as much again less the payload and 8 of
    // the tunnel's header.
    assert_eq!((records[0].1, records[4].1), (40, 76));
}

#[test]
fn filters_choose_by_pod_peer_and_verdict() {
    let drops = texts(&CaptureFilter { drops: true, ..filter() });
    assert_eq!(
        drops,
        [
            "Inner egress Reply(NoOwner) ",
            "Inner ingress Answer ",
            "Outer ingress Drop(SpoofedSource) node2"
        ]
    );
    let peer = texts(&CaptureFilter { peer: Some("node3".to_owned()), ..filter() });
    assert_eq!(peer, ["Inner egress Forward node3", "Outer egress Forward node3"]);
    let pod = texts(&CaptureFilter { pod: Some("10.244.2.2".parse().unwrap()), ..filter() });
    assert_eq!(pod.len(), 4, "{pod:?}");
    let nobody = texts(&CaptureFilter { pod: Some("10.244.1.77".parse().unwrap()), ..filter() });
    assert!(nobody.is_empty(), "{nobody:?}");
}

#[test]
fn every_nth_record_is_kept_and_no_more_of_it_than_asked_for() {
    assert_eq!(texts(&CaptureFilter { sample: 3, ..filter() }).len(), 3);
    for (_, original, kept) in captured(&CaptureFilter { snap_len: 30, ..filter() }) {
        assert!(original > 30 && kept == 30);
    }
}

#[test]
fn a_reader_that_never_reads_loses_records_and_stops_nobody() {
    let local_end = LocalEnd { address: underlay_of(1).ip(), source_ports: [50_000; SENDERS] };
    let (capture, taps) = capture::open(&filter(), 1, (clock::now(), 0));
    let mut all = Taps::default();
    for mut tap in taps {
        tap.show(local_end);
        all.add(tap);
    }
    let mut rehearsal = Rehearsal::new(Offload::None, clock::now());
    let table = table();
    let (done, is_done) = mpsc::channel();
    let worker = std::thread::spawn(move || {
        let packet = datagram([10, 244, 1, 2], [10, 244, 2, 2]);
        for _ in 0..20_000 {
            rehearsal.pod_sends(&packet);
        }
        rehearsal.run(&table, all.prepare(clock::now()).unwrap(), clock::now());
        done.send(()).unwrap();
    });
    is_done.recv().unwrap();
    worker.join().unwrap();
    let (seen, lost) = capture.counts();
    assert_eq!(seen, 40_000);
    assert!(lost > 0 && lost < seen, "{lost} of {seen}");
    let mut capture = capture;
    let kept = std::iter::from_fn(|| capture.take(u64::MAX).map(|_| ())).count();
    assert_eq!(kept as u64 + lost, seen);
}
