//! `culvert flows` and `culvert top`, over traffic that the test sends.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use culvert_lab::probe::{self, Ping};
use culvert_lab::{Lab, wait_until};
use serde_json::Value;

use crate::harness::{CULVERT, SOON, assert_reaches, lab, quick_ping};
use crate::validator::assert_valid;

/// What a command prints while the first pod pings the second, and somebody who does not answer.
fn while_pinging(lab: &Lab, arguments: &[&str]) -> String {
    let node = lab.node(1);
    let command = node
        .netns()
        .command(CULVERT)
        .args(arguments)
        .arg("--run-dir")
        .arg(node.run_dir())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let watched = thread::spawn(move || command.wait_with_output().unwrap());
    let pod = lab.pod(1, 1);
    while !watched.is_finished() {
        let from = pod.netns();
        let ping = Ping::default().timeout(Duration::from_millis(200));
        let _answer = probe::ping(from, lab.pod(2, 1).ipv4(), &ping).unwrap();
        // Of the cluster's network, and nobody's.
        let _nobody = quick_ping(from, "10.244.99.1".parse().unwrap());
    }
    let output = watched.join().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn find<'a>(flows: &'a [Value], key: &str, value: &str) -> Vec<&'a Value> {
    flows.iter().filter(|flow| flow[key] == value).collect()
}

#[test]
fn flows_say_who_talks_to_whom_and_what_becomes_of_it() {
    // Every packet, so that a few are seen for certain.
    let lab = lab("nt-flows").config("[flows]\nsample = 1\n").up().unwrap();
    let (own, far) = (lab.pod(1, 1).ipv4().to_string(), lab.pod(2, 1).ipv4().to_string());
    let printed = while_pinging(&lab, &["flows", "--json"]);
    printed.lines().for_each(|line| assert_valid("flows", line));
    let flows: Vec<Value> =
        printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();

    let sent = find(&flows, "verdict", "forward").into_iter();
    let sent = sent.filter(|flow| flow["destination"] == far.as_str()).collect::<Vec<_>>();
    let sent = sent.first().unwrap_or_else(|| panic!("{printed}"));
    assert_eq!((&sent["source"], &sent["protocol"]), (&own.as_str().into(), &"icmp".into()));
    assert_eq!((&sent["peer"], &sent["direction"]), (&"node2".into(), &"egress".into()));
    assert!(sent["source_pod"].as_str().is_some_and(|pod| !pod.is_empty()), "{sent}");
    let received = find(&flows, "verdict", "deliver");
    assert!(received.iter().any(|flow| flow["source"] == far.as_str()), "{printed}");
    let refused = find(&flows, "reason", "no_owner");
    assert!(refused.iter().any(|flow| flow["destination"] == "10.244.99.1"), "{printed}");

    // A filter leaves what it names.
    let drops = while_pinging(&lab, &["flows", "--verdict", "reply", "--for", "2"]);
    assert!(drops.contains("no_owner") && !drops.contains("forward"), "{drops}");

    for (by, name) in [("pod", own.as_str()), ("peer", "node2"), ("flow", far.as_str())] {
        let text = while_pinging(&lab, &["top", "--by", by, "--every", "1"]);
        assert!(text.contains(name) && !text.contains('\x1b'), "{by}: {text}");
        let json =
            while_pinging(&lab, &["top", "--by", by, "--every", "1", "--json", "--count", "1"]);
        assert_valid("top", json.trim());
    }
}

#[test]
fn single_ping_is_seen_and_silence_is_said_with_how_it_was_looked_at() {
    let lab = lab("nt-flows-one").up().unwrap();
    let (node, pod, far) = (lab.node(1), lab.pod(1, 1), lab.pod(2, 1).ipv4());
    assert_reaches(pod.netns(), far);
    let none = node.culvert(&["flows", "--for", "1", "--to", "10.244.77.0/24"]).unwrap();
    assert!(none.starts_with("no such packet was seen in 1."), "{none}");
    assert!(none.contains("at the first 1000 packets of each second and worker, then"), "{none}");

    let mut command = node.netns().command(CULVERT);
    command.args(["flows", "--follow", "--to"]).arg(far.to_string());
    command.arg("--run-dir").arg(node.run_dir()).stdout(Stdio::piped());
    let mut following = command.spawn().unwrap();
    let (told, seen) = mpsc::channel();
    let lines = BufReader::new(following.stdout.take().unwrap()).lines();
    thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| told.send(line)));
    // The first may come before anybody looks. Of a sample, more than fifty would be needed.
    let line = (0..3).find_map(|_| {
        assert!(quick_ping(pod.netns(), far).is_reply());
        seen.recv_timeout(Duration::from_secs(3)).ok()
    });
    following.kill().unwrap();
    following.wait().unwrap();
    let line = line.expect("one of three pings is seen");
    assert!(line.contains("forward") && line.contains(&format!("> {far} icmp")), "{line}");
    assert!(line.contains("1 packet,"), "{line}");
}

#[test]
fn export_goes_on_while_nobody_looks_and_is_read_again() {
    let file = tempfile::tempdir().unwrap();
    let path = file.path().join("flows.jsonl");
    let config = format!("[flows]\nsample = 1\nexport = \"{}\"\n", path.display());
    let lab = lab("nt-export").config(config).up().unwrap();
    let (pod, far) = (lab.pod(1, 1), lab.pod(2, 1).ipv4());
    let exported = || {
        quick_ping(pod.netns(), far);
        fs::read_to_string(&path).unwrap_or_default().contains(&far.to_string())
    };
    wait_until(SOON, "flows in the file", exported).unwrap();
    let path = path.to_str().unwrap();
    let arguments = ["flows", "--read", path, "--to", &far.to_string(), "--since", "10m"];
    let output = lab.node(1).netns().command(CULVERT).args(arguments).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.contains("node2"), "{text}");
    let nobody = ["flows", "--read", path, "--to", "10.244.77.0/24"];
    let output = lab.node(1).netns().command(CULVERT).args(nobody).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said, format!("{path} has no such packet\n"));
}
