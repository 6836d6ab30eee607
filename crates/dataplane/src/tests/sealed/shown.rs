//! What those see who look at single packets, and what is made of ICMP errors about sealed ones.

use super::net::Seen;
use super::*;
use crate::platform::udp::{Report, ReportKind};

#[test]
fn who_looks_sees_the_packet_and_the_datagram_as_it_is_on_the_wire() {
    let mut net = Net::established(&Setup::default());
    for number in [1, 2] {
        net.node(number).seen = Some(Seen::default());
    }
    let spec = Spec { from: (2, 2), to: (1, 2), ..Spec::outgoing(Family::V4, true, vec![3; 2000]) };
    net.node(2).pod_sends(&spec.vnet(1000), &spec.build_partial());
    let said = net.settle();
    let packets = spec.split(1000);
    let datagrams: Vec<Vec<u8>> = said[0].datagrams().map(<[u8]>::to_vec).collect();
    let seen = |node: &net::Node| node.seen.as_ref().unwrap().0.take();
    let sender = [
        ("read", spec.build_partial()),
        ("sealed", datagrams[0].clone()),
        ("sealed", datagrams[1].clone()),
    ];
    assert_eq!(seen(net.node(2)), sender);
    let receiver = [
        ("arrived", datagrams[0].clone()),
        ("delivered", packets[0].clone()),
        ("arrived", datagrams[1].clone()),
        ("delivered", packets[1].clone()),
    ];
    assert_eq!(seen(net.node(1)), receiver);
}

/// One that waits is seen when it has waited, once.
#[test]
fn a_packet_that_waits_is_seen_once() {
    let mut net = Net::new(&Setup::default());
    net.node(1).seen = Some(Seen::default());
    let packet = udp(1, 2, vec![8; 50]).build();
    net.node(1).pod_sends(&PLAIN, &packet);
    net.turn();
    assert!(net.node(1).seen.as_ref().unwrap().0.borrow().is_empty());
    net.pass_where(Duration::from_secs(2), |_| false);
    assert_eq!(net.node(1).seen.as_ref().unwrap().0.take(), [("refused", packet)]);
}

#[test]
fn a_rehearsal_says_what_would_be_sealed_and_touches_no_session() {
    let packet = udp(1, 2, vec![8; 50]).build();
    for (net, expected) in [
        (Net::new(&Setup::default()), "would wait"),
        (Net::established(&Setup::default()), "would seal"),
    ] {
        let mut net = net;
        let seen = Seen::default();
        let mut rehearsal = Rehearsal::new(Offload::TcpUdp, net.now);
        rehearsal.pod_sends(&packet);
        let now = net.now;
        rehearsal.run(&net.node(1).table, &seen, now);
        assert_eq!(seen.0.take(), [(expected, packet.clone())]);
        assert!(net.settle().is_empty(), "nobody asks for a session");
    }
}

#[test]
fn a_claim_about_what_was_sealed_is_of_the_session_that_serves() {
    let mut net = Net::established(&Setup::default());
    net.node(1).pod_sends(&PLAIN, &udp(1, 2, vec![7; 1400]).build());
    let datagram = net.turn().remove(0).bytes;
    let table = &net.node(1).table;
    let claim = |mtu, quote: &[u8]| {
        let report = Report::new(sealed_port_of(2), ReportKind::TooBig(mtu), quote);
        PathClaim::of(&report, table).map(|claim| (claim.peer, claim.mtu))
    };
    let peer = underlay_of(2).ip();
    assert_eq!(claim(1400, &datagram), Some((peer, 1400)));
    assert_eq!(claim(1499, &datagram[..8]), Some((peer, 1499)));
    // As much as is ever sent, too short a quote, and another session.
    assert_eq!(claim(1500, &datagram), None);
    assert_eq!(claim(1400, &datagram[..3]), None);
    let mut other = datagram.clone();
    other[1] ^= 1;
    assert_eq!(claim(1400, &other), None);
}
