//! "Port unreachable" by those who have no right to say so: a lie about a daemon that lives.

use std::thread;
use std::time::Duration;

use culvert_lab::{Lab, LabBuilder, clock, probe, wait_until};
use overlay_proto::Family;

use crate::harness::{SOON, assert_reaches, lab};
use crate::packets::{Udp, VNI, in_overlay};
use crate::path_errors::{quote, source_ports, unreachable};

#[test]
fn a_forged_port_unreachable_changes_nothing() {
    lies_about_a_daemon_change_nothing(lab("nt-lie"));
}

#[test]
fn a_forged_port_unreachable_changes_nothing_over_an_ipv6_underlay() {
    lies_about_a_daemon_change_nothing(lab("nt-lie6").underlay(Family::V6));
}

fn path(lab: &Lab) -> serde_json::Value {
    lab.node(1).status().unwrap()["peers"][0]["path"].clone()
}

/// Questions that the second node has answered.
fn answered(lab: &Lab) -> u64 {
    lab.node(2).status().unwrap()["probes"]["answered"].as_u64().unwrap()
}

/// Somebody on the underlay who knows every port and all bytes of what the first node sends to the
/// second says in the second's name that nobody listens there.
fn lies_about_a_daemon_change_nothing(builder: LabBuilder) {
    let lab = builder.up().unwrap();
    let (node, peer) = (lab.node(1), lab.node(2));
    let (from, to) = (lab.pod(1, 1), lab.pod(2, 1));
    assert_reaches(from.netns(), to.ipv4());
    wait_until(SOON, "the peer to answer", || path(&lab)["state"] == "answers").unwrap();
    let inner = in_overlay(VNI, &Udp::new(from.ipv4(), to.ipv4(), &[0; 100]).bytes());
    let lies: Vec<Vec<u8>> = source_ports(node)
        .into_iter()
        .map(|port| unreachable(peer.address(), node.address(), &quote(node, peer, port, &inner)))
        .collect();
    assert!(lies.len() >= 16);
    let before = answered(&lab);
    let start = clock::now();
    while start.elapsed() < Duration::from_secs(3) {
        // Whoever sends hears of it.
        assert_reaches(from.netns(), to.ipv4());
        for lie in &lies {
            probe::send_packet(lab.switch(), lie).unwrap();
        }
        let found = path(&lab);
        assert_eq!(found["state"], "answers", "{found}");
        let none = serde_json::json!([]);
        assert_eq!((&found["lost"], &found["lost_of_peer"]), (&none, &none), "{found}");
        thread::sleep(Duration::from_millis(50));
    }
    // A lie is heard, and is a reason to ask; not for each lie.
    let asked = answered(&lab) - before;
    assert!((1..200).contains(&asked), "{asked} questions");
    let log = node.log();
    assert!(!log.contains("does not answer"), "{log}");

    // The same is believed when it is true.
    peer.kill9().unwrap();
    let noticed = || {
        let _ = probe::ping(
            from.netns(),
            to.ipv4(),
            &probe::Ping::default().timeout(Duration::from_millis(50)),
        );
        path(&lab)["state"] == "refused"
    };
    wait_until(SOON, "the truth to be noticed", noticed).unwrap();
}

#[test]
fn tcp_finds_its_way_through_a_black_hole_that_nobody_measures() {
    let lab = lab("nt-blackhole").config("[probe]\ninterval = 0").up().unwrap();
    let narrow = culvert_lab::Fault::Narrow { node: "node2".to_owned(), mtu: 1300 };
    lab.inflict(&narrow).unwrap();
    let (from, to) = (lab.pod(1, 1), lab.pod(2, 1));
    let transfer = probe::Transfer::of(200_000).timeout(Duration::from_secs(40));
    let report = probe::transfer(from.netns(), to.netns(), to.ipv4(), &transfer).unwrap();
    assert_eq!(report.bytes, 200_000);

    // And that is what lets it: as the kernel is by itself, nothing arrives.
    from.netns().set_sysctl("ipv4/tcp_mtu_probing", "0").unwrap();
    to.netns().set_sysctl("ipv4/tcp_mtu_probing", "0").unwrap();
    let transfer = transfer.timeout(Duration::from_secs(12));
    let without = probe::transfer(from.netns(), to.netns(), to.ipv4(), &transfer);
    assert!(without.is_err(), "{without:?}");
}
