//! The program under the name `loopback`, as runtimes call it for every pod.

use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::harness::{DUAL_STACK, Node, Pod, outcome};

fn call(pod: &Pod<'_>, verb: &str, config: &Value) -> Result<Value, Value> {
    let directory = tempfile::tempdir().expect("a directory");
    let program = directory.path().join("loopback");
    symlink(env!("CARGO_BIN_EXE_culvert-cni"), &program).expect("a link");
    let mut child = Command::new(&program)
        .env("CNI_COMMAND", verb)
        .env("CNI_CONTAINERID", "c1")
        .env("CNI_IFNAME", "lo")
        .env("CNI_NETNS", pod.netns_path())
        .env("CNI_PATH", "/opt/cni/bin")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut stdin = child.stdin.take().expect("it has one");
    stdin.write_all(config.to_string().as_bytes()).expect("it reads");
    drop(stdin);
    outcome(&child.wait_with_output().expect("it ends"))
}

#[test]
fn loopback_device_goes_up_without_a_daemon_and_is_checked() {
    let node = Node::new("loopback", &DUAL_STACK);
    let pod = node.pod("p1");
    let config = json!({"cniVersion": "0.3.1", "name": "cni-loopback", "type": "loopback"});
    let is_up = || pod.link("lo")["flags"].as_array().expect("flags").contains(&json!("UP"));
    let check = json!({"cniVersion": "0.4.0", "name": "cni-loopback", "type": "loopback"});
    assert_eq!(call(&pod, "CHECK", &check).expect_err("it is down")["code"], 103);
    let result = call(&pod, "ADD", &config).expect("ADD succeeds");
    assert!(is_up());
    assert_eq!(result["cniVersion"], "0.3.1");
    assert_eq!(result["interfaces"][0]["name"], "lo");
    assert_eq!(result["interfaces"][0]["sandbox"], pod.netns_path());
    let expected = json!({"version": "4", "address": "127.0.0.1/8", "interface": 0});
    assert_eq!(result["ips"][0], expected);
    call(&pod, "CHECK", &check).expect("CHECK finds nothing");
    for verb in ["ADD", "DEL", "DEL"] {
        call(&pod, verb, &config).expect("it may be called again");
    }
    // What a plugin before it has made is passed on.
    let mut chained = config.clone();
    chained["prevResult"] =
        json!({"cniVersion": "0.3.1", "ips": [], "interfaces": [{"name": "eth0"}]});
    assert_eq!(call(&pod, "ADD", &chained).expect("ADD succeeds")["interfaces"][0]["name"], "eth0");
    assert_eq!(call(&pod, "VERSION", &config).expect("it answers")["cniVersion"], "0.3.1");
}
