//! What a node sends into the overlay itself, from the address that the table has.

use etherparse::PacketBuilder;

use super::*;

/// A packet from the underlay address of node `from` to a pod of node `to`.
fn packet(from: u8, to: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    PacketBuilder::ipv4([192, 168, 1, 10 + from], [10, 244, to, 2], 64)
        .udp(1000, 2000)
        .write(&mut bytes, b"answer")
        .unwrap();
    bytes
}

#[test]
fn a_peer_may_send_from_its_own_address_and_from_no_other_nodes() {
    for sender in [2, 3] {
        for claimed in 1..=4 {
            let mut bench = Bench::new(Offload::TcpUdp);
            let packet = packet(claimed, 1);
            bench.arrive(underlay_of(sender), Ecn::NotEct, &[datagram(&packet)]);
            bench.run();
            if claimed == sender {
                assert_eq!((bench.drops(), bench.delivered()), (vec![], vec![packet]));
            } else {
                assert_eq!(bench.drops(), [(DropReason::SpoofedSource, 1)], "node{claimed}");
                assert!(bench.delivered().is_empty());
            }
        }
    }
}

#[test]
fn nothing_is_delivered_to_a_nodes_own_address() {
    let mut bench = Bench::new(Offload::TcpUdp);
    let mut bytes = Vec::new();
    PacketBuilder::ipv4([192, 168, 1, 12], [192, 168, 1, 11], 64)
        .udp(1000, 2000)
        .write(&mut bytes, b"answer")
        .unwrap();
    bench.arrive(underlay_of(2), Ecn::NotEct, &[datagram(&bytes)]);
    bench.run();
    assert_eq!(bench.drops(), [(DropReason::NotOurDestination, 1)]);
}

#[test]
fn this_node_sends_from_its_own_address_and_from_no_other_nodes() {
    for claimed in 1..=4 {
        let mut bench = Bench::new(Offload::TcpUdp);
        let packet = packet(claimed, 2);
        bench.pod_sends(&VnetHeader::default(), &packet);
        bench.run();
        if claimed == 1 {
            assert_eq!(bench.sent(), [(underlay_of(2), packet)]);
        } else {
            assert_eq!(bench.drops(), [(DropReason::ForeignSource, 1)], "node{claimed}");
        }
    }
}
