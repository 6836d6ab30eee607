//! What the command prints and writes, and how it ends.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

use culvert::pcap::Reader;

use crate::{directory, key_file, replay, text};

fn lines(output: &[u8]) -> Vec<serde_json::Value> {
    let text = std::str::from_utf8(output).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn each_packet_is_one_json_object() {
    let output = replay("jumbo", &["--json"]);
    let rows = lines(&output.stdout);
    let [fits, _, _, too_big, ..] = &rows[..] else { panic!("{rows:?}") };
    assert_eq!(fits["packet"], 1);
    assert_eq!(fits["direction"], "egress");
    assert_eq!(fits["verdict"], "forward");
    assert_eq!(fits["peer"], "node2");
    assert_eq!(fits["wire_bytes"], 1500);
    assert_eq!(fits["flow"], "udp 10.244.1.2 1 > 10.244.2.2 2");
    assert_eq!((&too_big["verdict"], &too_big["reason"]), (&"reply".into(), &"too_big".into()));
    assert_eq!(rows.len(), 11);
}

#[test]
fn the_table_and_the_sums_name_verdict_and_peer() {
    let table = text(&replay("jumbo", &[]));
    assert!(table.contains("egress   reply    too_big              node2"), "{table}");
    assert_eq!(table.lines().count(), 12, "{table}");
    let sums = text(&replay("jumbo", &["--summary"]));
    assert!(
        sums.contains("egress   forward  -                    node2                 5"),
        "{sums}"
    );
}

#[test]
fn what_is_sealed_is_skipped_without_its_keys() {
    let rows = lines(&replay("sealed", &["--json"]).stdout);
    let reasons: BTreeSet<_> = rows.iter().map(|row| row["reason"].as_str().unwrap()).collect();
    assert_eq!(reasons, BTreeSet::from(["own_datagram", "sealed"]));
    assert!(rows.iter().all(|row| row["verdict"] == "skip"));
    let keys = key_file("sealed");
    let rows = lines(&replay("sealed", &["--json", "--key-file", keys.to_str().unwrap()]).stdout);
    assert_eq!((&rows[0]["verdict"], &rows[0]["peer"]), (&"deliver".into(), &"node2".into()));
    assert_eq!(rows[0]["flow"], "udp 10.244.2.2 1000 > 10.244.1.2 53");
}

#[test]
fn a_key_file_that_is_none_is_refused_by_its_line() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("esp_sa");
    let good = fs::read_to_string(key_file("sealed")).unwrap();
    for (text, problem) in [
        ("\n\"IPv4\"\n".to_owned(), ":2: this is no line that sealed.key_log has written"),
        (good.replace("\"192.168.1.12\",", "\"*\","), ":2: write the sender's address"),
    ] {
        fs::write(&path, text).unwrap();
        let output = replay("sealed", &["--key-file", path.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(1));
        assert!(crate::text(&output).contains(problem), "{}", crate::text(&output));
    }
}

#[test]
fn frames_that_were_cut_off_say_so() {
    let table = text(&replay("snap-len", &[]));
    assert!(table.contains("(frame cut off at 96 bytes)"), "{table}");
}

#[test]
fn resulting_packets_carry_their_verdicts_as_comments() {
    let output = replay("jumbo", &["-w", "-"]);
    let mut reader = Reader::open(&output.stdout[..]).unwrap();
    let (mut comments, mut lens) = (Vec::new(), Vec::new());
    while let Some(frame) = reader.next_frame().unwrap() {
        comments.push(frame.comment.unwrap().to_owned());
        lens.push((frame.interface, frame.bytes.len()));
    }
    assert_eq!(comments[0], "packet 1: egress forward peer=node2 wire=1500");
    assert_eq!(lens[0], (1, 1500));
    // Of what is answered both are there: the packet and the answer.
    assert_eq!(comments[3], "packet 4: egress reply reason=too_big peer=node2");
    assert_eq!(lens[3], (0, 1465));
    assert_eq!(comments[4], "packet 4: the answer to it");
    assert!(lens[4].1 <= 576, "{lens:?}");
}

#[test]
fn offloads_change_no_packet_that_results() {
    for name in ["tcp-super-packets", "quic-trains", "tcp-options", "ecn"] {
        let [on, off] = ["on", "off"].map(|offload| {
            let output = replay(name, &["-w", "-", "--offload", offload]);
            let mut reader = Reader::open(&output.stdout[..]).unwrap();
            let mut packets = Vec::new();
            while let Some(frame) = reader.next_frame().unwrap() {
                packets.push((frame.comment.unwrap().to_owned(), frame.bytes.to_vec()));
            }
            packets
        });
        assert!(!on.is_empty());
        assert!(on == off, "{name}: {} and {} packets", on.len(), off.len());
    }
}

#[test]
fn a_difference_is_shown_and_fails() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("wrong.expect");
    fs::write(&path, "1 egress forward peer=node3\n2- any\n99 any # too many\n").unwrap();
    let output = replay("jumbo", &["--expect", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output).contains("99 is on line 2") || text(&output).contains("is on line 2 already")
    );

    fs::write(&path, "1 egress forward peer=node3\n2-99 any\n").unwrap();
    let output = replay("jumbo", &["--expect", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let shown = text(&output);
    for part in [
        "packet 1 (line 1: peer)",
        "expected  egress forward peer=node3",
        "was       egress forward peer=node2 wire=1500",
        "line 2 expects packets up to 99, but the capture has 11",
        "2 of 11 packets differ",
    ] {
        assert!(shown.contains(part), "{shown}");
    }
}

#[test]
fn a_capture_that_ends_too_early_is_replayed_as_far_as_it_goes_and_fails() {
    let whole = fs::read(directory().join("jumbo.pcap")).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_culvert"))
        .args(["replay", "-", "--node", "node1", "--json", "--table"])
        .arg(directory().join("table.toml"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&whole[..whole.len() - 1]).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(lines(&output.stdout).len(), 10);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("ends in the middle of a packet"), "{}", text(&output));
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_culvert"))
        .args(["replay", "--node", "node1", "--table"])
        .arg(directory().join("table.toml"))
        .arg(directory().join("jumbo.pcap"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(text(&output), "");
}

#[test]
fn what_is_wrong_is_said_with_what_to_do() {
    let output = replay("table.toml", &[]);
    assert!(text(&output).contains("opening"), "{}", text(&output));
    let output = replay("jumbo", &["--expect", "/nonexistent/file"]);
    assert!(text(&output).contains("--bless writes it"), "{}", text(&output));
    let output = Command::new(env!("CARGO_BIN_EXE_culvert"))
        .args(["replay", "-", "--node", "node9", "--table"])
        .arg(directory().join("table.toml"))
        .output()
        .unwrap();
    assert!(text(&output).contains("lacks this node"), "{}", text(&output));
}

#[test]
fn a_forced_direction_goes_before_what_the_packet_looks_like() {
    let words = |direction: &str| -> BTreeSet<String> {
        let output = replay("malformed-ingress", &["--json", "--direction", direction]);
        lines(&output.stdout).iter().map(|row| row["direction"].to_string()).collect()
    };
    assert_eq!(words("egress"), BTreeSet::from(["\"egress\"".to_owned()]));
    assert_eq!(words("ingress"), BTreeSet::from(["\"ingress\"".to_owned(), "null".to_owned()]));
}

#[test]
fn an_interrupted_replay_tells_what_it_has_and_says_so() {
    let whole = fs::read(directory().join("jumbo.pcap")).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_culvert"))
        .args(["replay", "-", "--node", "node1", "--summary", "--table"])
        .arg(directory().join("table.toml"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    // More than a pipe holds: once it is written, the program reads and has its signals in hand.
    input.write_all(&whole).unwrap();
    let frames = &whole[24..];
    (0..20).for_each(|_| input.write_all(frames).unwrap());
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    // A capture without an end: only the interrupt ends the program, and with it the pipe.
    while input.write_all(frames).is_ok() {}
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", text(&output));
    assert!(text(&output).contains("egress   forward"), "{}", text(&output));
}
