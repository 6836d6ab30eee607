use super::packets::Spec;
use super::*;
use crate::offload::PartialChecksum;

fn udp(payload: usize) -> Spec {
    Spec::outgoing(Family::V4, false, vec![7; payload])
}

/// A pod that writes virtio-net headers of its own chooses how many packets its bytes stand for.
#[test]
fn the_other_direction_has_its_turn_after_a_super_packet_of_very_many() {
    let spec = Spec::outgoing(Family::V4, true, vec![7; 60_000]);
    let mut bench = Bench::new(Offload::TcpUdp);
    (0..4).for_each(|_| bench.pod_sends(&spec.vnet(1), &spec.build_partial()));
    let mut env = Env::new(
        &mut bench.tun,
        &mut bench.underlay,
        &bench.table,
        &bench.counters,
        &bench.notices,
        clock::now(),
    );
    assert_eq!(bench.egress.round(&mut bench.engine, &mut env), Round::More);
    assert_eq!(bench.tun.incoming.len(), 3);
}

#[test]
fn packets_to_one_peer_leave_in_one_train() {
    let mut bench = Bench::new(Offload::TcpUdp);
    for _ in 0..10 {
        bench.pod_sends(&VnetHeader::default(), &udp(100).build());
    }
    bench.pod_sends(&VnetHeader::default(), &udp(50).build());
    bench.pod_sends(&VnetHeader::default(), &udp(100).build());
    bench.run();
    let trains: Vec<_> =
        bench.underlay.sent.iter().map(|train| (train.segment_size, train.bytes.len())).collect();
    // The shorter one ends the first train.
    assert_eq!(trains, [(Some(136), 10 * 136 + 86), (None, 136)]);
    let peer = &bench.table.peers()[0];
    assert_eq!(peer.name(), "node2");
    assert_eq!((peer.counters.egress().packets, peer.counters.egress().bytes), (12, 11 * 128 + 78));
}

/// Flows to node2 that leave by so many different ports, one each.
fn flows_on_ports(count: usize) -> Vec<Spec> {
    let mut flows: Vec<(usize, Spec)> = Vec::new();
    for port in 40_000.. {
        let spec = Spec { ports: (port, 80), ..udp(100) };
        let lane = bucket(InnerPacket::parse(&spec.build()).unwrap().flow_hash());
        if flows.iter().all(|(known, _)| *known != lane) {
            flows.push((lane, spec));
        }
        if flows.len() == count {
            break;
        }
    }
    flows.into_iter().map(|(_, spec)| spec).collect()
}

#[test]
fn mixed_packets_leave_in_one_train_for_each_peer_and_port() {
    let mut bench = Bench::new(Offload::TcpUdp);
    let mut flows = flows_on_ports(7);
    flows.push(Spec { to: (3, 2), ..flows[0].clone() });
    for _ in 0..8 {
        for flow in &flows {
            bench.pod_sends(&VnetHeader::default(), &flow.build());
        }
    }
    bench.run();
    assert_eq!(bench.underlay.sent.len(), 8);
    assert!(bench.underlay.sent.iter().all(|train| train.bytes.len() == 8 * 136));
}

#[test]
fn more_mixed_flows_than_trains_lose_nothing() {
    let mut bench = Bench::new(Offload::TcpUdp);
    let flows = flows_on_ports(16);
    for identification in 0..4 {
        for flow in &flows {
            bench.pod_sends(
                &VnetHeader::default(),
                &Spec { identification, ..flow.clone() }.build(),
            );
        }
    }
    bench.run();
    assert_eq!((bench.drops(), bench.sent().len()), (vec![], 64));
    for flow in &flows {
        let expected = (0..4).map(|identification| Spec { identification, ..flow.clone() }.build());
        let sent = bench.sent().into_iter().map(|(_, packet)| packet);
        let own = sent.filter(|packet| packet[20..22] == flow.ports.0.to_be_bytes());
        assert!(own.eq(expected), "{flow:?}");
    }
}

#[test]
fn what_must_not_be_overtaken_is_sent_before_what_cannot_join_it() {
    let mut bench = Bench::new(Offload::TcpUdp);
    let other = flows_on_ports(2).remove(1);
    let marked = Spec { ecn: Ecn::Ect0, ..udp(100) };
    let packets = [udp(100), other.clone(), marked.clone(), udp(50), other, udp(100)];
    for packet in &packets {
        bench.pod_sends(&VnetHeader::default(), &packet.build());
    }
    bench.run();
    let bytes = |spec: &Spec| spec.build().len() + 8;
    let mut trains: Vec<_> =
        bench.underlay.sent.iter().map(|train| (train.ecn, train.bytes.len())).collect();
    assert_eq!(trains.len(), 5);
    // The other flow's two packets may go at any time.
    trains.retain(|train| *train != (Ecn::NotEct, 2 * bytes(&udp(100))));
    let (whole, short) = (bytes(&udp(100)), bytes(&udp(50)));
    let expected =
        [(Ecn::NotEct, whole), (Ecn::Ect0, whole), (Ecn::NotEct, short), (Ecn::NotEct, whole)];
    assert_eq!(trains, expected);
}

#[test]
fn a_long_train_does_not_wait_while_another_is_filled() {
    let mut bench = Bench::new(Offload::TcpUdp);
    let flows = flows_on_ports(2);
    let bulk = Spec { ports: flows[0].ports, ..Spec::outgoing(Family::V4, false, vec![3; 30_000]) };
    bench.pod_sends(&bulk.vnet(1000), &bulk.build_partial());
    bench.pod_sends(&VnetHeader::default(), &flows[1].build());
    bench.pod_sends(&bulk.vnet(1000), &bulk.build_partial());
    bench.run();
    let lens: Vec<usize> = bench.underlay.sent.iter().map(|train| train.bytes.len()).collect();
    assert_eq!(lens, [30 * 1036, 136, 30 * 1036]);
}

#[test]
fn a_flow_keeps_its_source_port_and_flows_are_spread() {
    let mut bench = Bench::new(Offload::TcpUdp);
    let ports = |bench: &mut Bench, spec: &Spec| {
        bench.underlay.sent.clear();
        bench.pod_sends(&VnetHeader::default(), &spec.build());
        bench.run();
        bench.underlay.sent[0].bucket
    };
    let mut used = [0; SENDERS];
    for flow in 0..256 {
        let spec = Spec { ports: (40_000 + flow, 80), ..udp(9) };
        let first = ports(&mut bench, &spec);
        let longer = Spec { payload: vec![1; 999], ttl: 9, ..spec };
        assert_eq!(ports(&mut bench, &longer), first);
        used[first] += 1;
    }
    assert!(used.iter().all(|count| (4..=40).contains(count)), "{used:?}");
}

#[test]
fn each_drop_has_its_reason() {
    let foreign = Spec { from: (2, 9), ..udp(9) };
    let own = Spec { to: (1, 9), ..udp(9) };
    let cases = [
        (foreign.build(), DropReason::ForeignSource),
        (own.build(), DropReason::OwnSubnet),
        (udp(9).build()[..19].to_vec(), DropReason::Inner(overlay_proto::InnerError::TooShort)),
        (udp(9).build()[..30].to_vec(), DropReason::Inner(overlay_proto::InnerError::Truncated)),
        (vec![], DropReason::Inner(overlay_proto::InnerError::TooShort)),
    ];
    for (packet, reason) in cases {
        let mut bench = Bench::new(Offload::TcpUdp);
        bench.pod_sends(&VnetHeader::default(), &packet);
        bench.run();
        assert_eq!(bench.drops(), [(reason, 1)]);
        assert!(bench.underlay.sent.is_empty() && bench.tun.written.is_empty());
    }
}

#[test]
fn a_virtio_net_header_that_means_nothing_costs_the_packet() {
    let unknown_kind = [0, 0x7f, 0, 0, 9, 0, 0, 0, 0, 0];
    let no_segment_size = [0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
    for header in [&unknown_kind[..], &no_segment_size, &[0; 5]] {
        let mut bench = Bench::new(Offload::TcpUdp);
        // Cut off, in the last case.
        let packet = if header.len() == VNET_HEADER_LEN { udp(9).build() } else { vec![] };
        bench.tun.incoming.push_back([header, &packet].concat().into());
        bench.run();
        assert_eq!(bench.drops(), [(DropReason::VnetHeader, 1)]);
    }
}

#[test]
fn a_pod_hears_that_nobody_owns_the_address_and_that_a_packet_is_too_big() {
    for family in [Family::V4, Family::V6] {
        let void = Spec { to: (9, 9), ..Spec::outgoing(family, false, vec![1; 100]) };
        let big = Spec::outgoing(family, false, vec![1; 1465 - family.header_len() - 8]);
        let (unreachable, too_big) = match family {
            Family::V4 => ([3, 0], [3, 4]),
            Family::V6 => ([1, 0], [2, 0]),
        };
        for (spec, reason, kind) in
            [(void, DropReason::NoOwner, unreachable), (big, DropReason::TooBig, too_big)]
        {
            let mut bench = Bench::new(Offload::TcpUdp);
            bench.pod_sends(&VnetHeader::default(), &spec.build());
            bench.run();
            assert_eq!(bench.drops(), [(reason, 1)]);
            let [reply] = &bench.delivered()[..] else { panic!("one reply") };
            let parsed = InnerPacket::parse(reply).unwrap();
            assert_eq!(parsed.source(), bench.table.local().router_address(family).unwrap());
            assert_eq!(parsed.destination(), InnerPacket::parse(&spec.build()).unwrap().source());
            assert_eq!(reply[family.header_len()..][..2], kind);
            if reason == DropReason::TooBig {
                assert_eq!(reply[family.header_len() + 6..][..2], 1464_u16.to_be_bytes());
            }
        }
    }
}

#[test]
fn a_packet_of_exactly_the_mtu_passes() {
    let mut bench = Bench::new(Offload::TcpUdp);
    bench.pod_sends(&VnetHeader::default(), &udp(1464 - 28).build());
    bench.run();
    assert_eq!((bench.drops(), bench.sent().len()), (vec![], 1));
}

#[test]
fn replies_are_limited() {
    let mut bench = Bench::new(Offload::TcpUdp);
    let void = Spec { to: (9, 9), ..udp(9) }.build();
    for _ in 0..1000 {
        bench.pod_sends(&VnetHeader::default(), &void);
    }
    bench.run();
    assert_eq!(bench.drops(), [(DropReason::NoOwner, 1000)]);
    assert!((50..200).contains(&bench.tun.written.len()), "{}", bench.tun.written.len());
}

#[test]
fn a_full_queue_costs_the_packets_and_no_more() {
    let mut bench = Bench::new(Offload::TcpUdp);
    bench.underlay.send_errors.extend([libc::EAGAIN, libc::ENOBUFS]);
    for payload in [10, 20, 30] {
        bench.pod_sends(&VnetHeader::default(), &udp(payload).build());
    }
    bench.run();
    assert_eq!(bench.drops(), [(DropReason::UnderlayFull, 2)]);
    assert_eq!(bench.sent().len(), 1);
}

#[test]
fn refused_segmentation_is_given_up_and_loses_nothing() {
    for errno in [libc::EINVAL, libc::EIO] {
        let mut bench = Bench::new(Offload::TcpUdp);
        bench.underlay.send_errors.push_back(errno);
        let spec = Spec::outgoing(Family::V4, true, vec![3; 4000]);
        for _ in 0..2 {
            bench.pod_sends(&spec.vnet(1000), &spec.build_partial());
            bench.run();
        }
        assert_eq!((bench.drops(), bench.sent().len()), (vec![], 8));
        assert!(bench.underlay.sent.iter().all(|train| train.segment_size.is_none()));
        assert!(!bench.egress.sends_trains());
    }
}

#[test]
fn segmentation_that_is_refused_is_given_up_once_for_all_open_trains() {
    let mut bench = Bench::new(Offload::TcpUdp);
    for flow in flows_on_ports(3) {
        for _ in 0..2 {
            bench.pod_sends(&VnetHeader::default(), &flow.build());
        }
    }
    bench.underlay.refuses_trains = true;
    bench.run();
    assert_eq!((bench.drops(), bench.sent().len()), (vec![], 6));
    assert_eq!(bench.counters.degraded.load(std::sync::atomic::Ordering::Relaxed), 1);
}

#[test]
fn a_device_that_became_narrower_is_reported_and_does_not_end_segmentation() {
    let mut bench = Bench::new(Offload::TcpUdp);
    // The train, then its datagrams one by one, six attempts each.
    bench.underlay.send_errors.extend([libc::EMSGSIZE; 30]);
    let spec = Spec::outgoing(Family::V4, true, vec![3; 4000]);
    bench.pod_sends(&spec.vnet(1000), &spec.build_partial());
    bench.run();
    assert_eq!(bench.drops(), [(DropReason::TooBig, 4)]);
    assert_eq!(bench.noticed.try_recv(), Ok(Notice::RouteTooNarrow(underlay_of(2).ip())));
    assert!(bench.egress.sends_trains());
}

#[test]
fn the_outer_mark_is_the_inner_one() {
    for ecn in [Ecn::NotEct, Ecn::Ect0, Ecn::Ect1, Ecn::Ce] {
        let mut bench = Bench::new(Offload::TcpUdp);
        bench.pod_sends(&VnetHeader::default(), &Spec { ecn, ..udp(9) }.build());
        bench.run();
        assert_eq!(bench.underlay.sent[0].ecn, ecn);
    }
}

#[test]
fn a_whole_packet_with_a_partial_checksum_is_finished() {
    for (family, tcp) in [(Family::V4, true), (Family::V6, true), (Family::V4, false)] {
        let spec = Spec::outgoing(family, tcp, vec![5; 333]);
        let header = VnetHeader { gso: Gso::None, gso_size: 0, ..spec.vnet(1) };
        let mut bench = Bench::new(Offload::TcpUdp);
        bench.pod_sends(&header, &spec.build_partial());
        bench.run();
        assert_eq!(bench.sent(), [(underlay_of(2), spec.build())]);
    }
}

#[test]
fn a_super_packet_within_the_limit_leaves_in_one_call() {
    for (mtu, options) in [(1464, true), (1464, false), (1444, true), (8964, true), (1280, true)] {
        for family in [Family::V4, Family::V6] {
            let header_len = Codec::default().header_len();
            let limit = super_packet_limit(Mtu::new(mtu).unwrap(), header_len);
            let limit = usize::try_from(limit).unwrap();
            let mut spec = Spec { options, ..Spec::outgoing(family, true, vec![]) };
            let segment = usize::try_from(mtu).unwrap() - spec.header_len();
            // As many whole segments as the kernel's TCP puts into one.
            spec.payload = vec![1; (limit - 321) / segment * segment];
            let mut bench = Bench::new(Offload::TcpUdp);
            bench.table = table_with_mtu(mtu);
            bench.pod_sends(&spec.vnet(u16::try_from(segment).unwrap()), &spec.build_partial());
            bench.run();
            assert_eq!((bench.drops(), bench.underlay.sent.len()), (vec![], 1), "{mtu} {family}");
            assert!(spec.payload.len() > 54_000, "{mtu}: few calls");
        }
    }
}

/// A pod may write virtio-net headers of its own, and so choose where two bytes are written.
#[test]
fn no_checksum_is_written_into_the_headers_that_were_decided_about() {
    for family in [Family::V4, Family::V6] {
        let spec = Spec::outgoing(family, false, vec![5; 333]);
        for start in 0..spec.ip_len() {
            let header = VnetHeader {
                gso: Gso::None,
                partial: Some(PartialChecksum { start: u16::try_from(start).unwrap(), offset: 0 }),
                ..VnetHeader::default()
            };
            let mut bench = Bench::new(Offload::TcpUdp);
            bench.pod_sends(&header, &spec.build());
            bench.run();
            assert_eq!(bench.drops(), [(DropReason::VnetHeader, 1)], "{family} at {start}");
            assert_eq!(bench.sent(), []);
        }
    }
}

#[test]
fn a_dropped_super_packet_counts_as_the_packets_it_stands_for() {
    let spec = Spec { to: (9, 9), ..Spec::outgoing(Family::V4, true, vec![3; 4500]) };
    let mut bench = Bench::new(Offload::TcpUdp);
    bench.pod_sends(&spec.vnet(1000), &spec.build_partial());
    bench.run();
    assert_eq!(bench.drops(), [(DropReason::NoOwner, 5)]);
}

/// Headers are made anew in a buffer of fixed size.
#[test]
fn a_super_packet_with_longer_headers_than_fit_is_dropped() {
    for (options_len, fits) in [(200, true), (208, true), (216, false), (1024, false)] {
        let spec = Spec::outgoing(Family::V6, false, vec![5; 300]);
        let mut packet = spec.build_partial();
        let mut options = vec![0; options_len];
        [options[0], options[1]] = [packet[6], u8::try_from(options_len / 8 - 1).unwrap()];
        [options[2], options[3]] = [1, 4]; // PadN; what follows it is Pad1
        packet[6] = 60;
        packet.splice(40..40, options);
        let payload_len = u16::try_from(packet.len() - 40).unwrap();
        packet[4..6].copy_from_slice(&payload_len.to_be_bytes());
        let start = u16::try_from(40 + options_len).unwrap();
        let partial = Some(PartialChecksum { start, offset: 6 });
        let mut bench = Bench::new(Offload::TcpUdp);
        bench.pod_sends(&VnetHeader { partial, ..spec.vnet(100) }, &packet);
        bench.run();
        let expected = if fits { vec![] } else { vec![(DropReason::VnetHeader, 1)] };
        assert_eq!((bench.drops(), bench.sent().len()), (expected, if fits { 3 } else { 0 }));
    }
}

/// What a header says must fit its packet in every respect, or the cut would be in the wrong place.
#[test]
fn a_super_packet_that_its_header_contradicts_is_dropped() {
    let spec = Spec::outgoing(Family::V4, true, vec![3; 3000]);
    let (good, packet) = (spec.vnet(1000), spec.build_partial());
    let partial = good.partial.unwrap();
    let place =
        |start, offset| VnetHeader { partial: Some(PartialChecksum { start, offset }), ..good };
    let mut fragment = packet.clone();
    fragment[6] |= 0x20; // more fragments
    let cases = [
        ("no segment size", VnetHeader { gso_size: 0, ..good }, &packet),
        ("checksum from elsewhere", place(partial.start + 4, partial.offset), &packet),
        ("checksum elsewhere", place(partial.start, partial.offset - 10), &packet),
        ("no checksum to finish", VnetHeader { partial: None, ..good }, &packet),
        ("a fragment", good, &fragment),
    ];
    for (case, header, packet) in cases {
        let mut bench = Bench::new(Offload::TcpUdp);
        bench.pod_sends(&header, packet);
        bench.run();
        assert_eq!(bench.drops(), [(DropReason::VnetHeader, 1)], "{case}");
        assert_eq!(bench.sent(), [], "{case}");
    }
}
