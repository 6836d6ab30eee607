//! Captures and explanations of running daemons, and what tshark and tcpdump make of them.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Output, Stdio};

use culvert_lab::{Lab, Node, wait_until};

use crate::harness::{CULVERT, SOON, assert_reaches, lab, quick_ping, run};

/// `culvert capture` of node1 with these arguments.
fn capture(lab: &Lab, arguments: &[&str]) -> Command {
    let mut command = Command::new(CULVERT);
    command.arg("capture").args(arguments).arg("--run-dir").arg(lab.node(1).run_dir());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Lets a pod of node1 ping one of node2 until `child` has ended, and returns what that has
/// printed.
fn ping_until_done(lab: &Lab, mut child: Child) -> Output {
    wait_until(SOON, "the capture to end", || {
        quick_ping(lab.pod(1, 1).netns(), lab.pod(2, 1).ipv4());
        child.try_wait().unwrap().is_some()
    })
    .unwrap();
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn capture_shows_both_sides_of_the_tunnel() {
    let lab = lab("nt-capture").up().unwrap();
    let child = capture(&lab, &["--count", "8", "--peer", "node2"]).spawn().unwrap();
    let output = ping_until_done(&lab, child);
    let (lines, report) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{report}");
    assert_eq!(lines.lines().count(), 8, "{lines}");
    for part in [
        "inner egress forward peer=node2: icmp 10.244.1.2 > 10.244.2.2 echo request, 84 bytes",
        "> 192.168.1.12 4790, 120 bytes",
        "outer ingress deliver peer=node2: udp 192.168.1.12 ",
        "inner ingress deliver peer=node2: icmp 10.244.2.2 > 10.244.1.2 echo reply, 84 bytes",
    ] {
        assert!(lines.contains(part), "{part} is not in\n{lines}");
    }
    assert!(report.contains("8 packets captured, 0 lost"), "{report}");
}

#[test]
fn capture_shows_what_was_sealed_and_the_datagram_that_it_was_in() {
    let lab = lab("nt-capture-seal").sealed("require").up().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sealed.pcapng");
    let child = capture(&lab, &["--count", "12", "-w", path.to_str().unwrap()]).spawn().unwrap();
    let output = ping_until_done(&lab, child);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let read = Command::new("tshark")
        .args(["-n", "-r", path.to_str().unwrap(), "-T", "fields"])
        .args(["-e", "frame.comment", "-e", "ip.src", "-e", "ip.len", "-e", "icmp.type"])
        .args(["-e", "_ws.col.Protocol"])
        .output()
        .unwrap();
    let read = text(&read.stdout);
    // 16 bytes of header and of tag, and a trailer of four, with UDP and IP in front.
    for line in [
        "egress forward peer=node2\t10.244.1.2\t84\t8\tICMP",
        "egress forward peer=node2\t192.168.1.11\t148\t\tESP",
        "ingress deliver peer=node2\t192.168.1.12\t148\t\tESP",
        "ingress deliver peer=node2\t10.244.2.2\t84\t0\tICMP",
    ] {
        assert!(read.lines().any(|found| found == line), "{line} is not in\n{read}");
    }
    assert_eq!(read.lines().count(), 12, "{read}");
}

#[test]
fn tcpdump_and_tshark_read_a_capture_from_a_pipe() {
    let lab = lab("nt-capture-pipe").up().unwrap();
    let commands = [
        ("tcpdump", vec!["-n", "-r", "-"], "192.168.1.11"),
        (
            "tshark",
            vec!["-r", "-", "-T", "fields", "-e", "frame.comment"],
            "egress forward peer=node2",
        ),
    ];
    for (program, arguments, expected) in commands {
        let mut child = capture(&lab, &["--count", "8", "-w", "-"]).spawn().unwrap();
        let reader = Command::new(program)
            .args(arguments)
            .stdin(child.stdout.take().unwrap())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let output = ping_until_done(&lab, child);
        assert!(output.status.success(), "{}", text(&output.stderr));
        let read = reader.wait_with_output().unwrap();
        let printed = text(&read.stdout);
        assert!(printed.contains(expected), "{program}: {printed}{}", text(&read.stderr));
        assert_eq!(printed.lines().count(), 8, "{program}: {printed}");
    }
}

#[test]
fn drops_are_captured_with_their_reason_and_an_interrupt_ends_in_good_order() {
    let lab = lab("nt-capture-drops").up().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("drops.pcapng");
    let arguments = ["--drops", "--pod", "10.244.1.2", "-w", path.to_str().unwrap()];
    let mut child = capture(&lab, &arguments).spawn().unwrap();
    // Whatever the file holds at the end is whole; until then it grows.
    wait_until(SOON, "a dropped packet in the file", || {
        quick_ping(lab.pod(1, 1).netns(), "10.244.99.9".parse().unwrap());
        std::fs::metadata(&path).is_ok_and(|file| file.len() > 700)
    })
    .unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let status = child.wait().unwrap();
    let report = text(&child.wait_with_output().unwrap().stderr);
    assert!(status.success(), "{report}");
    assert!(report.contains(" packets captured, 0 lost"), "{report}");
    let comments = Command::new("tshark")
        .args(["-r", path.to_str().unwrap(), "-T", "fields", "-e", "frame.comment"])
        .output()
        .unwrap();
    let comments = text(&comments.stdout);
    assert!(comments.contains("egress reply reason=no_owner"), "{comments}");
    assert!(!comments.contains("forward"), "{comments}");
}

#[test]
fn captures_are_refused_with_a_reason() {
    let lab = lab("nt-capture-refused").up().unwrap();
    let output = capture(&lab, &["--peer", "node9"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("no peer is called \"node9\""),
        "{}",
        text(&output.stderr)
    );
}

/// Whoever waits for packets of nobody is told, and not left to wait in silence.
#[test]
fn whoever_is_filtered_for_and_is_not_there_is_named() {
    let lab = lab("nt-capture-nobody").up().unwrap();
    let node = lab.node(1);
    for (arguments, expected) in [
        (&["capture", "--pod", "10.244.1.99"][..], "no pod of this node is 10.244.1.99,"),
        (&["flows", "--follow", "--pod", "web"], "no pod of this node is web,"),
        (&["flows", "--follow", "--peer", "node9"], "no peer is called \"node9\""),
    ] {
        let mut child = node
            .netns()
            .command(CULVERT)
            .args(arguments)
            .arg("--run-dir")
            .arg(node.run_dir())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        BufReader::new(child.stderr.take().unwrap()).read_line(&mut said).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
}

#[test]
fn explain_answers_from_the_live_table() {
    let lab = lab("nt-explain").up().unwrap();
    assert_reaches(lab.pod(1, 1).netns(), lab.pod(2, 1).ipv4());
    let node = lab.node(1);
    let forward = node.culvert(&["explain", "10.244.1.2", "10.244.2.2", "--size", "1464"]).unwrap();
    assert!(forward.contains("forward, peer node2, 1500 bytes on the wire"), "{forward}");
    let reply =
        node.culvert(&["explain", "10.244.1.2", "10.244.2.2", "--size", "1500", "--json"]).unwrap();
    let answer: serde_json::Value = serde_json::from_str(&reply).unwrap();
    assert_eq!(answer["ways"][0]["verdict"], "reply");
    assert_eq!(answer["ways"][0]["reason"], "too_big");
    let by_name = node.culvert(&["explain", "shop/web-0", "10.244.2.2"]).unwrap_err().to_string();
    assert!(by_name.contains("policy.mode"), "{by_name}");
    let both = node.culvert(&["explain", "10.244.2.2", "10.244.1.2"]).unwrap();
    assert!(both.contains("ingress") && both.contains("egress"), "{both}");
}

#[test]
fn explain_asks_the_kernel_and_counts_nothing() {
    let lab = lab("nt-explain-kernel").up().unwrap();
    let (one, two) = (lab.node(1), lab.node(2));
    assert_reaches(lab.pod(1, 1).netns(), lab.pod(2, 1).ipv4());
    let verdict = |node: &Node, source: &str, destination: &str| {
        let answer = node.culvert(&["explain", source, destination, "--json"]).unwrap();
        let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
        answer["ways"][0]["verdict"].as_str().unwrap().to_owned()
    };
    let peers = || one.status().unwrap()["peers"].clone();
    let (ours, theirs) = ("10.244.1.2", "10.244.2.2");
    let before =
        peers().as_array().unwrap().iter().map(|peer| peer["egress"].clone()).collect::<Vec<_>>();
    for _again in 0..20 {
        assert_eq!(verdict(one, ours, theirs), "forward");
        assert_eq!(verdict(one, theirs, ours), "deliver");
    }
    let after =
        peers().as_array().unwrap().iter().map(|peer| peer["egress"].clone()).collect::<Vec<_>>();
    assert_eq!(before, after);

    assert_eq!(verdict(one, ours, "192.168.1.12"), "kernel", "the node routes and translates it");
    assert_eq!(verdict(one, "10.244.1.77", theirs), "kernel_drops", "no pod has the source");
    assert_eq!(verdict(two, ours, "10.244.2.99"), "kernel_drops", "no pod has the destination");
    one.netns().ip("route add 10.244.2.0/24 via 192.168.1.13").unwrap();
    assert_eq!(verdict(one, ours, theirs), "kernel", "another route takes it");
    run(
        two.netns(),
        "nft",
        &[
            "add table inet fw; add chain inet fw f { type filter hook forward priority 0; policy drop; }",
        ],
    );
    let answer = two.culvert(&["explain", ours, theirs]).unwrap();
    assert!(
        answer.contains("kernel_drops, peer node1")
            && answer.contains("chain inet fw f (policy drop) drops it [kernel]"),
        "{answer}"
    );
}

#[test]
fn tshark_shows_the_verdicts_of_a_replay() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pcap");
    let output = Command::new(CULVERT)
        .args(["replay", "--node", "node1", "-w", "-", "--table"])
        .arg(root.join("table.toml"))
        .arg(root.join("jumbo.pcap"))
        .output()
        .unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("replayed.pcapng");
    std::fs::write(&path, &output.stdout).unwrap();
    let fields = ["frame.comment", "udp.dstport", "vxlan.vni", "ip.len"];
    let fields = fields.iter().flat_map(|field| ["-e", field]);
    let shown = Command::new("tshark")
        .args(["-r", path.to_str().unwrap(), "-T", "fields"])
        .args(fields)
        .output()
        .unwrap();
    let shown = text(&shown.stdout);
    let first = shown.lines().next().unwrap_or_default();
    assert!(first.starts_with("packet 1: egress forward peer=node2 wire=1500"), "{shown}");
    let columns: Vec<_> = first.split('\t').collect();
    // Of both IP headers and both UDP headers, the outer ones first.
    assert_eq!(columns[1..], ["4790,2", "1", "1500,1464"], "{shown}");
}
