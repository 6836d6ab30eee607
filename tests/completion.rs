//! Completion as shells ask for it: by the script, and with a daemon that answers, is away, or is
//! stopped.

#![expect(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::thread;

use culvert::observe::{PeerStatus, PodStatus, Spoken, Status};
use culvert_node::node_file::SOCKET_NAME;
use overlay_proto::CodecKind;
use tempfile::TempDir;

const CULVERT: &str = env!("CARGO_BIN_EXE_culvert");

/// What bash would show for the last of `words`, by the script that is installed.
fn completed(run_dir: &Path, words: &[&str]) -> Vec<String> {
    let script = "source <(\"$CULVERT\" completions bash)\n\
                  COMP_WORDS=(culvert \"$@\"); COMP_CWORD=$#\n\
                  _clap_complete_culvert culvert \"${COMP_WORDS[COMP_CWORD]}\" x\n\
                  printf '%s\\n' \"${COMPREPLY[@]}\"";
    let bin = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(CULVERT, bin.path().join("culvert")).unwrap();
    let path = format!("{}:/usr/bin:/bin", bin.path().display());
    let output = Command::new("bash")
        .args(["-c", script, "bash"])
        .args(words)
        .env("CULVERT", CULVERT)
        .env("CULVERT_RUN_DIR", run_dir)
        .env("PATH", path)
        .output()
        .unwrap();
    let complaints = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{complaints}");
    // Outside of a completion bash has no options of one.
    let complaints: Vec<&str> =
        complaints.lines().filter(|line| !line.contains("compopt")).collect();
    assert!(complaints.is_empty(), "{complaints:?}");
    let words = String::from_utf8(output.stdout).unwrap();
    words.lines().filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// A stand-in for a daemon, which answers whatever it knows.
fn daemon() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(directory.path().join(SOCKET_NAME)).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = String::new();
            BufReader::new(stream.try_clone().unwrap()).read_line(&mut request).unwrap();
            let answer = match request.trim() {
                "\"status\"" => serde_json::to_string(&status()),
                "\"pods\"" => serde_json::to_string(&[pod()]),
                _ => continue,
            };
            writeln!(stream, "{}", answer.unwrap()).unwrap();
        }
    });
    directory
}

fn status() -> Status {
    let peer = |name: &str| PeerStatus {
        name: name.to_owned(),
        address: "192.168.1.12".parse().unwrap(),
        subnets: Vec::new(),
        codec: Spoken::Plain(CodecKind::VxlanGpe),
        port: 4790,
        sealed: None,
        session: None,
        session_error: None,
        plain: true,
        mtu: 1464,
        egress: Default::default(),
        ingress: Default::default(),
        last_heard_seconds: None,
        path: Default::default(),
    };
    Status { peers: vec![peer("node2"), peer("node3"), peer("other")], ..Status::default() }
}

fn pod() -> PodStatus {
    PodStatus {
        network: "pods".to_owned(),
        container: "c1".to_owned(),
        interface: "eth0".to_owned(),
        device: "culv1a2b3c4d".to_owned(),
        addresses: vec!["10.244.1.2".parse().unwrap()],
    }
}

#[test]
fn peers_and_pods_are_those_of_the_daemon() {
    let daemon = daemon();
    let complete = |words: &[&str]| completed(daemon.path(), words);
    assert_eq!(complete(&["capture", "--peer", ""]), ["node2", "node3", "other"]);
    assert_eq!(complete(&["status", "--peer", "no"]), ["node2", "node3"]);
    assert_eq!(complete(&["capture", "--pod", ""]), ["10.244.1.2"]);
    assert_eq!(complete(&["explain", "10."]), ["10.244.1.2"]);
    // A directory that is named goes before the variable.
    let nowhere = tempfile::tempdir().unwrap();
    let elsewhere = nowhere.path().to_str().unwrap();
    assert!(complete(&["capture", "--run-dir", elsewhere, "--peer", ""]).is_empty());
    assert!(complete(&["capture", &format!("--run-dir={elsewhere}"), "--peer", ""]).is_empty());
}

#[test]
fn commands_options_and_fixed_words_need_no_daemon() {
    let nowhere = tempfile::tempdir().unwrap();
    let complete = |words: &[&str]| completed(nowhere.path(), words);
    assert!(complete(&["st"]).contains(&"status".to_owned()));
    assert!(complete(&["capture", "--dr"]).contains(&"--drops".to_owned()));
    assert_eq!(complete(&["status", "--sort", ""]), ["busy", "name", "silent"]);
}

#[test]
fn daemon_that_is_away_or_stopped_gives_nothing_and_no_complaint() {
    let nowhere = tempfile::tempdir().unwrap();
    assert!(completed(nowhere.path(), &["capture", "--peer", ""]).is_empty());
    // It has the socket, and does not answer for as long as this test runs.
    let _stopped = UnixListener::bind(nowhere.path().join(SOCKET_NAME)).unwrap();
    assert!(completed(nowhere.path(), &["capture", "--peer", ""]).is_empty());
    assert!(completed(nowhere.path(), &["capture", "--pod", ""]).is_empty());
}
