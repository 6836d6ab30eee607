//! `culvert test`: what it says of pods that reach one another, and of those that do not; in a lab,
//! and with stand-ins for docker and kubectl whose containers are the lab's pods.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use culvert_lab::Fault;
use serde_json::Value;

use crate::harness::{CULVERT, lab, run};
use crate::validator::assert_valid;

/// What a run ended with, and its report.
fn report(arguments: &[&str], path: Option<&Path>) -> (Option<i32>, Value) {
    let output = culvert(arguments, path);
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(!text.is_empty(), "{output:?}");
    assert_valid("test", &text);
    (output.status.code(), serde_json::from_str(&text).unwrap())
}

/// Runs `culvert test`, with the programs in `path` before those of the system.
fn culvert(arguments: &[&str], path: Option<&Path>) -> Output {
    let mut command = Command::new(CULVERT);
    command.arg("test").args(arguments).env_remove("COMPOSE_PROJECT_NAME");
    if let Some(path) = path {
        let others = std::env::var("PATH").unwrap();
        command.env("PATH", format!("{}:{others}", path.display()));
    }
    command.output().unwrap()
}

fn pairs(report: &Value) -> &Vec<Value> {
    report["pairs"].as_array().unwrap()
}

/// Whether every pair has come through every check.
fn assert_all_good(report: &Value) {
    for pair in pairs(report) {
        let checks: Vec<_> = pair["checks"].as_array().unwrap().iter().collect();
        let good = checks.len() == 5 && checks.iter().all(|check| check["ok"] == true);
        assert!(good && pair["ok"] == true, "{pair}");
    }
    assert_eq!(report["ok"], true);
}

#[test]
fn pods_of_a_lab_pass_every_check_in_both_families() {
    let lab = lab("nt-test").pods(2).up().unwrap();
    let (code, report) = report(&["lab", "--name", "nt-test", "--json"], None);
    assert_eq!(code, Some(0), "{report}");
    assert_all_good(&report);
    assert_eq!(pairs(&report).len(), 4 * 3 * 2);
    let between = |pair: &&Value| pair["from"] == "node1-pod1" && pair["to"] == "node2-pod2";
    for pair in pairs(&report).iter().filter(between) {
        let seen = pair["seen"].as_str().unwrap();
        let pod = lab.pod(1, 1);
        assert!([pod.ipv4(), pod.ipv6()].iter().any(|own| own.to_string() == seen), "{pair}");
        // The pod's MTU of 1464, less the headers of its family.
        let full = if seen.contains(':') { 1464 - 48 } else { 1464 - 28 };
        assert_eq!(pair["checks"][2]["bytes"], full, "{pair}");
    }
    let text = culvert(&["lab", "--name", "nt-test"], None);
    let text = String::from_utf8(text.stdout).unwrap();
    assert_eq!(text.matches("ok    12 of 12 pairs").count(), 2, "{text}");
}

#[test]
fn what_fails_is_named_and_nothing_else_fails() {
    let lab = lab("nt-test-bad").nodes(3).up().unwrap();
    // Long packets to and from node3 are lost, short ones are not. No daemon may find out.
    for node in lab.nodes() {
        node.write_config(&["[probe]\ninterval = 0"]).unwrap();
        node.restart().unwrap();
    }
    lab.inflict(&Fault::Narrow { node: "node3".parse().unwrap(), mtu: 1400 }).unwrap();
    let arguments = ["lab", "--name", "nt-test-bad", "--patience", "300", "--json"];
    let (code, report) = report(&arguments, None);
    assert_eq!((code, &report["ok"]), (Some(3), &Value::Bool(false)), "{report}");
    for pair in pairs(&report) {
        let is_narrow = [&pair["from"], &pair["to"]].iter().any(|it| **it == "node3-pod1");
        assert_eq!(pair["ok"], !is_narrow, "{pair}");
        let ok = |check: usize| pair["checks"][check]["ok"] == true;
        assert!(ok(0) && ok(1), "small ones arrive: {pair}");
        assert_eq!(ok(2), !is_narrow, "{pair}");
    }
    lab.mend().unwrap();

    // And a daemon that is dead.
    lab.node(2).kill9().unwrap();
    let text = culvert(&arguments[..5], None);
    assert_eq!(text.status.code(), Some(3), "{text:?}");
    let text = String::from_utf8(text.stdout).unwrap();
    let row = text.lines().find(|line| line.trim().starts_with("node2-pod1")).unwrap();
    assert_eq!(row.matches("lost").count(), 2, "{text}");
    let lost = format!("node1-pod1 to node2-pod1, {}: a datagram: lost", lab.pod(2, 1).ipv4());
    assert!(text.contains(&lost), "{text}");
    assert!(text.contains("FAIL  2 of 6 pairs"), "{text}");
}

#[test]
fn what_cannot_be_tried_is_said() {
    let output = culvert(&["lab", "--name", "nt-test-none"], None);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("nt-test-none"), "{output:?}");
    let _lab = lab("nt-test-few").nodes(1).up().unwrap();
    let output = culvert(&["lab", "--name", "nt-test-few"], None);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("not two pods"), "{output:?}");
}

/// A program that stands in for another one.
fn stand_in(directory: &Path, name: &str, script: &str) {
    let path = directory.join(name);
    fs::write(&path, script.replace("CULVERT", CULVERT)).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A container is a node of the lab NAME, and `pod` in it the pods there.
const DOCKER: &str = r#"#!/bin/bash
case "$1 $2 $3" in
"ps --filter label=culvert.role=node") printf 'stage_node2_1 stage node2\nstage_node1_1 stage node1\n'; exit ;;
exec*) ;;
*) echo "docker: $*" >&2; exit 1 ;;
esac
shift
[ "$1" != --interactive ] || shift
node=${1#stage_}; node=${node%_1}; shift
case "$1 $2" in
"pod list") echo pod1 ;;
"pod address") ip -n "NAME-$node-$3" -4 -o address show dev eth0 | sed 's/.*inet \([0-9.]*\).*/\1/' ;;
"pod exec") pod=$3; [ "$4" = culvert ] || exit 1; shift 4
    exec ip netns exec "NAME-$node-$pod" CULVERT "$@" ;;
*) exit 1 ;;
esac
"#;

#[test]
fn pods_in_containers_are_asked_by_docker() {
    let _lab = lab("nt-test-compose").up().unwrap();
    let directory = tempfile::tempdir().unwrap();
    stand_in(directory.path(), "docker", &DOCKER.replace("NAME", "nt-test-compose"));
    let (code, report) = report(&["compose", "--json"], Some(directory.path()));
    assert_eq!((code, &report["place"]), (Some(0), &Value::from("compose stage")), "{report}");
    assert_all_good(&report);
    // `pod address` tells of IPv4.
    assert_eq!(pairs(&report).len(), 2);
    let output = culvert(&["compose", "--project", "stage2"], Some(directory.path()));
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("\"stage2\""), "{output:?}");
}

/// A cluster whose pods are those of the lab NAME, that begin to answer when they are created. What
/// it was called with is in the file `calls`, what was created in `manifest`.
const KUBECTL: &str = r#"#!/bin/bash
here=$(dirname "$0")
printf '%s\n' "$*" >>"$here/calls"
address() { ip -n "NAME-$1-pod1" -"$2" -o address show dev eth0 scope global | sed 's/.*inet6\? \([0-9a-f.:]*\).*/\1/'; }
case "$*" in
*"get namespace"*) if [ -e "$here/manifest" ]; then echo namespace/culvert-test; fi ;;
*"get daemonset culvert"*) echo registry.example/culvert:1 ;;
*create*)
    cat >"$here/manifest"
    for node in node1 node2; do
        ip netns exec "NAME-$node-pod1" CULVERT test answer --stay >/dev/null 2>&1 &
        echo $! >>"$here/pids"
    done ;;
*"rollout status"*)
    for node in node1 node2; do
        until ip netns exec "NAME-$node-pod1" ss -Hltn sport = :4794 | grep -q 4794; do sleep 0.1; done
    done ;;
*"get pods"*) for node in node2 node1; do echo "$node test-$node $(address $node 4) $(address $node 6)"; done ;;
*"get service"*) echo 10.96.0.77 ;;
*exec*) pod=$4; node=${pod#test-}; while [ "$1" != -- ]; do shift; done; shift 2
    exec ip netns exec "NAME-$node-pod1" CULVERT "$@" ;;
*"delete namespace"*) kill $(cat "$here/pids"); rm "$here/manifest" ;;
*) echo "kubectl: $*" >&2; exit 1 ;;
esac
"#;

#[test]
fn a_cluster_gets_pods_for_the_test_and_is_left_without() {
    let lab = lab("nt-test-kube").up().unwrap();
    // As kube-proxy would.
    let target = lab.pod(2, 1).ipv4();
    for node in lab.nodes() {
        let rule = format!(
            "ip daddr 10.96.0.77 meta l4proto {{ tcp, udp }} th dport 4794 dnat to {target}"
        );
        let chain = "type nat hook prerouting priority dstnat";
        // What a pod asks of itself has to come back to it by the node.
        let back = format!("ip saddr {target} ip daddr {target} masquerade");
        let table = format!(
            "table ip services {{\n\
             chain pods {{ {chain}; {rule}; }}\n\
             chain back {{ type nat hook postrouting priority srcnat; {back}; }}\n\
             }}"
        );
        run(node.netns(), "nft", &[&table]);
    }
    let directory = tempfile::tempdir().unwrap();
    stand_in(directory.path(), "kubectl", &KUBECTL.replace("NAME", "nt-test-kube"));
    let (code, report) = report(&["kubernetes", "--json"], Some(directory.path()));
    assert_eq!(code, Some(0), "{report}");
    assert_all_good(&report);
    let of = |kind: &str| pairs(&report).iter().filter(|pair| pair["kind"] == kind).count();
    assert_eq!((of("pod"), of("service")), (4, 2), "{report}");

    let calls = fs::read_to_string(directory.path().join("calls")).unwrap();
    let last = calls.lines().last().unwrap();
    assert_eq!(last, "delete namespace culvert-test --wait=false");
    assert!(!directory.path().join("manifest").exists());

    // What somebody else has there stays.
    fs::write(directory.path().join("manifest"), "theirs").unwrap();
    let output = culvert(&["kubernetes"], Some(directory.path()));
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("is there already"), "{output:?}");
    assert_eq!(fs::read_to_string(directory.path().join("manifest")).unwrap(), "theirs");
}
