//! Congestion marks cross the overlay both ways (RFC 6040).

use culvert_lab::{probe, wait_until};

use crate::capture::Capture;
use crate::harness::{FAMILIES, SOON, lab};
use crate::packets::{CE, ECT_0, ECT_1, NOT_ECT, Udp, VNI, ecn_of, in_overlay, send_marked};

#[test]
fn marks_of_the_underlay_reach_the_pod() {
    let lab = lab("nt-ecnin").up().unwrap();
    let (from, to) = (lab.pod(2, 1), lab.pod(1, 1));
    let (peer, node) = (lab.node(2), lab.node(1));
    let mut seen = Capture::start(to.netns());
    for family in FAMILIES {
        for (inner, outer, expected) in [
            (ECT_0, CE, CE),
            (ECT_1, CE, CE),
            (CE, NOT_ECT, CE),
            (ECT_0, ECT_1, ECT_1),
            (ECT_0, ECT_0, ECT_0),
            (NOT_ECT, ECT_0, NOT_ECT),
        ] {
            let marker = format!("{family}: inner {inner:02b}, outer {outer:02b}");
            let packet =
                Udp::new(from.address(family), to.address(family), marker.as_bytes()).ecn(inner);
            let datagram = in_overlay(VNI, &packet.bytes());
            let arrived = seen.wait_for(marker.as_bytes(), || {
                send_marked(peer.netns(), peer.address(), node.address(), outer, &datagram);
            });
            assert_eq!(ecn_of(&arrived), expected, "{marker}");
        }
    }
}

#[test]
fn congestion_that_a_pod_would_not_understand_is_a_drop() {
    let lab = lab("nt-ecndrop").up().unwrap();
    let (from, to) = (lab.pod(2, 1), lab.pod(1, 1));
    let (peer, node) = (lab.node(2), lab.node(1));
    let mut seen = Capture::start(to.netns());
    let datagram =
        |payload: &[u8]| in_overlay(VNI, &Udp::new(from.ipv4(), to.ipv4(), payload).bytes());
    let send = |mark, payload| {
        send_marked(peer.netns(), peer.address(), node.address(), mark, &datagram(payload));
    };
    let counted = || {
        send(CE, b"congested");
        node.drops("congestion").unwrap() > 0
    };
    wait_until(SOON, "a drop", counted).unwrap();
    seen.wait_for(b"free", || send(NOT_ECT, b"free"));
    assert!(!seen.has(b"congested"));
}

#[test]
fn marks_of_pods_reach_the_underlay() {
    let lab = lab("nt-ecnout").up().unwrap();
    let (from, to) = (lab.pod(1, 1), lab.pod(2, 1));
    let mut wire = Capture::start(lab.switch());
    for family in FAMILIES {
        for mark in [NOT_ECT, ECT_0, ECT_1, CE] {
            let marker = format!("{family} marked {mark:02b}");
            let packet = Udp::new(from.address(family), to.address(family), marker.as_bytes());
            let packet = packet.ecn(mark).bytes();
            let send = || probe::send_packet(from.netns(), &packet).unwrap();
            let outer = wire.wait_for(marker.as_bytes(), send);
            assert_eq!(ecn_of(&outer), mark, "{marker}");
        }
    }
}
