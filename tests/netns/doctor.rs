//! `culvert doctor`: each check is shown failing by breaking what it looks at, and nothing else is
//! said to have failed.
//!
//! One lab serves many faults: each is made, looked at, and taken back, and the node must be well
//! again before the next.

use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;

use culvert_lab::{Fault, Lab, LabBuilder, Node, wait_until};
use serde_json::Value;

use crate::harness::{CULVERT, SOON, assert_reaches, assert_reaches_within, lab, run};

/// How a node looks from beside its daemon.
struct Look {
    output: Output,
    said: Value,
}

/// `culvert doctor` on the node, with `arguments`.
fn doctor(node: &Node, arguments: &[&str]) -> Look {
    let mut command = node.netns().command(CULVERT);
    command.arg("doctor").args(arguments).arg("--json").arg("--run-dir").arg(node.run_dir());
    let output = command.arg("--config").arg(node.config_path()).output().unwrap();
    let said = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("{error}: {output:?}");
    });
    Look { output, said }
}

impl Look {
    fn checks(&self) -> Vec<&Value> {
        self.said["checks"].as_array().unwrap().iter().collect()
    }

    /// The checks that failed, each once.
    fn failed(&self) -> Vec<&str> {
        self.with("fail")
    }

    fn with(&self, verdict: &str) -> Vec<&str> {
        let checks = self.checks().into_iter().filter(|check| check["verdict"] == verdict);
        let mut names: Vec<&str> = checks.map(|check| check["check"].as_str().unwrap()).collect();
        names.dedup();
        names
    }

    /// What the check says, all of it.
    fn text(&self, name: &str) -> String {
        let checks = self.checks().into_iter().filter(|check| check["check"] == name);
        checks.map(|check| format!("{check}\n")).collect()
    }

    /// Demands that just these checks failed, and that the first says all of `words`.
    #[track_caller]
    fn assert_fails(&self, expected: &[&str], words: &[&str]) {
        assert_eq!(self.failed(), expected, "{:#}", self.said);
        let code = if expected.is_empty() { 0 } else { 1 };
        assert_eq!(self.output.status.code(), Some(code));
        for word in words {
            let text = self.text(expected[0]);
            assert!(text.contains(word), "{word:?} is not in {text}");
        }
    }
}

#[track_caller]
fn assert_well(node: &Node) {
    wait_until(SOON, "the node to be well", || doctor(node, &[]).failed().is_empty()).unwrap();
}

fn plain(name: &str) -> LabBuilder {
    lab(name).nodes(3).families(culvert_lab::Families::Ipv4)
}

fn node(number: u16) -> String {
    format!("node{number}")
}

#[test]
fn healthy_node_has_no_failure_and_is_looked_at_within_a_second() {
    let lab = lab("nt-doctor").nodes(3).up().unwrap();
    assert_reaches(lab.pod(1, 1).netns(), lab.pod(2, 1).ipv4());
    let look = doctor(lab.node(1), &["--peers"]);
    look.assert_fails(&[], &[]);
    assert_eq!(look.with("warn"), Vec::<&str>::new(), "{:#}", look.said);
    assert_eq!(look.said["schema"], 1);
    for check in ["devices", "routes", "rules", "forward", "peer", "path", "blackhole", "port"] {
        assert!(look.with("ok").contains(&check), "{check}: {:#}", look.said);
    }
}

/// Faults that `culvert lab break` makes too, with what is said of them on the node.
#[test]
fn each_fault_of_a_node_is_found_and_nothing_else_is() {
    let lab = plain("nt-doctor-node").up().unwrap();
    let subject = lab.node(1);
    assert_well(subject);
    let cases: [(Fault, &[&str], &[&str]); 5] = [
        (Fault::Route { node: node(1), to: Some(node(2)) }, &["daemon", "routes"], &["not ready"]),
        (Fault::Rule { node: node(1) }, &["daemon", "rules"], &["not ready"]),
        (
            Fault::Forward { node: node(1) },
            &["forward"],
            &[
                "chain inet lab-forward forward (policy drop) drops packets of pods",
                "nft insert rule inet lab-forward forward ip saddr 10.244.0.0/16 accept",
            ],
        ),
        (
            Fault::Docker { node: node(1) },
            &["forward"],
            &[
                "chain ip filter FORWARD (policy drop)",
                "iptables -I DOCKER-USER -s 10.244.0.0/16 -j ACCEPT",
            ],
        ),
        (
            Fault::Input { node: node(1) },
            &["input"],
            &["chain inet lab-input input (rule ", "nft delete rule inet lab-input input handle"],
        ),
    ];
    for (fault, expected, words) in cases {
        lab.inflict(&fault).unwrap();
        // The daemon may take a moment to notice, too.
        wait_until(SOON, "the fault to be found", || doctor(subject, &[]).failed() == expected)
            .unwrap_or_else(|error| panic!("{fault}: {error}: {:#}", doctor(subject, &[]).said));
        let look = doctor(subject, &[]);
        look.assert_fails(expected, words);
        if let Fault::Route { .. } = fault {
            let text = look.text("routes");
            assert!(text.contains("10.244.2.0/24 via 192.168.1.254 dev eth0"), "{text}");
            assert!(text.contains("takes the packets of node2's pods"), "{text}");
            assert!(text.contains("ip route del 10.244.2.0/24 via 192.168.1.254"), "{text}");
        }
        if let Fault::Rule { .. } = fault {
            let text = look.text("rules");
            assert!(text.contains("rule 100: from 10.244.1.0/24 lookup 77"), "{text}");
            assert!(text.contains("ip rule del priority 100"), "{text}");
        }
        assert_eq!(lab.mend().unwrap(), [fault]);
        assert_well(subject);
    }
}

/// What a firewall says may be undone by the command that is given.
#[test]
fn remedy_of_a_firewall_mends_it() {
    let lab = plain("nt-doctor-mends").up().unwrap();
    let (from, to) = (lab.pod(1, 1), lab.pod(2, 1));
    for fault in [
        Fault::Forward { node: node(2) },
        Fault::Docker { node: node(2) },
        Fault::Input { node: node(2) },
    ] {
        lab.inflict(&fault).unwrap();
        let look = doctor(lab.node(2), &[]);
        let failed = look.checks().into_iter().find(|check| check["verdict"] == "fail");
        let remedy = failed.unwrap()["remedy"].as_str().unwrap();
        let commands = remedy.split_once(", if").map_or(remedy, |(commands, _)| commands);
        run(lab.node(2).netns(), "sh", &["-c", commands]);
        assert_reaches_within(SOON, from.netns(), to.ipv4());
        assert_well(lab.node(2));
        lab.mend().unwrap();
    }
}

#[test]
fn chain_that_cannot_be_followed_is_a_warning() {
    let lab = plain("nt-doctor-unfollowed").up().unwrap();
    let subject = lab.node(1);
    let chain = "table inet odd {\nchain f {\ntype filter hook forward priority 0\n\
                 numgen random mod 2 < 1 drop\n}\n}";
    run(subject.netns(), "nft", &[chain]);
    let look = doctor(subject, &[]);
    look.assert_fails(&[], &[]);
    assert_eq!(look.with("warn"), ["forward"], "{:#}", look.said);
    assert!(look.text("forward").contains("chain inet odd f"), "{}", look.text("forward"));
}

/// What a daemon that runs puts back at once is looked at while none runs.
#[test]
fn what_nobody_keeps_is_found_while_the_daemon_is_down() {
    let lab = plain("nt-doctor-down").up().unwrap();
    let subject = lab.node(1);
    subject.kill9().unwrap();
    // The device loses its carrier a moment after its last reader.
    wait_until(SOON, "the carrier to go", || doctor(subject, &[]).failed().contains(&"tun"))
        .unwrap();
    let look = doctor(subject, &[]);
    look.assert_fails(&["daemon", "tun", "port"], &["no daemon answers"]);
    assert!(look.text("offload").contains("skip"), "{}", look.text("offload"));
    let always: [&str; 3] = ["daemon", "tun", "port"];
    let sysctl = |key: &str, value: &str| subject.netns().set_sysctl(key, value).unwrap();
    let expect = |check: &str, words: &str| {
        let look = doctor(subject, &[]);
        let mut failed = look.failed();
        failed.retain(|failed| !always.contains(failed));
        assert_eq!(failed, [check], "{:#}", look.said);
        assert!(look.text(check).contains(words), "{words:?} is not in {}", look.text(check));
    };
    sysctl("ipv4/conf/culvert0/rp_filter", "1");
    expect("rp_filter", "sysctl -w net.ipv4.conf.culvert0.rp_filter=2");
    sysctl("ipv4/conf/culvert0/rp_filter", "2");
    sysctl("ipv6/conf/v-net-0/accept_ra", "1");
    expect("accept_ra", "sysctl -w net.ipv6.conf.v-net-0.accept_ra=0");
    sysctl("ipv6/conf/v-net-0/accept_ra", "0");
    sysctl("ipv4/ip_forward", "0");
    // The kernel then also refuses to say how it would route what it does not forward.
    let look = doctor(subject, &[]);
    assert!(look.failed().contains(&"forward"), "{:#}", look.said);
    let text = look.text("forward");
    assert!(text.contains("sysctl -w net.ipv4.ip_forward=1"), "{text}");
    sysctl("ipv4/ip_forward", "1");
    // Switching it off and on again changed the devices' own.
    sysctl("ipv4/conf/culvert0/rp_filter", "2");
    run(subject.netns(), "nft", &["flush", "chain", "inet", "culvert", "prerouting"]);
    expect("conntrack", "replace nft table inet culvert");
    subject.start().unwrap();
    assert_well(subject);
}

#[test]
fn duplicate_address_and_missing_one_are_found() {
    let lab = plain("nt-doctor-address").up().unwrap();
    let subject = lab.node(1);
    let fault = Fault::Address { node: node(1) };
    lab.inflict(&fault).unwrap();
    doctor(subject, &[]).assert_fails(&["address_elsewhere"], &["has it too"]);
    lab.mend().unwrap();
    assert_well(subject);
    subject.kill9().unwrap();
    subject.netns().ip("address del 192.168.1.11/24 dev eth0").unwrap();
    let look = doctor(subject, &[]);
    let text = look.text("address_elsewhere");
    assert!(text.contains("no device of this machine has 192.168.1.11"), "{text}");
}

#[test]
fn stale_address_of_the_store_is_found() {
    let lab = plain("nt-doctor-ipam").up().unwrap();
    let subject = lab.node(1);
    assert_well(subject);
    let text = run(subject.netns(), "ip", &["-o", "link", "show", "master", "v-net-0"]);
    let device = text.split(": ").nth(1).unwrap().split('@').next().unwrap().to_owned();
    subject.netns().ip(&format!("link del {device}")).unwrap();
    let look = doctor(subject, &[]);
    assert!(look.failed().contains(&"ipam"), "{:#}", look.said);
    assert!(look.text("ipam").contains("not its device"), "{}", look.text("ipam"));
}

#[test]
fn clock_behind_the_nodes_own_files_is_found() {
    let lab = plain("nt-doctor-clock").up().unwrap();
    let subject = lab.node(1);
    let table: PathBuf = subject.table_path();
    run(subject.netns(), "touch", &["-d", "2 days", table.to_str().unwrap()]);
    doctor(subject, &[]).assert_fails(&["clock"], &["seconds later than now", "timedatectl"]);
}

#[test]
fn refused_table_and_left_out_peers_are_found() {
    let lab = plain("nt-doctor-table").own_tables().up().unwrap();
    let subject = lab.node(1);
    lab.write_table_of(1, "what is this").unwrap();
    wait_until(SOON, "the table to be refused", || doctor(subject, &[]).failed() == ["table"])
        .unwrap();
    assert!(doctor(subject, &[]).text("table").contains("the newest table is refused"));
    // A table that lacks a node: what it sends is from nobody.
    let mut table = lab.table();
    table.nodes.retain(|node| node.name != "node3");
    lab.write_table_of(1, &table.to_toml()).unwrap();
    wait_until(SOON, "node3 to be unknown", || {
        let _ = crate::harness::quick_ping(lab.pod(3, 1).netns(), lab.pod(1, 1).ipv4());
        doctor(subject, &[]).with("warn") == ["drops"]
    })
    .unwrap();
    let there = doctor(lab.node(3), &["--peers"]);
    assert!(there.text("peer").contains("nobody refuses"), "{}", there.text("peer"));
}

#[test]
fn peer_whose_daemon_is_dead_or_stopped_is_told_apart() {
    let lab = plain("nt-doctor-peer").up().unwrap();
    let subject = lab.node(1);
    assert_reaches(lab.pod(1, 1).netns(), lab.pod(2, 1).ipv4());
    lab.inflict(&Fault::Kill { node: node(2) }).unwrap();
    doctor(subject, &["--peers"]).assert_fails(
        &["peer"],
        &["node2", "port unreachable", "no daemon there", "systemctl start culvert"],
    );
    lab.mend().unwrap();
    wait_until(SOON, "node2 to answer", || doctor(subject, &["--peers"]).failed().is_empty())
        .unwrap();
    lab.inflict(&Fault::Stop { node: node(2) }).unwrap();
    let look = doctor(subject, &["--peers"]);
    let text = look.text("peer");
    assert!(text.contains("nobody refuses") || text.contains("it sends"), "{text}");
    assert!(!text.contains("port unreachable"), "{text}");
    let there = doctor(lab.node(2), &[]);
    assert!(there.failed().contains(&"daemon"), "{:#}", there.said);
    assert!(there.text("daemon").contains("has not answered within"), "{}", there.text("daemon"));
    lab.mend().unwrap();
    wait_until(SOON, "node2 to be well", || doctor(lab.node(2), &[]).failed().is_empty()).unwrap();
}

#[test]
fn lost_path_black_hole_and_cut_cable_are_told_apart() {
    let lab = plain("nt-doctor-path").up().unwrap();
    let subject = lab.node(1);
    let explained = subject.culvert(&["explain", "10.244.1.2", "10.244.2.2"]).unwrap();
    let outer = explained.lines().find(|line| line.contains("source port")).unwrap();
    let port = outer.split("source port ").nth(1).unwrap().split(',').next().unwrap();
    let source_port = Some(port.parse().unwrap());
    lab.inflict(&Fault::Lose { node: node(1), percent: 100, source_port }).unwrap();
    let look = doctor(subject, &["--peers"]);
    look.assert_fails(&["path"], &["loses everything", &format!("source port {port}")]);
    assert!(look.text("path").contains("node3"), "both peers: {}", look.text("path"));
    lab.mend().unwrap();

    lab.inflict(&Fault::Narrow { node: node(2), mtu: 1400 }).unwrap();
    let look = doctor(subject, &["--peers"]);
    look.assert_fails(&["blackhole"], &["node2", "1464 bytes vanish"]);
    lab.mend().unwrap();

    lab.inflict(&Fault::Cut { node: node(2) }).unwrap();
    let look = doctor(subject, &["--peers"]);
    look.assert_fails(&["peer"], &["node2", "no answer"]);
    lab.mend().unwrap();
    wait_until(SOON, "node2 to answer", || doctor(subject, &["--peers"]).failed().is_empty())
        .unwrap();
}

/// The kernel of a peer, which limits its errors, has none left for who asks all the time.
#[test]
fn whoever_asks_again_and_again_accuses_nobody_of_a_black_hole() {
    let lab = plain("nt-doctor-again").up().unwrap();
    let subject = lab.node(1);
    assert_reaches(lab.pod(1, 1).netns(), lab.pod(2, 1).ipv4());
    for _again in 0..6 {
        let look = doctor(subject, &["--peers"]);
        assert!(!look.failed().contains(&"blackhole"), "{}", look.text("blackhole"));
    }
}

#[test]
fn full_receive_buffer_is_found() {
    let lab = plain("nt-doctor-receive").up().unwrap();
    assert_reaches(lab.pod(1, 1).netns(), lab.pod(2, 1).ipv4());
    lab.inflict(&Fault::Stop { node: node(2) }).unwrap();
    let (from, to) = (lab.pod(1, 1), lab.pod(2, 1).ipv4());
    let sent = from
        .netns()
        .run(|| {
            let socket = std::net::UdpSocket::bind((from.ipv4(), 0)).unwrap();
            // Little enough each that nobody on the way has to wait.
            (0..30_000).filter(|_| socket.send_to(&[0; 64], (to, 9)).is_ok()).count()
        })
        .unwrap();
    assert!(sent > 20_000, "{sent}");
    let look = doctor(lab.node(2), &[]);
    assert!(look.failed().contains(&"receive"), "{:#}", look.said);
    assert!(look.text("receive").contains("nobody fetches"), "{}", look.text("receive"));
}

#[test]
fn peer_with_other_keys_is_found() {
    let lab = plain("nt-doctor-keys").sealed("require").own_tables().up().unwrap();
    let subject = lab.node(1);
    assert_reaches(lab.pod(1, 1).netns(), lab.pod(2, 1).ipv4());
    let mut table = lab.table();
    let third = table.nodes[2].public_keys.clone();
    table.nodes[1].public_keys = third;
    table.nodes.truncate(2);
    lab.write_table_of(1, &table.to_toml()).unwrap();
    wait_until(SOON, "the keys to be found wrong", || {
        let _ = crate::harness::quick_ping(lab.pod(1, 1).netns(), lab.pod(2, 1).ipv4());
        doctor(subject, &[]).failed() == ["keys"]
    })
    .unwrap_or_else(|error| panic!("{error}: {:#}", doctor(subject, &[]).said));
    assert!(doctor(subject, &[]).text("keys").contains("node2"));
}

#[test]
fn command_in_another_namespace_is_refused() {
    let lab = plain("nt-doctor-elsewhere").up().unwrap();
    let mut command = std::process::Command::new(CULVERT);
    let output = command.args(["doctor", "--run-dir"]).arg(lab.node(1).run_dir()).output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{complaint}");
    assert!(complaint.contains("network namespace"), "{complaint}");
    assert!(complaint.contains("culvert lab exec NODE -- culvert doctor"), "{complaint}");
}

#[test]
fn daemon_that_somebody_started_by_hand_is_seen_by_the_lab() {
    let lab: Lab = plain("nt-doctor-hand").up().unwrap();
    lab.node(2).kill9().unwrap();
    let mut command = lab.node(2).netns().command(CULVERT);
    let mut child =
        command.args(["run", "--config"]).arg(lab.node(2).config_path()).spawn().unwrap();
    let other = Lab::open("nt-doctor-hand").unwrap();
    let start = culvert_lab::clock::now();
    wait_until(SOON, "the lab to see it", || other.node(2).pid() == Some(child.id())).unwrap();
    assert!(start.elapsed() < SOON);
    wait_until(Duration::from_secs(10), "it to be ready", || other.node(2).is_ready()).unwrap();
    other.node(2).stop().unwrap();
    child.wait().unwrap();
}
