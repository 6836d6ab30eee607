//! What nodes ask each other: dead peers, paths that lead nowhere, links that narrow without a
//! word.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use culvert_lab::probe::{self, Answer, Ping, Transfer};
use culvert_lab::{Fault, Lab, LabBuilder, NODE_INTERFACE, UNDERLAY_PORT, clock, wait_until};
use overlay_proto::Family;
use serde_json::Value;

use crate::harness::{FAMILIES, SOON, assert_reaches, lab, quick_ping, run};

/// The bridge between the nodes, in the switch's namespace.
const SWITCH_BRIDGE: &str = "underlay";

/// By when a dead peer is known to be dead: a question every ten seconds, and three of waiting.
const DEAD: Duration = Duration::from_secs(13);

/// Connections over all paths.
const CONNECTIONS: usize = 128;

/// What a busy machine may add.
const SLACK: Duration = Duration::from_secs(4);

const SECOND: Duration = Duration::from_secs(1);

/// What the first node knows of the paths to the second.
fn path(lab: &Lab) -> Value {
    lab.node(1).status().unwrap()["peers"][0]["path"].clone()
}

fn state(lab: &Lab) -> String {
    path(lab)["state"].as_str().unwrap().to_owned()
}

/// The first node's source ports that lead nowhere, as it knows them.
fn lost_ports(lab: &Lab) -> Vec<u16> {
    let path = path(lab);
    let lost = path["lost"].as_array().unwrap().iter();
    lost.map(|lost| u16::try_from(lost["port"].as_u64().unwrap()).unwrap()).collect()
}

/// Asks the second node by every path, once.
fn ping_all(lab: &Lab) -> Value {
    let arguments = ["ping", "node2", "--all-paths", "--count", "1", "--json"].map(str::to_owned);
    let mut command = lab.node(1).netns().command(crate::harness::CULVERT);
    command.args(arguments).arg("--run-dir").arg(lab.node(1).run_dir());
    let output = command.output().unwrap();
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)))
}

fn source_ports(lab: &Lab) -> Vec<u16> {
    let report = ping_all(lab);
    let paths = report["paths"].as_array().unwrap().iter();
    paths.map(|path| u16::try_from(path["port"].as_u64().unwrap()).unwrap()).collect()
}

fn answered(report: &Value) -> usize {
    report["paths"].as_array().unwrap().iter().filter(|path| path["lost"] == 0).count()
}

/// Drops what comes to the second node from these source ports of the first, and nothing else.
fn drop_ports(lab: &Lab, ports: &[u16]) {
    let netns = lab.node(2).netns();
    let _ = netns.command("nft").args(["delete", "table", "netdev", "broken"]).output();
    if ports.is_empty() {
        return;
    }
    let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
    let table = format!(
        "table netdev broken {{ chain in {{ type filter hook ingress device {NODE_INTERFACE} \
         priority 0; udp sport {{ {} }} drop; }}; }}",
        ports.join(", ")
    );
    run(netns, "nft", &[&table]);
}

#[test]
fn every_path_is_answered_inside_the_tunnel() {
    answers_by_every_path(lab("nt-ping"));
}

#[test]
fn every_path_is_answered_inside_the_tunnel_over_an_ipv6_underlay() {
    answers_by_every_path(lab("nt-ping6").underlay(Family::V6));
}

#[test]
fn every_path_is_answered_sealed_where_packets_are() {
    answers_by_every_path(lab("nt-pingseal").sealed("require"));
}

fn answers_by_every_path(builder: LabBuilder) {
    let lab = builder.up().unwrap();
    assert_reaches(lab.pod(1, 1).netns(), lab.pod(2, 1).ipv4());
    let report = ping_all(&lab);
    assert_eq!(answered(&report), 16, "{report}");
    assert_eq!(report["by"], "stamp", "{report}");
    assert_eq!(report["table"], lab.node(2).status().unwrap()["table"]["hash"], "{report}");
    let status = lab.node(2).status().unwrap();
    assert!(status["probes"]["answered"].as_u64().unwrap() >= 16, "{status}");
    // It is no traffic, and nothing that was refused.
    assert_eq!(status["drops"]["flags"], 0, "{status}");
    assert!(status["peers"][0]["ingress"]["packets"].as_u64().unwrap() < 10, "{status}");
}

#[test]
fn a_killed_daemon_is_noticed_at_once_by_the_words_of_its_kernel() {
    let lab = lab("nt-refused").up().unwrap();
    let (from, to) = (lab.pod(1, 1), lab.pod(2, 1));
    assert_reaches(from.netns(), to.ipv4());
    wait_until(SOON, "the peer to have answered", || state(&lab) == "answers").unwrap();
    lab.node(2).kill9().unwrap();
    let killed = clock::now();
    let look = || {
        quick_ping(from.netns(), to.ipv4());
        state(&lab) == "refused"
    };
    wait_until(SOON, "the peer to be lost", look).unwrap();
    // A second, and what a busy machine adds.
    assert!(killed.elapsed() < Duration::from_secs(3), "{:?}", killed.elapsed());
    assert!(lab.node(1).is_ready(), "readiness does not depend on peers");
    let text = lab.node(1).culvert(&["status"]).unwrap();
    assert!(text.contains("node2 does not answer: nobody listens there"), "{text}");
    let log = lab.node(1).log();
    assert!(log.contains("a peer does not answer"), "{log}");
    let (_, metrics) = lab.node(1).http("/metrics").unwrap();
    assert!(metrics.contains("culvert_peers{state=\"lost\"} 1"), "{metrics}");
    lab.node(2).start().unwrap();
    let back = || {
        quick_ping(from.netns(), to.ipv4());
        state(&lab) == "answers"
    };
    wait_until(SOON, "the peer to be back", back).unwrap();
}

#[test]
fn a_peer_that_falls_silent_is_noticed_within_thirteen_seconds() {
    let lab = lab("nt-silent").up().unwrap();
    let (from, to) = (lab.pod(1, 1), lab.pod(2, 1));
    assert_reaches(from.netns(), to.ipv4());
    wait_until(SOON, "the peer to have answered", || state(&lab) == "answers").unwrap();
    // Nothing arrives there, and nobody says so.
    let table = format!(
        "table netdev broken {{ chain in {{ type filter hook ingress device {NODE_INTERFACE} \
         priority 0; udp dport {UNDERLAY_PORT} drop; }}; }}"
    );
    run(lab.node(2).netns(), "nft", &[&table]);
    let look = || {
        quick_ping(from.netns(), to.ipv4());
        state(&lab) == "silent"
    };
    wait_until(DEAD + SLACK, "the peer to be lost", look).unwrap();
    drop_ports(&lab, &[]);
    wait_until(SOON, "the peer to be back", || state(&lab) == "answers").unwrap();
}

#[test]
fn source_ports_that_lead_nowhere_are_named_and_flows_leave_by_others() {
    heals_what_breaks(lab("nt-ecmp"), &[1, 4, 15]);
}

#[test]
fn sealed_flows_leave_by_paths_that_work_too() {
    heals_what_breaks(lab("nt-ecmpseal").sealed("require"), &[4]);
}

/// Breaks so many of sixteen paths and mends them, while connections over all of them go on.
fn heals_what_breaks(builder: LabBuilder, counts: &[usize]) {
    // A second between questions, so that a turn through all paths takes a quarter of a minute.
    let lab = builder.config("[probe]\ninterval = 1").up().unwrap();
    let (from, to) = (lab.pod(1, 1), lab.pod(2, 1));
    assert_reaches(from.netns(), to.ipv4());
    let ports = source_ports(&lab);
    assert_eq!(ports.len(), 16);
    let echoing = Echoing::start(&lab);
    let connections = echoing.connect(&lab, CONNECTIONS);
    for count in counts {
        let broken = &ports[16 - count..];
        drop_ports(&lab, broken);
        let look = || {
            echoing.say(&connections);
            lost_ports(&lab) == broken
        };
        wait_until(Duration::from_secs(40), "every broken port to be named", look).unwrap();
        let text = lab.node(1).culvert(&["status"]).unwrap();
        let expected = format!("(source port {}) loses 100 %", broken[0]);
        assert!(text.contains(&expected), "{text}");
        // All flows work, those that went by a broken path too: new ones at once, old ones as soon
        // as they send again.
        let fresh = echoing.connect(&lab, CONNECTIONS);
        assert_eq!(echoing.answer_within(&fresh, SOON), 0, "new connections hang");
        let slow = Duration::from_secs(30);
        assert_eq!(echoing.answer_within(&connections, slow), 0, "old connections hang");
        drop_ports(&lab, &[]);
        let look = || {
            echoing.say(&connections);
            lost_ports(&lab).is_empty()
        };
        wait_until(Duration::from_secs(20), "the paths to be back", look).unwrap();
        assert_eq!(echoing.answer_within(&connections, SOON), 0);
        assert_eq!(state(&lab), "answers");
    }
}

#[test]
fn a_transfer_goes_on_over_a_path_that_drops_long_packets_without_a_word() {
    crosses_a_black_hole(lab("nt-hole"), Family::V4, 1364);
}

#[test]
fn a_transfer_goes_on_over_an_ipv6_path_that_drops_long_packets_without_a_word() {
    crosses_a_black_hole(lab("nt-hole6").underlay(Family::V6), Family::V6, 1344);
}

#[test]
fn a_sealed_transfer_goes_on_over_a_path_that_drops_long_packets_without_a_word() {
    crosses_a_black_hole(lab("nt-holeseal").sealed("require"), Family::V4, 1338);
}

/// A router in the middle of the way carries 1400 bytes and tells nobody.
fn crosses_a_black_hole(builder: LabBuilder, underlay: Family, mtu: u64) {
    let lab = builder.up().unwrap();
    let switch = lab.switch();
    let (version, bridge) = match underlay {
        Family::V4 => ("ipv4", "192.168.1.1"),
        Family::V6 => ("ipv6", "fd00:192:168:1::1"),
    };
    switch.set_sysctl(&format!("{version}/conf/all/forwarding"), "1").unwrap();
    run(
        switch,
        "nft",
        &["table inet mute { chain out { type filter hook output priority 0; \
           icmp type destination-unreachable drop; icmpv6 type packet-too-big drop; }; }"],
    );
    for (node, other) in [(1, 2), (2, 1)] {
        let peer: IpAddr = lab.node(other).address();
        switch.ip(&format!("route add {peer} dev {SWITCH_BRIDGE} mtu 1400\n")).unwrap();
        let netns = lab.node(node).netns();
        for device in ["all", NODE_INTERFACE] {
            netns.set_sysctl(&format!("{version}/conf/{device}/accept_redirects"), "0").unwrap();
        }
        netns.ip(&format!("route add {peer} via {bridge}\n")).unwrap();
    }
    let (from, to) = (lab.pod(1, 1), lab.pod(2, 1));
    // It takes two seconds on an idle machine.
    let transfer = Transfer::of(16 << 20).timeout(Duration::from_secs(60));
    probe::transfer(from.netns(), to.netns(), to.ipv4(), &transfer).unwrap();
    let status = lab.node(1).status().unwrap();
    let peer = &status["peers"][0];
    assert_eq!(
        (&peer["mtu"], &peer["path"]["mtu_from"]),
        (&mtu.into(), &"probed".into()),
        "{peer}"
    );
    let text = lab.node(1).culvert(&["status"]).unwrap();
    assert!(text.contains(&format!("node2: MTU {mtu} (probed)")), "{text}");
    // The same of IPv6 pods, and of datagrams as long as fits.
    probe::transfer(from.netns(), to.netns(), to.ipv6(), &transfer).unwrap();
    let longest = usize::try_from(mtu).unwrap() - 40 - 8;
    for family in FAMILIES {
        let to_address = to.address(family);
        let echo = |len| probe::udp_echo(from.netns(), to.netns(), to_address, len, SECOND).is_ok();
        wait_until(SOON, "a long datagram to come back", || echo(longest)).unwrap();
        let full = Ping::default().packet_len(1430).timeout(Duration::from_millis(300));
        let answer = || probe::ping(from.netns(), to_address, &full).unwrap();
        let told =
            || matches!(answer(), Answer::TooBig { mtu: told, .. } if u64::from(told) == mtu);
        wait_until(SOON, "a longer one to be refused", told).unwrap();
    }
}

#[test]
fn a_path_too_narrow_for_ipv6_is_never_told_to_ipv6_pods() {
    let lab = lab("nt-hole1280").up().unwrap();
    // 1264 bytes of a pod's.
    let narrow = Fault::Narrow { node: "node2".to_owned(), mtu: 1300 };
    lab.inflict(&narrow).unwrap();
    let (from, to) = (lab.pod(1, 1), lab.pod(2, 1));
    let send = |address, len| {
        let ping = Ping::default().packet_len(len).timeout(Duration::from_millis(300));
        probe::ping(from.netns(), address, &ping).unwrap()
    };
    let told =
        |address, most| matches!(send(address, 1464), Answer::TooBig { mtu, .. } if mtu == most);
    wait_until(SOON, "IPv4 pods to be told", || told(to.ipv4(), 1264)).unwrap();
    assert!(send(to.ipv4(), 1264).is_reply());
    wait_until(SOON, "IPv6 pods to be told", || told(to.ipv6(), 1280)).unwrap();
    // What IPv6 may always send gets no answer that it may not.
    assert_eq!(send(to.ipv6(), 1280), Answer::Silence);
    assert!(send(to.ipv6(), 1264).is_reply());
}

#[test]
fn both_nodes_say_what_they_do_with_a_packet_and_its_answer() {
    says_what_both_nodes_do(lab("nt-trace"));
}

#[test]
fn both_nodes_say_so_sealed_too() {
    says_what_both_nodes_do(lab("nt-traceseal").sealed("require"));
}

fn says_what_both_nodes_do(builder: LabBuilder) {
    let lab = builder.up().unwrap();
    let (from, to) = (lab.pod(1, 1), lab.pod(2, 1));
    assert_reaches(from.netns(), to.ipv4());
    let trace = |destination: IpAddr| -> Value {
        let (source, destination) = (from.ipv4().to_string(), destination.to_string());
        let mut command = lab.node(1).netns().command(crate::harness::CULVERT);
        command.args(["trace", &source, &destination, "--json", "--run-dir"]);
        let output = command.arg(lab.node(1).run_dir()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"))
    };
    let verdicts = |report: &Value, way: &str| -> Vec<(String, String)> {
        let text = |half: &Value, key: &str| half[key].as_str().unwrap().to_owned();
        let halves = report[way].as_array().unwrap().iter();
        halves.map(|half| (text(half, "node"), text(half, "verdict"))).collect()
    };
    let expected = |halves: [(&str, &str); 2]| halves.map(|(a, b)| (a.to_owned(), b.to_owned()));
    let report = trace(to.ipv4());
    let (there, back) = (verdicts(&report, "there"), verdicts(&report, "back"));
    assert_eq!(there, expected([("node1", "forward"), ("node2", "deliver")]), "{report}");
    assert_eq!(back, expected([("node2", "forward"), ("node1", "deliver")]), "{report}");
    // The other node's kernel takes what goes back elsewhere, which only it can say.
    let elsewhere = format!("route add unreachable {}\n", from.ipv4());
    lab.node(2).netns().ip(&elsewhere).unwrap();
    let report = trace(to.ipv4());
    let ways = [verdicts(&report, "there"), verdicts(&report, "back")].concat();
    let last = ways.last().unwrap();
    assert_eq!((last.0.as_str(), last.1.as_str()), ("node2", "kernel_drops"), "{report}");
    // What doctor finds there comes along, from both.
    let failing = |report: &Value, node: &str| {
        let mut all = report["failing"].as_array().unwrap().iter();
        all.find(|one| one["node"] == node).map(|one| one["checks"].clone())
    };
    // What was found holds for some seconds.
    let mut found = Value::Null;
    let told = wait_until(Duration::from_secs(20), "node2 to say what doctor finds", || {
        found = trace(to.ipv4());
        failing(&found, "node1") == Some(serde_json::json!([]))
            && failing(&found, "node2") == Some(serde_json::json!(["daemon", "routes"]))
    });
    assert!(told.is_ok(), "{found}");
    // And where nobody listens, that is said.
    lab.node(2).kill9().unwrap();
    let report = trace(to.ipv4());
    assert!(report["silence"].is_string(), "{report}");
    assert_eq!(verdicts(&report, "there").len(), 1, "{report}");
}

#[test]
fn nobody_is_asked_where_that_is_switched_off() {
    let lab = lab("nt-noprobe").config("[probe]\ninterval = 0").up().unwrap();
    assert_reaches(lab.pod(1, 1).netns(), lab.pod(2, 1).ipv4());
    assert_eq!(state(&lab), "unknown");
    // What is asked is answered, and people may ask.
    assert_eq!(answered(&ping_all(&lab)), 16);
    let status = lab.node(1).status().unwrap();
    assert_eq!(status["probes"]["answered"], 0, "{status}");
}

/// A server in the second node's pod that sends back what it gets, and its clients in the first's.
struct Echoing {
    address: SocketAddr,
}

impl Echoing {
    fn start(lab: &Lab) -> Self {
        let server = lab.pod(2, 1);
        let address = SocketAddr::new(server.ipv4(), 7000);
        let listener = server.netns().run(|| TcpListener::bind(address).unwrap()).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || {
                    let mut stream = stream;
                    let mut buffer = [0; 4096];
                    while let Ok(len) = stream.read(&mut buffer) {
                        if len == 0 || stream.write_all(&buffer[..len]).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { address }
    }

    /// So many connections; their ports lead them over all paths.
    fn connect(&self, lab: &Lab, count: usize) -> Vec<TcpStream> {
        let address = self.address;
        let connect = || {
            (0..count)
                .map(|_| {
                    let stream =
                        TcpStream::connect_timeout(&address, Duration::from_secs(20)).unwrap();
                    stream.set_nonblocking(true).unwrap();
                    stream
                })
                .collect()
        };
        lab.pod(1, 1).netns().run(connect).unwrap()
    }

    /// Sends a byte by each connection, and takes what has come back.
    fn say(&self, connections: &[TcpStream]) {
        for mut stream in connections {
            let _ = stream.write(&[1]);
            let _ = stream.read(&mut [0; 4096]);
        }
    }

    /// Sends by each connection, and counts those over which nothing comes back in time.
    fn answer_within(&self, connections: &[TcpStream], limit: Duration) -> usize {
        for mut stream in connections {
            while matches!(stream.read(&mut [0; 4096]), Ok(len) if len > 0) {}
            let _ = stream.write(&[2]);
        }
        let mut waiting: Vec<&TcpStream> = connections.iter().collect();
        let began = clock::now();
        while !waiting.is_empty() && began.elapsed() < limit {
            waiting.retain(|stream| {
                let mut stream = *stream;
                let mut byte = [0; 4096];
                !matches!(stream.read(&mut byte), Ok(len) if byte[..len].contains(&2))
            });
            std::thread::sleep(Duration::from_millis(20));
        }
        waiting.len()
    }
}
