//! Strangers between nodes that seal: what they send in a node's name, and what they send again.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use culvert_lab::probe::{self, Answer};
use culvert_lab::{Lab, UNDERLAY_PORT, wait_until};
use overlay_proto::Family;

use crate::capture::Capture;
use crate::eavesdrop::{Datagram, Eavesdropper};
use crate::harness::{
    FAMILIES, SOON, TABLE_LIMIT, assert_reaches, assert_reaches_within, lab, quick_ping, run,
};
use crate::packets::{Udp, VNI, in_overlay};
use crate::stream::Stream;

/// Where what is sealed goes.
const PORT: u16 = 4500;

/// What must not arrive, and what shows that everything before it was handled.
const EVIL: &[u8] = b"must not arrive";
const GOOD: &[u8] = b"may arrive";

/// Sends `payload` from between the nodes to the first one's `port`, as if it came from the second
/// one's `source_port`.
fn forge(lab: &Lab, source_port: u16, port: u16, payload: &[u8]) {
    let (from, to) = (lab.node(2).address(), lab.node(1).address());
    let packet = Udp::new(from, to, payload).source_port(source_port).port(port).bytes();
    probe::send_packet(lab.switch(), &packet).unwrap();
}

/// A plain datagram with a packet from the second node's pod to the first one's.
fn plain(lab: &Lab, family: Family, payload: &[u8]) -> Vec<u8> {
    let (from, to): (IpAddr, IpAddr) =
        (lab.pod(2, 1).address(family), lab.pod(1, 1).address(family));
    in_overlay(VNI, &Udp::new(from, to, payload).bytes())
}

/// Waits for what the second node's pod sends the first one's.
#[track_caller]
fn honest(lab: &Lab, seen: &mut Capture) {
    let (from, to) = (lab.pod(2, 1), lab.pod(1, 1));
    let packet = Udp::new(from.ipv4(), to.ipv4(), GOOD).bytes();
    seen.wait_for(GOOD, || probe::send_packet(from.netns(), &packet).unwrap());
}

/// Sends until the first node has counted it.
#[track_caller]
fn wait_for_drop(lab: &Lab, reason: &str, mut send: impl FnMut()) {
    let node = lab.node(1);
    let before = node.drops(reason).unwrap();
    let counted = || {
        send();
        node.drops(reason).unwrap() > before
    };
    if let Err(late) = wait_until(SOON, &format!("a drop for {reason}"), counted) {
        panic!("{late}: {}", node.status().unwrap()["drops"]);
    }
}

#[test]
fn nothing_plain_is_taken_where_everything_has_to_be_sealed() {
    let lab = lab("nt-sealplain").sealed("require").up().unwrap();
    let mut seen = Capture::start(lab.pod(1, 1).netns());
    for family in FAMILIES {
        let datagram = plain(&lab, family, EVIL);
        // Where the daemon listens it is nothing that is spoken there …
        wait_for_drop(&lab, "esp_format", || forge(&lab, 999, PORT, &datagram));
        for port in [UNDERLAY_PORT, 8472, 8285] {
            for source_port in [999, port] {
                forge(&lab, source_port, port, &datagram);
            }
        }
        honest(&lab, &mut seen);
        assert!(!seen.has(EVIL), "{family}");
    }
    // … and listens nowhere else.
    let any = SocketAddr::new([0; 4].into(), UNDERLAY_PORT);
    lab.node(1).netns().run(|| UdpSocket::bind(any)).unwrap().unwrap();
}

#[test]
fn nothing_plain_is_taken_after_the_first_session() {
    let lab = lab("nt-seallatch").sealed("prefer").up().unwrap();
    let mut seen = Capture::start(lab.pod(1, 1).netns());
    // Nobody has spoken so far, and until then it is as it is without keys.
    let node = lab.node(1);
    assert_eq!(node.status().unwrap()["peers"][0]["plain"], true);
    seen.wait_for(b"before the first session", || {
        let datagram = plain(&lab, Family::V4, b"before the first session");
        forge(&lab, 999, UNDERLAY_PORT, &datagram);
    });
    let (one, two) = (lab.pod(1, 1), lab.pod(2, 1));
    let sealed = || {
        quick_ping(one.netns(), two.ipv4());
        lab.nodes().iter().all(|node| node.status().unwrap()["peers"][0]["sealed"].is_string())
    };
    wait_until(SOON, "a session", sealed).unwrap();
    assert_latched(&lab, &mut seen);
    // Whatever becomes of the peer.
    lab.node(2).kill9().unwrap();
    for family in FAMILIES {
        let datagram = plain(&lab, family, EVIL);
        wait_for_drop(&lab, "plaintext_refused", || forge(&lab, 999, UNDERLAY_PORT, &datagram));
    }
    lab.node(2).start().unwrap();
    assert_latched(&lab, &mut seen);
}

/// A node that prefers to seal and was killed has forgotten that it did: it is plain until its next
/// session. Somebody who keeps it from one gets to read what it sends meanwhile; but nobody takes
/// it, and what is for it stays sealed.
#[test]
fn what_a_node_sends_in_plain_after_it_was_killed_is_taken_by_nobody_who_has_latched() {
    let lab = lab("nt-sealanew").sealed("prefer").up().unwrap();
    let (one, two) = (lab.pod(1, 1), lab.pod(2, 1));
    let sealed = || {
        quick_ping(one.netns(), two.ipv4());
        lab.nodes().iter().all(|node| node.status().unwrap()["peers"][0]["sealed"].is_string())
    };
    wait_until(SOON, "a session", sealed).unwrap();
    let mut seen = Capture::start(one.netns());
    assert_latched(&lab, &mut seen);
    let cut = "table bridge cut {
        chain forward { type filter hook forward priority 0; udp dport 4500 drop; }
    }";
    run(lab.switch(), "nft", &[cut]);
    lab.node(2).kill9().unwrap();
    lab.node(2).start().unwrap();

    let wire = Eavesdropper::start(lab.switch(), EVIL);
    for family in FAMILIES {
        let packet = Udp::new(two.address(family), one.address(family), EVIL).bytes();
        wait_for_drop(&lab, "plaintext_refused", || {
            probe::send_packet(two.netns(), &packet).unwrap();
        });
    }
    let heard = wire.take();
    assert!(heard.readable > 0, "it has no session and is plain");
    let mut sent = heard.datagrams;
    sent.retain(|datagram| datagram.from.ip() == lab.node(1).address());
    for family in FAMILIES {
        let answer = b"sealed for nobody";
        let packet = Udp::new(one.address(family), two.address(family), answer).bytes();
        let before = sent.len();
        wait_until(SOON, "the latched node to send something", || {
            probe::send_packet(one.netns(), &packet).unwrap();
            let mut heard = wire.take().datagrams;
            heard.retain(|datagram| datagram.from.ip() == lab.node(1).address());
            sent.append(&mut heard);
            sent.len() > before
        })
        .unwrap();
    }
    assert!(sent.iter().all(|datagram| datagram.to.port() == PORT), "{sent:?}");
    run(lab.switch(), "nft", &["delete", "table", "bridge", "cut"]);
    honest(&lab, &mut seen);
    assert!(!seen.has(EVIL));
}

/// Demands that the first node takes nothing plain in the second one's name, soon.
fn assert_latched(lab: &Lab, seen: &mut Capture) {
    let node = lab.node(1);
    wait_until(SOON, "an end of what is plain", || {
        let before = node.drops("plaintext_refused").unwrap();
        forge(lab, 999, UNDERLAY_PORT, &plain(lab, Family::V4, b"a moment late, maybe"));
        node.drops("plaintext_refused").unwrap() > before
    })
    .unwrap();
    for family in FAMILIES {
        let datagram = plain(lab, family, EVIL);
        wait_for_drop(lab, "plaintext_refused", || forge(lab, 999, UNDERLAY_PORT, &datagram));
        honest(lab, seen);
        assert!(!seen.has(EVIL), "{family}");
    }
}

#[test]
fn what_was_sent_is_not_taken_again() {
    let lab = lab("nt-sealagain").sealed("require").up().unwrap();
    let (node, from, to) = (lab.node(1), lab.pod(2, 1), lab.pod(1, 1));
    let wire = Eavesdropper::start(lab.switch(), EVIL);
    let once = Udp::new(from.ipv4(), to.ipv4(), EVIL).bytes();
    let mut first = Capture::start(to.netns());
    first.wait_for(EVIL, || probe::send_packet(from.netns(), &once).unwrap());
    let heard = wire.take();
    assert_eq!(heard.readable, 0);
    let is_sealed = |datagram: &&Datagram| {
        let ends = (datagram.from.ip(), datagram.to);
        let expected = (lab.node(2).address(), SocketAddr::new(node.address(), PORT));
        ends == expected && datagram.payload.len() > 8
    };
    let (shaken, sealed): (Vec<Datagram>, Vec<Datagram>) = heard
        .datagrams
        .iter()
        .filter(is_sealed)
        .cloned()
        .partition(|datagram| datagram.payload.starts_with(&[0; 4]));
    assert!(!sealed.is_empty() && !shaken.is_empty(), "{}", heard.datagrams.len());

    let mut seen = Capture::start(to.netns());
    for datagram in &sealed {
        for port in [datagram.from.port(), 999] {
            wait_for_drop(&lab, "replayed", || forge(&lab, port, PORT, &datagram.payload));
        }
    }
    // Nor does a handshake that is told twice end the session.
    for datagram in &shaken {
        for port in [datagram.from.port(), 999] {
            forge(&lab, port, PORT, &datagram.payload);
        }
    }
    honest(&lab, &mut seen);
    assert!(!seen.has(EVIL));
    assert_eq!(node.drops("unknown_spi").unwrap(), 0);

    // The next life of the daemon knows none of it.
    lab.node(2).stop().unwrap();
    node.kill9().unwrap();
    node.start().unwrap();
    for datagram in &sealed {
        wait_for_drop(&lab, "unknown_spi", || {
            forge(&lab, datagram.from.port(), PORT, &datagram.payload);
        });
    }
    for datagram in &shaken {
        forge(&lab, datagram.from.port(), PORT, &datagram.payload);
    }
    lab.node(2).start().unwrap();
    honest(&lab, &mut seen);
    for datagram in sealed.iter().chain(&shaken) {
        forge(&lab, datagram.from.port(), PORT, &datagram.payload);
    }
    honest(&lab, &mut seen);
    assert!(!seen.has(EVIL));
}

/// More recorded handshakes than a peer may begin at once, again and again, are known again: a
/// session goes on under them, and the next one comes at once.
#[test]
fn recorded_handshakes_hold_up_no_new_one() {
    let lab = lab("nt-sealold").sealed("require").up().unwrap();
    let (node, peer) = (lab.node(1), lab.node(2));
    let (from, to) = (lab.pod(2, 1), lab.pod(1, 1));
    let wire = Eavesdropper::start(lab.switch(), EVIL);
    let is_init = |datagram: &Datagram| {
        let ends = (datagram.from.ip(), datagram.to);
        let expected = (peer.address(), SocketAddr::new(node.address(), PORT));
        ends == expected && datagram.payload.starts_with(&[0; 4]) && datagram.payload.len() > 1300
    };
    // The peer begins one in each of its lives.
    let mut recorded: Vec<Datagram> = Vec::new();
    while recorded.len() < 5 {
        assert_reaches_within(SOON, from.netns(), to.ipv4());
        recorded.extend(wire.take().datagrams.into_iter().filter(is_init));
        recorded.dedup();
        peer.kill9().unwrap();
        peer.start().unwrap();
    }
    let made = || {
        let status = node.status().unwrap();
        let made = status["sealed"]["handshakes"]["made"].as_object().unwrap();
        made.values().filter_map(serde_json::Value::as_u64).sum::<u64>()
    };
    let replay = |rounds: usize| {
        for datagram in recorded.iter().cycle().take(rounds * recorded.len()) {
            forge(&lab, datagram.from.port(), PORT, &datagram.payload);
        }
    };
    assert_reaches_within(SOON, from.netns(), to.ipv4());
    let before = made();
    replay(40);
    assert_reaches(from.netns(), to.ipv4());
    assert_eq!(made(), before, "no session has come of them");
    let status = node.status().unwrap();
    assert_eq!(status["peers"][0]["session_error"], serde_json::Value::Null, "{status}");
    // Amid them the peer begins anew, which it could not if they counted as what it may begin.
    peer.kill9().unwrap();
    peer.start().unwrap();
    wait_until(SOON, "a session amid recorded handshakes", || {
        replay(10);
        quick_ping(from.netns(), to.ipv4()).is_reply()
    })
    .unwrap();
    assert!(!node.log().contains("more handshakes than are answered"), "{}", node.log());
}

#[test]
fn what_was_changed_on_the_way_is_not_taken_and_what_is_dropped_does_not_go_in_plain() {
    let lab = lab("nt-sealbent").sealed("prefer").up().unwrap();
    let (from, to) = (lab.pod(2, 1), lab.pod(1, 1));
    let both = || {
        quick_ping(from.netns(), to.ipv4());
        lab.nodes().iter().all(|node| node.status().unwrap()["peers"][0]["sealed"].is_string())
    };
    wait_until(SOON, "a session", both).unwrap();
    // From here on what is sealed gets no further than to the switch.
    let cut = "table bridge cut {
        chain forward { type filter hook forward priority 0; udp dport 4500 drop; }
    }";
    run(lab.switch(), "nft", &[cut]);
    let wire = Eavesdropper::start(lab.switch(), EVIL);
    let mut seen = Capture::start(to.netns());
    let payload = EVIL.repeat(20);
    let packet = Udp::new(from.ipv4(), to.ipv4(), &payload).bytes();
    let mut caught = None;
    let is_it = |datagram: &Datagram| {
        let ends = (datagram.from.ip(), datagram.to);
        ends == (lab.node(2).address(), SocketAddr::new(lab.node(1).address(), PORT))
            && (packet.len() + 1..packet.len() + 100).contains(&datagram.payload.len())
    };
    wait_until(SOON, "it to be caught", || {
        probe::send_packet(from.netns(), &packet).unwrap();
        assert!(!quick_ping(from.netns(), to.ipv4()).is_reply());
        let heard = wire.take();
        assert_eq!(heard.readable, 0);
        caught = heard.datagrams.into_iter().find(is_it);
        caught.is_some()
    })
    .unwrap();
    let caught = caught.unwrap();

    let sealed = &caught.payload;
    let last = sealed.len() - 1;
    for (byte, reason) in [
        (0, "unknown_spi"), // Its slot.
        (7, "esp_format"),  // Its number, which the IV has as well.
        (15, "esp_format"), // Its IV.
        (16, "bad_tag"),
        (40, "bad_tag"),
        (last - 16, "bad_tag"),
        (last, "bad_tag"),
    ] {
        let mut changed = sealed.clone();
        changed[byte] ^= 0x80;
        wait_for_drop(&lab, reason, || forge(&lab, caught.from.port(), PORT, &changed));
    }
    assert!(!seen.has(EVIL));
    // As it was it is taken, once.
    seen.wait_for(EVIL, || forge(&lab, caught.from.port(), PORT, sealed));
    let mut again = Capture::start(to.netns());
    wait_for_drop(&lab, "replayed", || forge(&lab, caught.from.port(), PORT, sealed));
    run(lab.switch(), "nft", &["delete", "table", "bridge", "cut"]);
    honest(&lab, &mut again);
    assert!(!again.has(EVIL));
}

#[test]
fn a_node_whose_key_leaves_the_table_is_cut_off() {
    let lab = lab("nt-sealcut").sealed("require").own_tables().nodes(3).up().unwrap();
    let (one, two) = (lab.pod(1, 1), lab.pod(2, 1));
    for family in FAMILIES {
        assert_reaches_within(SOON, one.netns(), two.address(family));
    }
    let stream = Stream::start(&two, &one, Family::V4);
    wait_until(SOON, "packets", || stream.arrived() > 100).unwrap();
    let mut table = lab.table();
    table.nodes[1].public_keys.clear();
    // The node itself does not hear of it, and goes on.
    for node in [1, 3] {
        lab.write_table_of(node, &table.to_toml()).unwrap();
    }
    wait_until(TABLE_LIMIT, "its sessions to end", || {
        lab.node(1).drops("unknown_spi").unwrap() > 100
    })
    .unwrap();
    let before = stream.arrived();
    let refused = lab.node(1).drops("unknown_spi").unwrap();
    wait_until(SOON, "more of it", || lab.node(1).drops("unknown_spi").unwrap() > refused + 200)
        .unwrap();
    assert_eq!(stream.arrived(), before);
    stream.stop();
    for family in FAMILIES {
        let answer = quick_ping(one.netns(), two.address(family));
        let code = if family == Family::V4 { 13 } else { 1 };
        assert!(matches!(answer, Answer::Unreachable { code: it, .. } if it == code), "{answer:?}");
        // The others are not concerned.
        assert_reaches(one.netns(), lab.pod(3, 1).address(family));
    }
    lab.write_table_of(1, &lab.table().to_toml()).unwrap();
    for family in FAMILIES {
        assert_reaches_within(TABLE_LIMIT, one.netns(), two.address(family));
    }
}
