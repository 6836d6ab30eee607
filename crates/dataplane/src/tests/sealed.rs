//! Nodes that seal: what leaves in which form, what waits, and what is refused.

mod fragments;
mod hostile;
mod net;
mod plane;
mod probe;
mod shown;

use std::collections::HashSet;
use std::time::Duration;

use culvert_seal::Suite;
use overlay_proto::esp;

use self::net::{Flight, Net, SEALED_MTU, Setup, sealed_port_of};
use super::packets::Spec;
use super::*;
use crate::engine::{Seal, SealedMode, Sealing};

const PLAIN: VnetHeader = VnetHeader {
    partial: None,
    verified: false,
    gso: Gso::None,
    cwr: false,
    header_len: 0,
    gso_size: 0,
};

fn udp(from: u8, to: u8, payload: Vec<u8>) -> Spec {
    Spec { from: (from, 2), to: (to, 2), ..Spec::outgoing(Family::V4, false, payload) }
}

fn prefer() -> Setup {
    Setup { mode: SealedMode::Prefer, ..Setup::default() }
}

/// Whether bytes that only packets of the test have are on the wire.
fn shows(flights: &[Flight], marker: &[u8]) -> bool {
    flights.iter().any(|flight| flight.bytes.windows(marker.len()).any(|bytes| bytes == marker))
}

#[test]
fn super_packets_are_sealed_into_trains_and_joined_behind_them() {
    for suite in Suite::ALL {
        let mut net = Net::established(&Setup { suite, ..Setup::default() });
        for (from, to) in [(1, 2), (2, 1)] {
            for (family, tcp) in
                [(Family::V4, true), (Family::V6, true), (Family::V4, false), (Family::V6, false)]
            {
                // Segments shorter than their headers as well: those are written over packets that
                // have left.
                for gso_size in [1300, 1301, 20] {
                    let count = if gso_size == 20 { 30 } else { 8 };
                    let marker = b"nobody reads this";
                    let payload = marker.iter().copied().cycle().take(gso_size * count - 7);
                    let spec = Spec {
                        from: (from, 2),
                        to: (to, 2),
                        ..Spec::outgoing(family, tcp, payload.collect())
                    };
                    let vnet = spec.vnet(u16::try_from(gso_size).unwrap());
                    net.node(from).pod_sends(&vnet, &spec.build_partial());
                    let said = net.settle();
                    let [train] = &said[..] else { panic!("{} trains", said.len()) };
                    assert!(train.is_sealed() && train.to == sealed_port_of(to));
                    assert!(!shows(&said, &marker[..8]));
                    assert_eq!(train.datagrams().count(), count);
                    let node = net.node(to);
                    assert_eq!((node.drops(), node.threads[0].tun.written.len()), (vec![], 1));
                    assert_eq!(node.delivered(), spec.split(gso_size), "{suite} {family} {tcp}");
                }
            }
        }
    }
}

#[test]
fn inner_packets_are_counted_and_not_their_padding() {
    let mut net = Net::established(&Setup::default());
    let before = net.node(1).table.peers()[0].counters.egress();
    let heard = net.node(2).table.peers()[0].counters.ingress();
    let mut octets = 0;
    for len in 0..9 {
        let packet = udp(1, 2, vec![5; len]).build();
        octets += packet.len() as u64;
        net.node(1).pod_sends(&PLAIN, &packet);
    }
    net.settle();
    let sent = net.node(1).table.peers()[0].counters.egress();
    assert_eq!((sent.packets - before.packets, sent.bytes - before.bytes), (9, octets));
    let got = net.node(2).table.peers()[0].counters.ingress();
    assert_eq!((got.packets - heard.packets, got.bytes - heard.bytes), (9, octets));
}

#[test]
fn a_kernel_without_segmentation_gets_sealed_datagrams_one_by_one() {
    let mut net = Net::established(&Setup::default());
    net.node(1).threads[0].underlay.refuses_trains = true;
    let before = net.node(1).table.peers()[0].counters.egress();
    let spec = Spec::outgoing(Family::V4, true, vec![3; 4001]);
    net.node(1).pod_sends(&spec.vnet(1000), &spec.build_partial());
    let said = net.settle();
    assert_eq!(said.len(), 5);
    assert_eq!(net.node(2).delivered(), spec.split(1000));
    let after = net.node(1).table.peers()[0].counters.egress();
    let octets: usize = spec.split(1000).iter().map(Vec::len).sum();
    assert_eq!((after.packets - before.packets, after.bytes - before.bytes), (5, octets as u64));
}

#[test]
fn the_longest_packet_fills_the_underlay_and_one_byte_more_is_too_big() {
    let mut net = Net::established(&Setup::default());
    let longest = usize::try_from(SEALED_MTU).unwrap();
    let packet = udp(1, 2, vec![7; longest - 28]).build();
    net.node(1).pod_sends(&PLAIN, &packet);
    let said = net.settle();
    let lens: Vec<usize> = said.iter().map(|flight| flight.bytes.len() + 28).collect();
    assert_eq!((lens, net.node(2).delivered()), (vec![1500], vec![packet]));
    net.node(1).pod_sends(&PLAIN, &udp(1, 2, vec![7; longest - 27]).build());
    assert!(net.settle().is_empty());
    assert_eq!(net.node(1).drops(), [(DropReason::TooBig, 1)]);
    let [reply] = &net.node(1).delivered()[..] else { panic!("an answer") };
    assert_eq!((reply[20], reply[21], &reply[26..28]), (3, 4, &1438_u16.to_be_bytes()[..]));
}

#[test]
fn the_mark_of_a_sealed_datagram_reaches_the_packet() {
    let mut net = Net::established(&Setup::default());
    for (inner, outer, expected) in [
        (Ecn::Ect0, Ecn::Ce, Some(Ecn::Ce)),
        (Ecn::Ect0, Ecn::Ect1, Some(Ecn::Ect1)),
        (Ecn::NotEct, Ecn::Ce, None),
    ] {
        let spec = |ecn| Spec { ecn, ..udp(1, 2, vec![1; 100]) };
        net.node(1).pod_sends(&PLAIN, &spec(inner).build());
        let said = net.turn();
        assert_eq!(said[0].ecn, inner, "marks are copied outward");
        net.deliver(&Flight { ecn: outer, ..said[0].clone() });
        net.settle();
        let expected: Vec<_> = expected.map(|ecn| spec(ecn).build()).into_iter().collect();
        assert_eq!(net.node(2).delivered(), expected);
    }
    assert_eq!(net.node(2).drops(), [(DropReason::Congestion, 1)]);
}

#[test]
fn packets_wait_for_the_first_session_and_keep_their_order() {
    let mut net = Net::new(&Setup::default());
    let long = Spec { ports: (9, 9), ..Spec::outgoing(Family::V4, true, vec![3; 4000]) };
    let mut expected = Vec::new();
    for number in 0..5 {
        let packet = Spec { identification: number, ..udp(1, 2, vec![8; 50]) }.build();
        net.node(1).pod_sends(&PLAIN, &packet);
        expected.push(packet);
    }
    net.node(1).pod_sends(&long.vnet(1000), &long.build_partial());
    expected.extend(long.split(1000));
    let first = net.turn();
    assert!(first.iter().all(Flight::is_handshake) && first.len() == 1, "{first:?}");
    // More of it comes while the handshake goes on, and just when it has come to an end.
    let packet = Spec { identification: 5, ..udp(1, 2, vec![8; 50]) }.build();
    net.node(1).pod_sends(&PLAIN, &packet);
    let mut late = vec![packet];
    net.deliver(&first[0]);
    let second = net.turn();
    second.iter().for_each(|flight| net.deliver(flight));
    let third = net.turn();
    let packet = Spec { identification: 6, ..udp(1, 2, vec![8; 50]) }.build();
    net.node(1).pod_sends(&PLAIN, &packet);
    late.push(packet);
    third.iter().for_each(|flight| net.deliver(flight));
    net.settle();
    assert_eq!(net.node(1).drops(), []);
    let delivered = net.node(2).delivered();
    // Of each flow, which have ports of their own.
    let of = |wanted: u16, all: &[Vec<u8>]| -> Vec<Vec<u8>> {
        all.iter().filter(|packet| packet[20..22] == wanted.to_be_bytes()).cloned().collect()
    };
    expected.extend(late);
    for port in [9, 40_000] {
        assert_eq!(of(port, &delivered), of(port, &expected), "port {port}");
    }
    assert_eq!(delivered.len(), expected.len());
}

#[test]
fn nothing_overtakes_what_waits_when_the_session_comes_in_between() {
    let mut net = Net::new(&Setup::default());
    let packets: Vec<Vec<u8>> = (0..4)
        .map(|identification| Spec { identification, ..udp(1, 2, vec![8; 50]) }.build())
        .collect();
    net.node(1).pod_sends(&PLAIN, &packets[0]);
    for _ in 0..2 {
        net.turn().iter().for_each(|flight| net.deliver(flight));
    }
    let now = net.now;
    net.node(1).receive_only(now);
    assert!(net.node(1).link(2).outgoing().is_none(), "the answer has arrived and waits");
    net.node(1).read_in_between(&packets[1..], now);
    assert!(net.node(1).link(2).outgoing().is_some());
    net.settle();
    assert_eq!(net.node(2).delivered(), packets);
}

#[test]
fn what_waits_is_limited_and_given_up_after_a_second() {
    let mut net = Net::new(&Setup::default());
    let dead = |flight: &Flight| flight.to.ip() != underlay_of(2).ip();
    let sent = 400;
    for number in 0..sent {
        let spec = Spec { identification: number, ..udp(1, 2, vec![8; 1000]) };
        net.node(1).pod_sends(&PLAIN, &spec.build());
    }
    net.settle_where(dead);
    // 256 KiB of packets with their bookkeeping.
    let [(DropReason::NoSession, over)] = net.node(1).drops()[..] else {
        panic!("{:?}", net.node(1).drops());
    };
    assert!((150..180).contains(&over), "{over}");
    // Not more than an ICMP budget's worth are told, and each is told it is that host.
    let told = net.node(1).delivered();
    assert!(!told.is_empty() && told.len() <= 50);
    assert!(told.iter().all(|reply| (reply[20], reply[21]) == (3, 1)));
    net.pass_where(Duration::from_millis(950), dead);
    assert_eq!(net.node(1).drops(), [(DropReason::NoSession, over)], "they wait");
    net.pass_where(Duration::from_millis(100), dead);
    assert_eq!(net.node(1).drops(), [(DropReason::NoSession, u64::from(sent))]);
    assert!(net.node(1).threads[0].egress.next_end().is_none());
    let told = net.node(1).delivered();
    assert!(!told.is_empty() && told.iter().all(|reply| (reply[20], reply[21]) == (3, 1)));
    // Once the peer is there, all is well at the next packet.
    let packet = udp(1, 2, vec![8; 1000]).build();
    net.pass(Duration::from_secs(5));
    net.node(1).pod_sends(&PLAIN, &packet);
    net.settle();
    assert_eq!(net.node(2).delivered(), [packet]);
}

#[test]
fn prefer_is_plain_until_the_first_session_and_never_after_it() {
    let mut net = Net::new(&prefer());
    let send = |net: &mut Net, identification: u16| {
        let packet = Spec { identification, ..udp(1, 2, vec![8; 50]) }.build();
        net.node(1).pod_sends(&PLAIN, &packet);
        packet
    };
    let first = send(&mut net, 1);
    let said = net.settle();
    assert!(said.iter().any(Flight::is_plain) && said.iter().any(Flight::is_handshake));
    assert_eq!(net.node(2).delivered(), [first], "nothing waits");
    let second = send(&mut net, 2);
    let said = net.settle();
    assert!(said.iter().all(Flight::is_sealed) && said.len() == 1);
    assert_eq!(net.node(2).delivered(), [second]);
    // From now on handshakes are lost, and the session comes to its end.
    let lost = |flight: &Flight| !flight.is_handshake();
    net.pass_where(Duration::from_secs(200), lost);
    assert!(net.node(1).link(2).outgoing().is_none());
    send(&mut net, 3);
    let said = net.pass_where(Duration::from_secs(3), lost);
    assert!(!said.is_empty() && said.iter().all(Flight::is_handshake), "it asks, and holds");
    assert_eq!(net.node(1).drops(), [(DropReason::NoSession, 1)]);
}

/// Packets that left in plain before the peer knew of the session are not lost.
#[test]
fn plain_datagrams_are_refused_a_moment_after_the_peer_seals() {
    let mut net = Net::new(&prefer());
    let packet = udp(2, 1, vec![8; 50]).build();
    let plain = Flight {
        from: 2,
        to: underlay_of(1),
        ecn: Ecn::NotEct,
        segment_size: None,
        bytes: datagram(&packet),
    };
    net.node(1).pod_sends(&PLAIN, &udp(1, 2, vec![1]).build());
    net.settle();
    net.deliver(&plain);
    net.settle();
    assert_eq!(net.node(1).delivered(), [packet]);
    net.pass(Duration::from_millis(1100));
    net.deliver(&plain);
    net.settle();
    assert_eq!(net.node(1).drops(), [(DropReason::PlaintextRefused, 1)]);
    assert!(net.node(1).delivered().is_empty());
}

#[test]
fn prefer_leaves_those_alone_who_have_no_key() {
    let mut net = Net::new(&Setup { without_key: vec![3], ..prefer() });
    let packet = udp(1, 3, vec![8; 50]).build();
    net.node(1).pod_sends(&PLAIN, &packet);
    let said = net.pass(Duration::from_secs(2));
    assert!(said.iter().all(Flight::is_plain));
    assert_eq!(net.node(3).delivered(), [packet]);
}

#[test]
fn require_gives_those_nothing_who_have_no_key() {
    let mut net = Net::new(&Setup { without_key: vec![2], ..Setup::default() });
    for family in [Family::V4, Family::V6] {
        let spec = Spec::outgoing(family, false, vec![8; 50]);
        net.node(1).pod_sends(&PLAIN, &spec.build());
        assert!(net.settle().is_empty());
        let [reply] = &net.node(1).delivered()[..] else { panic!("an answer") };
        let icmp = spec.ip_len();
        // RFC 1812: administratively prohibited; RFC 4443 the same.
        let expected = if family == Family::V4 { (3, 13) } else { (1, 1) };
        assert_eq!((reply[icmp], reply[icmp + 1]), expected);
    }
    assert_eq!(net.node(1).drops(), [(DropReason::NoKey, 2)]);
    net.deliver(&plain());
    net.settle();
    assert_eq!(net.node(1).drops(), [(DropReason::PlaintextRefused, 1), (DropReason::NoKey, 2)]);
}

/// What node 2 sends node 1 without sealing it.
fn plain() -> Flight {
    Flight {
        from: 2,
        to: underlay_of(1),
        ecn: Ecn::NotEct,
        segment_size: None,
        bytes: datagram(&udp(2, 1, vec![8; 50]).build()),
    }
}

/// Where another node's traffic is plain, the port for it is open.
#[test]
fn require_takes_nothing_plain_of_those_who_have_a_key() {
    let mut net = Net::new(&Setup::default());
    net.deliver(&plain());
    net.settle();
    assert_eq!(net.node(1).drops(), [(DropReason::PlaintextRefused, 1)]);
    assert!(net.node(1).delivered().is_empty());
}

#[test]
fn require_listens_for_what_is_plain_only_where_somebody_needs_it() {
    let foreign =
        TunnelOptions { codec: Some(overlay_proto::CodecKind::IpUdp), ..TunnelOptions::default() };
    let sealing = Sealing::new(SealedMode::Require, esp::PORT);
    let seen = |node2: TunnelOptions| {
        let table = table_of(1, MTU, node2).seal(&sealing);
        let ports: Vec<u16> = table.local().tunnels.iter().map(|tunnel| tunnel.port).collect();
        let must: Vec<bool> =
            table.peers().iter().map(|peer| matches!(peer.seal, Seal::NoKey)).collect();
        (ports, must)
    };
    assert_eq!(seen(TunnelOptions::default()), (vec![], vec![true, true]));
    assert_eq!(seen(foreign), (vec![8285], vec![false, true]));
    // A node that does not run Culvert itself has no other way.
    let table = table_of(2, MTU, foreign).seal(&sealing);
    assert!(table.peers().iter().all(|peer| matches!(peer.seal, Seal::Plain)));
}

#[test]
fn sessions_are_renewed_under_traffic_and_nothing_is_lost() {
    let mut net = Net::established(&Setup::default());
    let before = net.node(1).sessions();
    for round in 0..3000_u16 {
        let mut expected = [vec![], vec![]];
        for (from, to) in [(1, 2), (2, 1)] {
            let spec = Spec { identification: round, ..udp(from, to, vec![8; 50]) };
            net.node(from).pod_sends(&PLAIN, &spec.build());
            expected[usize::from(to) - 1] = vec![spec.build()];
        }
        let said = net.pass(Duration::from_millis(100));
        assert!(!said.iter().any(Flight::is_plain));
        for node in [1, 2] {
            assert_eq!(net.node(node).delivered(), expected[usize::from(node) - 1], "{round}");
        }
    }
    assert!(net.node(1).sessions() >= before + 2, "five minutes have more than one session");
    assert_eq!((net.node(1).drops(), net.node(2).drops()), (vec![], vec![]));
}

#[test]
fn a_node_that_was_started_anew_is_found_again() {
    for (mode, talker) in [(SealedMode::Require, 1), (SealedMode::Prefer, 1)] {
        let setup = Setup { mode, ..Setup::default() };
        let mut net = Net::established(&setup);
        net.restart(2, &setup);
        let packet = udp(talker, 2, vec![8; 50]).build();
        net.node(talker).pod_sends(&PLAIN, &packet);
        let said = net.settle();
        assert!(!said.iter().any(Flight::is_plain));
        assert_eq!(net.node(2).drops(), [(DropReason::UnknownSpi, 1)]);
        // The restarted node has begun a session by itself.
        net.node(talker).pod_sends(&PLAIN, &packet);
        net.settle();
        assert_eq!(net.node(2).delivered(), [packet]);
    }
}

/// Would notice two workers that count in one lane, or one that begins to count anew.
#[test]
fn workers_have_lanes_of_their_own_and_no_iv_is_used_twice() {
    let mut net = Net::established(&Setup { workers: 3, ..Setup::default() });
    let mut seen = HashSet::new();
    let mut lanes: [HashSet<u16>; 3] = Default::default();
    for round in 0..20 {
        for worker in 0..3 {
            for port in 1000..1040 {
                let payload = vec![worker; 40];
                let spec = Spec { ports: (port + round, 7), ..udp(1, 2, payload) };
                net.node(1).pod_sends_by(worker.into(), &PLAIN, &spec.build());
            }
        }
        for flight in net.settle().iter().filter(|flight| flight.from == 1) {
            for datagram in flight.datagrams() {
                let header = esp::decode(datagram).unwrap().header;
                assert!(seen.insert((header.spi.get(), header.sequence)), "{header:?}");
                let lane = header.spi.lane().get();
                lanes[usize::from(lane) / SENDERS].insert(lane);
            }
        }
    }
    assert_eq!(seen.len(), 20 * 3 * 40);
    assert!(lanes.iter().all(|lanes| lanes.len() > 8), "{lanes:?}");
    assert_eq!(net.node(2).delivered().len(), seen.len());
}
