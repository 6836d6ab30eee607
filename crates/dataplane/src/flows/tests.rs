//! Flows of a worker in memory.

use overlay_proto::{Codec, Ecn, Family};

use super::*;
use crate::Rehearsal;
use crate::capture::Taps;
use crate::engine::DropReason;
use crate::platform::clock;
use crate::platform::tun::Offload;
use crate::tests::{table, udp_of_pod, underlay_of, vni};

/// What a worker counts that sees `rounds` times one packet to node2, one to nobody, one that is
/// delivered, one from a liar and one from a stranger.
fn counted(sample: u32, rounds: usize) -> Flows {
    let (watch, taps) = open(sample, 1, clock::now());
    let mut all = Taps::default();
    taps.into_iter().for_each(|tap| all.watch_flows(tap));
    let mut rehearsal = Rehearsal::new(Offload::TcpUdp, clock::now());
    let table = table();
    let header = Codec::default().header(vni(), Family::V4);
    for _ in 0..rounds {
        for to in [[10, 244, 2, 2], [10, 244, 9, 9]] {
            rehearsal.pod_sends(&udp_of_pod([10, 244, 1, 2], to));
        }
        for (from, by) in [([10, 244, 2, 2], 2), ([10, 244, 3, 2], 2), ([10, 244, 2, 2], 99)] {
            let inner = udp_of_pod(from, [10, 244, 1, 5]);
            rehearsal.arrives(underlay_of(by), Ecn::NotEct, &[header.as_slice(), &inner].concat());
        }
        rehearsal.run(&table, all.prepare(clock::now()).unwrap(), clock::now());
    }
    let flows = watch.take();
    drop(watch);
    assert!(all.prepare(clock::now()).is_none(), "nobody looks any more");
    flows
}

fn of(flows: &Flows, verdict: FlowVerdict) -> impl Iterator<Item = (&FlowKey, &FlowCount)> {
    flows.counts.iter().filter(move |(key, _)| key.verdict == verdict)
}

#[test]
fn every_packet_is_of_a_flow_with_verdict_and_other_end() {
    let flows = counted(1, 3);
    assert_eq!((flows.counts.len(), flows.others, flows.missed), (5, FlowCount::default(), 0));
    // 20 bytes of IP, 8 of UDP and 12 of payload.
    let count = FlowCount { packets: 3, bytes: 120 };
    let (key, forwarded) = of(&flows, FlowVerdict::Forward).next().unwrap();
    assert_eq!((key.egress, key.outer, *forwarded), (true, Some(underlay_of(2).ip()), count));
    let tuple = key.inner.unwrap();
    assert_eq!(tuple.source.to_string(), "10.244.1.2");
    assert_eq!(tuple.destination.to_string(), "10.244.2.2");
    assert_eq!((tuple.protocol, tuple.source_port, tuple.destination_port), (17, 1, 2));

    let (key, replied) = of(&flows, FlowVerdict::Reply(DropReason::NoOwner)).next().unwrap();
    assert_eq!((key.egress, key.outer, *replied), (true, None, count));
    let (key, delivered) = of(&flows, FlowVerdict::Deliver).next().unwrap();
    assert_eq!((key.egress, key.outer, *delivered), (false, Some(underlay_of(2).ip()), count));
    let (key, spoofed) = of(&flows, FlowVerdict::Drop(DropReason::SpoofedSource)).next().unwrap();
    assert_eq!(key.inner.unwrap().source.to_string(), "10.244.3.2");
    assert_eq!(*spoofed, count);
    let (key, unknown) = of(&flows, FlowVerdict::Drop(DropReason::UnknownPeer)).next().unwrap();
    assert_eq!((key.inner, key.outer), (None, Some(underlay_of(99).ip())));
    assert_eq!(unknown.packets, 3);
}

#[test]
fn counts_stand_for_all_packets_though_most_are_not_looked_at() {
    const ROUNDS: u64 = 4_000;
    let flows = counted(64, ROUNDS as usize);
    for verdict in [FlowVerdict::Forward, FlowVerdict::Deliver] {
        let packets: u64 = of(&flows, verdict).map(|(_, count)| count.packets).sum();
        // The first ones, and some samples: seldom off by a half, and the seed is always one.
        assert!((ROUNDS / 2..ROUNDS * 3 / 2).contains(&packets), "{verdict:?}: {packets}");
    }
    let dropped = |reason| of(&flows, FlowVerdict::Drop(reason)).map(|(_, it)| it.packets).sum();
    let spoofed: u64 = dropped(DropReason::SpoofedSource);
    // All of the first ones, and about all of the others.
    assert!(spoofed > ROUNDS / 2 && spoofed < ROUNDS * 3 / 2, "{spoofed}");
}

#[test]
fn super_packet_stands_for_as_many_packets_as_it_becomes() {
    let sampler = Sampler::new(64, 7);
    let all: u64 = (0..10_000).map(|_| sampler.sample(45)).sum();
    assert!((440_000..460_000).contains(&all), "{all}");
    let each = Sampler::new(1, 7);
    assert!((1..200).all(|packets| each.sample(packets) == packets as u64));
}

#[test]
fn few_packets_in_a_second_are_each_seen_and_a_flood_is_sampled() {
    let packet = udp_of_pod([10, 244, 2, 2], [10, 244, 1, 5]);
    for (outcome, each) in
        [(Err(DropReason::UnknownPeer), DROPS_A_SECOND), (Ok(&packet[..]), EACH_A_SECOND)]
    {
        let (watch, taps) = open(1_000_000, 1, clock::now());
        let tap = &taps[0];
        let see = || {
            tap.observe(&Observation::Ingress {
                source: underlay_of(99),
                port: 4790,
                ecn: Ecn::NotEct,
                datagram: &[0; 8],
                peer: None,
                sealed: false,
                outcome,
            });
        };
        (0..2 * each).for_each(|_| see());
        let packets = |flows: Flows| flows.counts.values().map(|count| count.packets).sum::<u64>();
        assert_eq!(packets(watch.take()), u64::from(each));
        tap.prepare(clock::now() + Duration::from_secs(2));
        see();
        assert_eq!(packets(watch.take()), 1);
    }
}

#[test]
fn sample_that_meets_the_reader_is_lost_and_counted() {
    let (watch, taps) = open(1, 1, clock::now());
    let table = watch.tables[0].table.lock().unwrap();
    taps[0].observe(&Observation::Lost { packet: &[], reason: DropReason::TunFull });
    drop(table);
    assert_eq!(watch.take().missed, 1);
}
