//! What pods say to one another where nodes seal, and what somebody between the nodes reads of it.

use std::fs;

use culvert_lab::probe::{self, Transfer};
use culvert_lab::{Lab, LabBuilder, Node, wait_until};
use overlay_proto::Family;

use crate::eavesdrop::Eavesdropper;
use crate::harness::{FAMILIES, SOON, assert_reaches, assert_reaches_within, lab};
use crate::stream::{MARKER, Stream};

/// Where what is sealed goes.
const PORT: u16 = 4500;

/// Where what is plain goes.
const PLAIN_PORT: u16 = 4790;

/// What a datagram of [`probe::udp_echo`] begins with.
const ECHOED: &[u8] = &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

#[test]
fn pods_talk_over_either_family_and_nobody_reads_along() {
    talk_unread(lab("nt-sealtalk").sealed("require"));
}

#[test]
fn pods_talk_over_an_ipv6_underlay_and_nobody_reads_along() {
    talk_unread(lab("nt-sealtalk6").sealed("require").underlay(Family::V6));
}

fn talk_unread(builder: LabBuilder) {
    let lab = builder.up().unwrap();
    let wire = Eavesdropper::start(lab.switch(), ECHOED);
    let (one, two) = (lab.pod(1, 1), lab.pod(2, 1));
    for family in FAMILIES {
        for (from, to) in [(&one, &two), (&two, &one)] {
            let address = to.address(family);
            assert_reaches_within(SOON, from.netns(), address);
            let echo = probe::udp_echo(from.netns(), to.netns(), address, 600, SOON).unwrap();
            assert_eq!(echo.seen.ip(), from.address(family));
            let heard = wire.take();
            assert_eq!(heard.readable, 0, "{family}");
            let sealed = heard.datagrams.iter().filter(|datagram| datagram.to.port() == PORT);
            assert!(sealed.count() > 0, "{family}");
            let plain = |port: u16| [PLAIN_PORT, 8472, 8285].contains(&port);
            assert!(!heard.datagrams.iter().any(|datagram| plain(datagram.to.port())), "{family}");
        }
        let transfer = Transfer::of(8 << 20);
        probe::transfer(one.netns(), two.netns(), two.address(family), &transfer).unwrap();
    }
    for node in lab.nodes() {
        let status = node.status().unwrap();
        assert_eq!(status["underlay"]["port"], PORT, "{status}");
        let peer = status["peers"][0].clone();
        assert!(peer["sealed"].is_string(), "{peer}");
        assert_eq!((&peer["plain"], &peer["port"]), (&false.into(), &PORT.into()));
        for reason in ["plaintext_refused", "esp_format", "bad_tag", "replayed", "spoofed_source"] {
            assert_eq!(node.drops(reason).unwrap(), 0, "{} of {}", reason, node.name());
        }
    }
}

#[test]
fn nothing_readable_leaves_a_node_that_has_to_seal_whatever_happens_to_it() {
    let lab = lab("nt-sealdark").sealed("require").without_daemons().up().unwrap();
    let wire = Eavesdropper::start(lab.switch(), MARKER);
    let dark = |what: &str| {
        let heard = wire.take();
        assert_eq!(heard.readable, 0, "{what}: {} frames in all", heard.frames);
    };
    for node in lab.nodes() {
        node.start().unwrap();
    }
    for node in 1..=2 {
        lab.add_pod(node).unwrap();
    }
    let (one, two) = (lab.pod(1, 1), lab.pod(2, 1));
    let streams = [(&one, &two, Family::V4), (&two, &one, Family::V6)]
        .map(|(from, to, family)| Stream::start(from, to, family));
    let flows = |what: &str| {
        for stream in &streams {
            let before = stream.arrived();
            let what = format!("packets after {what}");
            wait_until(SOON, &what, || stream.arrived() > before + 100).unwrap();
        }
        dark(what);
    };
    flows("the start");
    for node in lab.nodes() {
        node.kill9().unwrap();
        dark("a killed daemon");
        node.start().unwrap();
        flows("kill -9");
        node.restart().unwrap();
        flows("a restart");
    }
    // A broken table, none at all, and one without keys.
    lab.write_table("[[node]").unwrap();
    flows("a broken table");
    fs::remove_file(lab.node(1).table_path()).unwrap();
    lab.node(1).restart().unwrap();
    flows("a lost table");
    let mut keyless = lab.table();
    keyless.nodes.iter_mut().for_each(|node| node.public_keys.clear());
    lab.write_table(&keyless.to_toml()).unwrap();
    let refuses = |node: &Node| node.drops("no_key").unwrap() > 0;
    wait_until(SOON, "packets to be refused", || lab.nodes().iter().all(refuses)).unwrap();
    dark("a table without keys");
    lab.write_table(&lab.table().to_toml()).unwrap();
    flows("the keys are back");
    for stream in streams {
        stream.stop();
    }
    dark("the end");
}

#[test]
fn traffic_flows_again_after_a_killed_daemon_is_ready() {
    let lab = lab("nt-sealkill").sealed("require").up().unwrap();
    let (one, two) = (lab.pod(1, 1), lab.pod(2, 1));
    for family in FAMILIES {
        assert_reaches_within(SOON, one.netns(), two.address(family));
    }
    for node in lab.nodes() {
        node.kill9().unwrap();
        node.start().unwrap();
        for family in FAMILIES {
            assert_reaches_within(SOON, one.netns(), two.address(family));
            assert_reaches(two.netns(), one.address(family));
        }
    }
    assert_no_failure(&lab);
}

fn assert_no_failure(lab: &Lab) {
    for node in lab.nodes() {
        let sealed = node.status().unwrap()["sealed"].clone();
        assert_eq!(sealed["failing"], serde_json::json!([]), "{}", node.name());
        assert!(sealed["error"].is_null(), "{sealed}");
    }
}
