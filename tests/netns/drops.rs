//! What the daemon drops, and what `culvert doctor` and `culvert status` make of it: reason, count,
//! sender and cause while it goes on, and no failure once it is over.

use std::time::Duration;

use culvert_lab::{probe, wait_until};

use crate::harness::{SOON, quick_ping};
use crate::hostile::uncheck_pods;
use crate::packets::{Udp, VNI, in_overlay, send_to_daemon};
use crate::truth::{assert_said, doctor, plain};

#[test]
fn peer_of_another_virtual_network_is_named_while_it_sends() {
    let lab = plain("nt-drops-vni").up().unwrap();
    let (subject, peer) = (lab.node(1), lab.node(2));
    assert_eq!(doctor(subject, &[], "drops")[0].0, "ok");
    peer.write_config(&["[network]\nvni = 2"]).unwrap();
    peer.restart().unwrap();
    wait_until(SOON, "a drop on both sides", || {
        quick_ping(lab.pod(1, 1).netns(), lab.pod(2, 1).ipv4());
        quick_ping(lab.pod(2, 1).netns(), lab.pod(1, 1).ipv4());
        [subject, peer].iter().all(|node| node.drops("vni").unwrap() > 0)
    })
    .unwrap();
    let words = ["\"peer\":\"node2\"", "vni: ", "from 192.168.1.12", "network than 1,"];
    assert_said(subject, &[], "drops", "fail", &words);
    let words = ["\"peer\":\"node1\"", "from 192.168.1.11", "network than 2,", "network.vni"];
    assert_said(peer, &[], "drops", "fail", &words);
    assert_said(subject, &["--peers"], "peer", "fail", &["node2", "see drops above"]);
    // What daemons ask each other is told apart as well.
    assert!(!doctor(subject, &[], "drops").iter().any(|(_, text)| text.contains("flags: ")));
    let text = subject.culvert(&["status"]).unwrap();
    let line =
        text.lines().find(|line| line.starts_with(" vni")).unwrap_or_else(|| panic!("{text}"));
    assert!(line.contains("s ago") && line.ends_with("192.168.1.12 (node2)"), "{line}");

    // What is over is told, and fails no more.
    peer.write_config(&[]).unwrap();
    peer.restart().unwrap();
    wait_until(Duration::from_secs(40), "it to be over", || {
        doctor(subject, &[], "drops").iter().all(|(verdict, _)| verdict != "fail")
    })
    .unwrap();
    assert_said(subject, &[], "drops", "warn", &["vni: ", "the last "]);
}

#[test]
fn addresses_of_other_nodes_pods_are_told_by_both_nodes() {
    let lab = plain("nt-drops-spoof").up().unwrap();
    let (subject, peer) = (lab.node(1), lab.node(2));
    let (taken, to) = (lab.pod(3, 1).ipv4(), lab.pod(1, 1).ipv4());
    let packet = Udp::new(taken, to, b"from node3, it says").bytes();

    // A pod of node2 has the address, and nothing on its port checks it.
    uncheck_pods(peer);
    wait_until(SOON, "a drop", || {
        probe::send_packet(lab.pod(2, 1).netns(), &packet).unwrap();
        peer.drops("foreign_source").unwrap() > 0
    })
    .unwrap();
    let words = ["foreign_source: ", &format!("from {taken}"), "an address of node3's subnet"];
    assert_said(peer, &[], "drops", "fail", &words);

    // The daemon of node2 lets it through.
    wait_until(SOON, "a drop", || {
        send_to_daemon(peer.netns(), subject.address(), &in_overlay(VNI, &packet));
        subject.drops("spoofed_source").unwrap() > 0
    })
    .unwrap();
    let words = ["\"peer\":\"node2\"", "spoofed_source: ", "a pod there has an address"];
    assert_said(subject, &[], "drops", "fail", &words);
}

#[test]
fn strangers_and_damaged_datagrams_are_warnings_with_their_sender() {
    let lab = plain("nt-drops-odd").up().unwrap();
    let subject = lab.node(1);
    let send = |from: &culvert_lab::Netns, reason: &str, datagram: &[u8]| {
        wait_until(SOON, "a drop", || {
            send_to_daemon(from, subject.address(), datagram);
            subject.drops(reason).unwrap() > 0
        })
        .unwrap();
    };
    send(lab.switch(), "unknown_peer", &in_overlay(VNI, &[]));
    let mut damaged = in_overlay(VNI, &[]);
    damaged[0] = 0;
    send(lab.node(3).netns(), "flags", &damaged);
    assert_said(subject, &[], "drops", "warn", &["unknown_peer: ", "no node of this table"]);
    let words = ["\"peer\":\"node3\"", "flags: ", "tcpdump"];
    assert_said(subject, &[], "drops", "warn", &words);
    assert!(doctor(subject, &[], "drops").iter().all(|(verdict, _)| verdict == "warn"));
}
