//! What a node tells those who watch it.

use std::net::{SocketAddr, TcpListener, UdpSocket};

use culvert_dataplane::platform::udp::SOCKET_MARK;
use culvert_lab::{LabBuilder, OBSERVE_ADDRESS, UNDERLAY_PORT, probe, wait_until};
use culvert_node::node_file::NodeFile;
use culvert_node::whole_file;
use overlay_proto::Family;
use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{SOON, assert_reaches, lab, quick_ping};
use crate::packets::{Udp, VNI, in_overlay, mark_as_daemon, send_to_daemon};

#[test]
fn metrics_count_what_happens() {
    let lab = lab("nt-metrics").up().unwrap();
    let node = lab.node(1);
    assert_reaches(lab.pod(1, 1).netns(), lab.pod(2, 1).ipv4());
    send_to_daemon(lab.node(2).netns(), node.address(), &in_overlay(VNI + 1, &[]));
    wait_until(SOON, "the drop", || node.drops("vni").unwrap() == 1).unwrap();

    let (code, text) = node.http("/metrics").unwrap();
    assert_eq!(code, 200);
    for line in [
        "culvert_ready 1",
        "culvert_mtu_bytes 1464",
        "culvert_table_nodes 2",
        "culvert_dropped_packets_total{reason=\"vni\"} 1",
        "culvert_dropped_packets_total{reason=\"spoofed_source\"} 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line:?} is not in\n{text}");
    }
    for direction in ["egress", "ingress"] {
        let labels = format!("{{peer=\"node2\",direction=\"{direction}\"}}");
        let value = |name: &str| {
            let start = format!("{name}{labels} ");
            let line = text.lines().find_map(|line| line.strip_prefix(&start));
            line.unwrap_or_else(|| panic!("{start:?} is not in\n{text}")).parse::<u64>().unwrap()
        };
        assert!(value("culvert_peer_packets_total") >= 1);
        assert!(value("culvert_peer_bytes_total") >= 84);
    }
    assert_eq!(node.http("/healthz").unwrap(), (200, "ok\n".to_owned()));
    assert_eq!(node.http("/nothing").unwrap().0, 404);
}

/// Whoever has the port while a daemon is away does not keep the next one away.
#[test]
fn daemon_without_its_port_of_metrics_carries_packets_says_so_and_gets_it_back() {
    let lab = lab("nt-noobserve").up().unwrap();
    let node = lab.node(1);
    node.kill9().unwrap();
    let address: SocketAddr = OBSERVE_ADDRESS.parse().unwrap();
    let stranger = node.netns().run(|| TcpListener::bind(address)).unwrap().unwrap();
    node.spawn().unwrap();
    let hints = || {
        let status = node.status().ok()?;
        Some(status["hints"].to_string())
    };
    let is_said = || hints().is_some_and(|hints| hints.contains(OBSERVE_ADDRESS));
    wait_until(SOON, "status to say so", is_said).unwrap();
    wait_until(SOON, "pods to reach each other", || {
        quick_ping(lab.pod(1, 1).netns(), lab.pod(2, 1).ipv4()).is_reply()
    })
    .unwrap();
    drop(stranger);
    wait_until(SOON, "the port", || node.http("/healthz").is_ok_and(|(code, _)| code == 200))
        .unwrap();
    wait_until(SOON, "status to be silent", || hints().is_some() && !is_said()).unwrap();
}

#[test]
fn status_shows_peers_with_what_they_sent() {
    let lab = lab("nt-status").up().unwrap();
    let node = lab.node(1);
    let never = node.status().unwrap();
    assert!(never["peers"][0]["last_heard_seconds"].is_null(), "{never}");
    assert_reaches(lab.pod(1, 1).netns(), lab.pod(2, 1).ipv4());
    let status = node.status().unwrap();
    let peer = &status["peers"][0];
    assert_eq!(peer["name"], "node2");
    assert_eq!(peer["address"], "192.168.1.12");
    assert_eq!(peer["subnets"][0], "10.244.2.0/24");
    for direction in ["egress", "ingress"] {
        assert!(peer[direction]["packets"].as_u64().unwrap() >= 1, "{peer}");
        assert!(peer[direction]["bytes"].as_u64().unwrap() >= 84, "{peer}");
    }
    assert!(peer["last_heard_seconds"].as_f64().unwrap() < 5.0, "{peer}");
    let text = node.culvert(&["status"]).unwrap();
    for part in ["node1", "ready", "10.244.1.0/24", "1464 bytes", "node2", "192.168.1.12"] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
}

#[test]
fn readiness_follows_what_the_node_can_do() {
    let lab = lab("nt-ready").up().unwrap();
    let node = lab.node(1);
    assert_eq!(node.http("/readyz").unwrap(), (200, "ready\n".to_owned()));
    // Somebody else's device under the bridge's name, which the daemon must not touch. It sleeps
    // meanwhile, or it might have its bridge back before.
    let pid = node.pid().and_then(|pid| Pid::from_raw(pid.cast_signed())).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    node.netns().ip("link del v-net-0\nlink add v-net-0 type veth peer name other\n").unwrap();
    kill_process(pid, Signal::CONT).unwrap();
    let code = || node.http("/readyz").unwrap().0;
    wait_until(SOON, "the node to be unready", || code() == 503).unwrap();
    let (_, body) = node.http("/readyz").unwrap();
    assert!(body.contains("v-net-0"), "{body}");
    let status = node.status().unwrap();
    assert_eq!(status["ready"], false);
    let kernel = &status["missing"][0];
    assert_eq!(kernel["what"], "kernel", "{status}");
    assert!(kernel["why"].as_str().unwrap().contains("v-net-0"), "{status}");
    assert_eq!(node.http("/healthz").unwrap().0, 200);

    node.netns().ip("link del v-net-0\n").unwrap();
    wait_until(SOON, "the node to be ready", || code() == 200).unwrap();
    let (pod, far) = (lab.pod(1, 1), lab.pod(2, 1));
    let replies = || quick_ping(pod.netns(), far.ipv4()).is_reply();
    wait_until(SOON, "traffic to flow", replies).unwrap();
}

#[test]
fn datagrams_that_a_stopped_daemon_loses_are_told() {
    let lab = lab("nt-receive-drops").up().unwrap();
    let node = lab.node(1);
    let drops = || node.status().unwrap()["receive_drops"].as_u64().unwrap();
    assert_eq!(drops(), 0);
    let daemon = Pid::from_raw(node.pid().unwrap().cast_signed()).unwrap();
    kill_process(daemon, Signal::STOP).unwrap();
    // More than the receiving buffers hold.
    let datagram = in_overlay(VNI, &[0; 1200]);
    let socket = lab.node(2).netns().run(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
    mark_as_daemon(&socket);
    for _ in 0..60_000 {
        let _sent = socket.send_to(&datagram, (node.address(), UNDERLAY_PORT));
    }
    kill_process(daemon, Signal::CONT).unwrap();
    wait_until(SOON, "the daemon to answer", || node.status().is_ok()).unwrap();
    assert!(drops() > 0);
    let (_, metrics) = node.http("/metrics").unwrap();
    assert!(
        metrics.contains("\nculvert_kernel_dropped_packets_total{place=\"socket\"} "),
        "{metrics}"
    );
}

#[test]
fn datagrams_that_are_damaged_are_not_taken_for_late_ones() {
    damaged_are_told_apart(lab("nt-damaged"));
}

#[test]
fn datagrams_that_are_damaged_are_not_taken_for_late_ones_over_an_ipv6_underlay() {
    damaged_are_told_apart(lab("nt-damaged6").underlay(Family::V6));
}

/// A capture that is sent again as it was taken, before a network card has made its checksums:
/// zero, which says on IPv4 that there is none, or the sum of the addresses alone.
fn damaged_are_told_apart(builder: LabBuilder) {
    const SENT: u64 = 100;
    let lab = builder.up().unwrap();
    let (node, peer) = (lab.node(1), lab.node(2));
    let (from, to) = (lab.pod(2, 1), lab.pod(1, 1));
    let count = |name: &str| node.status().unwrap()[name].as_u64().unwrap();
    assert_reaches(from.netns(), to.ipv4());
    let inner = in_overlay(VNI, &Udp::new(from.ipv4(), to.ipv4(), &[0; 100]).bytes());
    let outer = Udp::new(peer.address(), node.address(), &inner).port(UNDERLAY_PORT).bytes();
    let checksum = outer.len() - inner.len() - 2;
    for sum in [0_u16, 0x1234] {
        let mut packet = outer.clone();
        packet[checksum..checksum + 2].copy_from_slice(&sum.to_be_bytes());
        for _ in 0..SENT {
            probe::send_packet_with_mark(peer.netns(), &packet, SOCKET_MARK).unwrap();
        }
        // What was sent before has been taken once this is answered.
        assert_reaches(from.netns(), to.ipv4());
        assert_eq!(count("receive_drops"), 0, "after {sum:#x}");
    }
    assert!(count("receive_damaged") >= SENT, "{}", count("receive_damaged"));
    let text = node.culvert(&["status"]).unwrap();
    assert!(text.contains("a wrong UDP checksum") && !text.contains("too slow"), "{text}");
}

#[test]
fn node_whose_underlay_leads_nowhere_is_not_ready() {
    let lab = lab("nt-noway").up().unwrap();
    let node = lab.node(1);
    let (pod, far) = (lab.pod(1, 1), lab.pod(2, 1));
    let code = || node.http("/readyz").unwrap().0;
    let address = node.address();
    let (down, up) = ("link set eth0 down", "link set eth0 up");
    let (off, on) = (
        format!("address del {address}/24 dev eth0"),
        format!("address add {address}/24 dev eth0"),
    );
    let local =
        format!("local {address} dev eth0 table local proto kernel scope host src {address}");
    let (lost, found) = (format!("route del {local}"), format!("route add {local}"));
    for (damage, repair, words) in [
        (down, up, "no datagram leaves for any other node"),
        (&off, &on, "no device has the address"),
        (&lost, &found, "route show table local"),
    ] {
        assert_eq!(code(), 200);
        node.netns().ip(&format!("{damage}\n")).unwrap();
        wait_until(SOON, &format!("the node to be unready after {damage}"), || code() == 503)
            .unwrap();
        let (_, body) = node.http("/readyz").unwrap();
        assert!(body.contains(words), "after {damage}: {body}");
        node.netns().ip(&format!("{repair}\n")).unwrap();
        wait_until(SOON, &format!("the node to be ready after {repair}"), || code() == 200)
            .unwrap();
        let replies = || quick_ping(pod.netns(), far.ipv4()).is_reply();
        wait_until(SOON, "traffic to flow", replies).unwrap();
    }
    // Without a carrier, too: somebody pulls the cable at the other end.
    lab.switch().ip("link set node1 down\n").unwrap();
    wait_until(SOON, "the node to be unready without a carrier", || code() == 503).unwrap();
    lab.switch().ip("link set node1 up\n").unwrap();
    wait_until(SOON, "the node to be ready with a carrier", || code() == 200).unwrap();
}

#[test]
fn node_file_that_cannot_be_renewed_is_gone_until_it_can() {
    let lab = lab("nt-nodefile").up().unwrap();
    let node = lab.node(1);
    let path = NodeFile::path(&node.run_dir());
    let mtu = || NodeFile::read(&node.run_dir()).ok().map(|file| file.mtu);
    assert_eq!(mtu(), Some(1464));
    // As on a full disk, but without one.
    let obstacle = whole_file::partial_of(&path);
    std::fs::create_dir(&obstacle).unwrap();
    let peer = lab.node(2).address();
    node.netns().ip(&format!("route add {peer} dev eth0 mtu 1400\n")).unwrap();
    wait_until(SOON, "the node file to go", || !path.exists()).unwrap();
    // An answer may be a moment old.
    let is_said = || {
        let (code, body) = node.http("/readyz").unwrap();
        code == 503 && body.contains("node_file: writing ")
    };
    wait_until(SOON, "the node to say so", is_said).unwrap();
    std::fs::remove_dir(&obstacle).unwrap();
    // It is tried with every look.
    node.reload().unwrap();
    wait_until(SOON, "the node file to come", || mtu() == Some(1364)).unwrap();
    let ready = || node.http("/readyz").unwrap().0 == 200;
    wait_until(SOON, "the node to be ready", ready).unwrap();
}

#[test]
fn underlay_that_is_too_narrow_is_said_once_and_so_is_its_end() {
    let lab = lab("nt-saidonce").up().unwrap();
    let node = lab.node(1);
    let count = |words: &str| node.log().lines().filter(|line| line.contains(words)).count();
    let peer = lab.node(2).address();
    node.netns().ip(&format!("route add {peer} dev eth0 mtu 600\n")).unwrap();
    let warned = || count("the MTUs to the peers stay as they were");
    wait_until(SOON, "the warning", || warned() == 1).unwrap();
    // Each brings a look, and shows when that is over.
    for number in 1..=5 {
        node.netns().ip("route del 10.244.0.0/16\n").unwrap();
        let repaired = || node.status().unwrap()["repairs"].as_u64() >= Some(number);
        wait_until(SOON, "the repair", repaired).unwrap();
    }
    assert_eq!(warned(), 1, "{}", node.log_tail());
    node.netns().ip(&format!("route del {peer} dev eth0\n")).unwrap();
    let ended = || count("the MTUs to the peers follow the routes again");
    wait_until(SOON, "the end", || ended() == 1).unwrap();
}
