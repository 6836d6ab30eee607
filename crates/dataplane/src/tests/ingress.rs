use overlay_proto::checksum::update_u16;
use overlay_proto::{DecodeError, InnerError};

use super::packets::{ACK, Spec};
use super::*;

fn udp(payload: usize) -> Spec {
    Spec::incoming(Family::V4, false, vec![7; payload])
}

fn receive(source: SocketAddr, ecn: Ecn, bytes: Vec<u8>) -> Bench {
    let mut bench = Bench::new(Offload::TcpUdp);
    bench.arrive(source, ecn, &[bytes]);
    bench.run();
    bench
}

#[test]
fn a_good_packet_is_delivered_and_counted_for_its_sender() {
    let packet = udp(100).build();
    let bench = receive(underlay_of(2), Ecn::NotEct, datagram(&packet));
    assert_eq!(bench.delivered(), [packet]);
    let counters = &bench.table.peers()[0].counters;
    assert_eq!((counters.ingress().packets, counters.ingress().bytes), (1, 128));
    assert_eq!(counters.last_heard_ms(), Some(1000));
}

#[test]
fn each_check_has_its_reason_and_keeps_the_packet_from_the_pod() {
    let good = datagram(&udp(100).build());
    let with = |at: usize, bits: u8| {
        let mut bytes = good.clone();
        bytes[at] ^= bits;
        bytes
    };
    let packet = |spec: Spec| datagram(&spec.build());
    let cases = [
        (9, good.clone(), DropReason::UnknownPeer),
        // This node itself is no peer of its own.
        (1, good.clone(), DropReason::UnknownPeer),
        (2, good[..7].to_vec(), DropReason::Header(DecodeError::TooShort)),
        (2, vec![], DropReason::Header(DecodeError::TooShort)),
        (2, with(0, 0x10), DropReason::Header(DecodeError::Version)),
        (2, with(0, 0x01), DropReason::Header(DecodeError::Flags)),
        (2, with(2, 0x01), DropReason::Header(DecodeError::Reserved)),
        (2, with(3, 0x02), DropReason::Header(DecodeError::NextProtocol)),
        (2, with(6, 0x01), DropReason::Header(DecodeError::Vni)),
        (2, with(3, 0x03), DropReason::Inner(InnerError::FamilyMismatch)),
        (2, good[..20].to_vec(), DropReason::Inner(InnerError::TooShort)),
        (2, good[..60].to_vec(), DropReason::Inner(InnerError::Truncated)),
        // Another node's source, this node's own, and one that nobody has.
        (3, good.clone(), DropReason::SpoofedSource),
        (2, packet(Spec { from: (1, 9), ..udp(9) }), DropReason::SpoofedSource),
        (2, packet(Spec { from: (99, 9), ..udp(9) }), DropReason::SpoofedSource),
        (2, packet(Spec { to: (3, 9), ..udp(9) }), DropReason::NotOurDestination),
        (2, packet(Spec { to: (99, 9), ..udp(9) }), DropReason::NotOurDestination),
    ];
    for (node, bytes, reason) in cases {
        let bench = receive(underlay_of(node), Ecn::NotEct, bytes);
        assert_eq!(bench.drops(), [(reason, 1)]);
        assert!(bench.tun.written.is_empty());
        assert!(bench.table.peers().iter().all(|peer| peer.counters.last_heard_ms().is_none()));
    }
}

#[test]
fn one_bad_datagram_of_a_train_costs_only_itself() {
    let good = udp(100).build();
    let mut bad = datagram(&good);
    bad[0] = 0;
    let mut bench = Bench::new(Offload::TcpUdp);
    let train = [datagram(&good), bad, datagram(&good)];
    bench.arrive(underlay_of(2), Ecn::NotEct, &train);
    bench.run();
    assert_eq!(bench.drops(), [(DropReason::Header(DecodeError::Flags), 1)]);
    assert_eq!(bench.delivered(), [good.clone(), good]);
}

#[test]
fn a_train_of_a_stranger_is_counted_by_its_datagrams() {
    let mut bench = Bench::new(Offload::TcpUdp);
    let train = vec![datagram(&udp(100).build()); 5];
    bench.arrive("192.0.2.1:4790".parse().unwrap(), Ecn::NotEct, &train);
    bench.run();
    assert_eq!(bench.drops(), [(DropReason::UnknownPeer, 5)]);
}

#[test]
fn a_datagram_that_the_buffer_cut_short_is_not_delivered() {
    let mut bytes = datagram(&udp(60_000).build());
    bytes.resize((1 << 16) + 1, 0);
    let bench = receive(underlay_of(2), Ecn::NotEct, bytes);
    assert_eq!(bench.drops(), [(DropReason::DatagramTruncated, 1)]);
    assert!(bench.tun.written.is_empty());
}

#[test]
fn an_outer_congestion_mark_reaches_the_inner_packet_or_costs_it() {
    for family in [Family::V4, Family::V6] {
        let spec = |ecn| Spec { ecn, ..Spec::incoming(family, true, vec![1; 500]) };
        for ecn in [Ecn::Ect0, Ecn::Ect1, Ecn::Ce] {
            let mut bench = Bench::new(Offload::TcpUdp);
            let train = vec![datagram(&spec(ecn).build()); 2];
            bench.arrive(underlay_of(2), Ecn::Ce, &train);
            bench.run();
            assert_eq!(bench.delivered(), vec![spec(Ecn::Ce).build(); 2]);
        }
        let bench = receive(underlay_of(2), Ecn::Ce, datagram(&spec(Ecn::NotEct).build()));
        assert_eq!(bench.drops(), [(DropReason::Congestion, 1)]);
        // RFC 6040 §4.2: ECT(1) outside turns ECT(0) inside into ECT(1).
        let bench = receive(underlay_of(2), Ecn::Ect1, datagram(&spec(Ecn::Ect0).build()));
        assert_eq!(bench.delivered(), [spec(Ecn::Ect1).build()]);
    }
}

/// Packets of some flows, one of each in turn.
fn in_turn(flows: &[Vec<Vec<u8>>]) -> Vec<Vec<u8>> {
    let most = flows.iter().map(Vec::len).max().unwrap_or_default();
    (0..most)
        .flat_map(|index| flows.iter().filter_map(move |flow| flow.get(index).cloned()))
        .collect()
}

fn tcp_flow(port: u16, packets: usize) -> Vec<Vec<u8>> {
    let spec = Spec::incoming(Family::V4, true, vec![3; packets * 500]);
    Spec { ports: (port, 80), ..spec }.split(500)
}

#[test]
fn each_flow_of_a_mixture_becomes_one_super_packet() {
    let flows: Vec<_> = (1..=8).map(|port| tcp_flow(port, 4)).collect();
    let mut bench = Bench::new(Offload::TcpUdp);
    for packet in in_turn(&flows) {
        bench.arrive(underlay_of(2), Ecn::NotEct, &[datagram(&packet)]);
    }
    bench.run();
    assert_eq!((bench.drops(), bench.tun.written.len()), (vec![], 8));
    assert_eq!(bench.delivered(), flows.concat());
}

#[test]
fn a_mixture_of_more_flows_than_are_held_keeps_the_order_of_each() {
    let flows: Vec<_> = (1..=20).map(|port| tcp_flow(port, 3)).collect();
    let mut bench = Bench::new(Offload::TcpUdp);
    for packet in in_turn(&flows) {
        bench.arrive(underlay_of(2), Ecn::NotEct, &[datagram(&packet)]);
    }
    bench.run();
    assert_eq!(bench.drops(), []);
    for (port, flow) in (1_u16..).zip(flows) {
        let delivered = bench.delivered().into_iter();
        let own = delivered.filter(|packet| packet[20..22] == port.to_be_bytes());
        assert!(own.eq(flow), "port {port}");
    }
}

/// Whatever may be of a flow stays behind what has arrived of it, and other flows wait on.
#[test]
fn what_takes_no_part_in_super_packets_stays_in_its_flow() {
    let (one, other) = (tcp_flow(1, 4), tcp_flow(2, 4));
    let acknowledgement = Spec { ports: (1, 80), ..Spec::incoming(Family::V4, true, vec![]) };
    let mut fragment = udp(100).build();
    set_word(&mut fragment, 6, 0x200a, 10);
    let mut of_another_pod = Spec { from: (2, 77), ..udp(100) }.build();
    set_word(&mut of_another_pod, 6, 0x200a, 10);
    let cases = [
        ("acknowledgement", acknowledgement.build(), vec![&one], 4),
        ("fragment", fragment, vec![&one, &other], 5),
        ("fragment of another pod", of_another_pod, vec![], 3),
    ];
    for (case, between, flows, writes) in cases {
        let before = in_turn(&[one[..2].to_vec(), other[..2].to_vec()]);
        let behind = in_turn(&[one[2..].to_vec(), other[2..].to_vec()]);
        let mut bench = Bench::new(Offload::TcpUdp);
        for packet in [before, vec![between.clone()], behind].concat() {
            bench.arrive(underlay_of(2), Ecn::NotEct, &[datagram(&packet)]);
        }
        bench.run();
        assert_eq!((bench.drops(), bench.tun.written.len()), (vec![], writes), "{case}");
        let delivered = bench.delivered();
        let place = |packet| delivered.iter().position(|found| found == packet).unwrap();
        for flow in flows {
            let places = [&flow[1], &between, &flow[2]].map(place);
            assert!(places.is_sorted(), "{case}: {places:?}");
        }
    }
}

#[test]
fn a_refused_super_packet_is_written_packet_by_packet() {
    let spec = Spec::incoming(Family::V4, true, vec![3; 4000]);
    let packets = spec.split(1000);
    let mut bench = Bench::new(Offload::TcpUdp);
    bench.tun.write_errors.push_back(libc::EINVAL);
    for _ in 0..2 {
        let train: Vec<_> = packets.iter().map(|packet| datagram(packet)).collect();
        bench.arrive(underlay_of(2), Ecn::NotEct, &train);
        bench.run();
    }
    assert_eq!(bench.drops(), []);
    assert_eq!(bench.tun.written.len(), 8);
    assert_eq!(bench.delivered(), [packets.clone(), packets].concat());
}

#[test]
fn a_deleted_tun_is_reported() {
    let mut bench = Bench::new(Offload::TcpUdp);
    bench.tun.write_errors.push_back(libc::EBADFD);
    bench.arrive(underlay_of(2), Ecn::NotEct, &[datagram(&udp(9).build())]);
    bench.run();
    assert_eq!(bench.drops(), [(DropReason::TunRefused, 1)]);
    assert_eq!(bench.noticed.try_recv(), Ok(Notice::TunGone));
}

/// Sets the 16 bits at `at` and keeps the checksum at `sum_at` right.
fn set_word(packet: &mut [u8], at: usize, value: u16, sum_at: usize) {
    let word = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    let sum = update_u16(word(sum_at), word(at), value);
    packet[at..at + 2].copy_from_slice(&value.to_be_bytes());
    packet[sum_at..sum_at + 2].copy_from_slice(&sum.to_be_bytes());
}

/// Each is a pair that differs from a mergeable one in just one thing.
#[test]
fn packets_that_a_split_would_not_give_back_stay_as_they_came() {
    let tcp = |flags: u8| Spec { flags, ..Spec::incoming(Family::V4, true, vec![3; 2000]) };
    let pair = |spec: &Spec| spec.split(1000);

    let mut cases = vec![("no acknowledgement", pair(&tcp(0)))];

    let mut reserved = pair(&tcp(ACK));
    for packet in &mut reserved {
        let word = u16::from_be_bytes([packet[32], packet[33]]);
        set_word(packet, 32, word | 0x0100, 36);
    }
    cases.push(("a reserved bit", reserved));

    let mut options = pair(&tcp(ACK));
    set_word(&mut options[1], 46, 0xbeef, 36);
    cases.push(("other options", options));

    let datagrams = pair(&Spec::incoming(Family::V4, false, vec![3; 2000]));
    let mut length = datagrams.clone();
    for packet in &mut length {
        set_word(packet, 24, 1000, 26);
    }
    cases.push(("bytes behind the datagram", length));

    let mut without = datagrams;
    for packet in &mut without {
        // A payload whose checksum comes to zero, which is sent as its complement or, as here, as
        // none.
        let sum = u16::from_be_bytes([packet[26], packet[27]]);
        let word = u16::from_be_bytes([packet[28], packet[29]]);
        let (total, carry) = word.overflowing_add(sum);
        packet[28..30].copy_from_slice(&(total + u16::from(carry)).to_be_bytes());
        packet[26..28].fill(0);
    }
    cases.push(("no checksum", without));

    let mut extended = pair(&Spec::incoming(Family::V6, false, vec![3; 2000]));
    for packet in &mut extended {
        let mut options = vec![0; 64];
        [options[0], options[1], options[2], options[3]] = [packet[6], 7, 1, 4];
        packet[6] = 60;
        packet.splice(40..40, options);
        let payload_len = u16::try_from(packet.len() - 40).unwrap();
        packet[4..6].copy_from_slice(&payload_len.to_be_bytes());
    }
    cases.push(("extension headers", extended));

    for (case, packets) in cases {
        let mut bench = Bench::new(Offload::TcpUdp);
        let train: Vec<_> = packets.iter().map(|packet| datagram(packet)).collect();
        bench.arrive(underlay_of(2), Ecn::NotEct, &train);
        bench.run();
        assert_eq!((bench.drops(), bench.tun.written.len()), (vec![], 2), "{case}");
        assert_eq!(bench.delivered(), packets, "{case}");
    }
}

#[test]
fn a_super_packet_ends_before_its_length_does_not_fit_the_header() {
    let packets = Spec::incoming(Family::V4, true, vec![3; 60 * 1200]).split(1200);
    let mut bench = Bench::new(Offload::TcpUdp);
    for part in packets.chunks(30) {
        let train: Vec<_> = part.iter().map(|packet| datagram(packet)).collect();
        bench.arrive(underlay_of(2), Ecn::NotEct, &train);
    }
    bench.run();
    assert_eq!((bench.drops(), bench.tun.written.len()), (vec![], 2));
    assert_eq!(bench.delivered(), packets);
}
