//! Pods that come and go by the dozen while the daemon keeps the node.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::thread;

use culvert_lab::{Netns, Node};
use serde_json::{Value, json};

use crate::harness::{CULVERT, lab};

const AT_ONCE: usize = 8;
const TURNS: usize = 12;

fn call(node: &Node, verb: &str, pod: &Netns, config: &Value) {
    let mut child = node
        .netns()
        .command(PathBuf::from(CULVERT).with_file_name("culvert-cni"))
        .env("CNI_COMMAND", verb)
        .env("CNI_CONTAINERID", pod.name())
        .env("CNI_NETNS", pod.path())
        .env("CNI_IFNAME", "eth0")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(config.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{verb}: {output:?}");
}

/// A look at the node finds pods that are half there each time, for as long as they come and go.
/// That is no other program's doing, and a port as the plugin makes it is as the daemon wants it.
#[test]
fn pods_that_come_and_go_leave_the_node_ready_and_nothing_to_repair() {
    let lab = lab("nt-churn").up().unwrap();
    let node = lab.node(1);
    let mut config = node.cni_config();
    config["mtu"] = json!(1300);
    thread::scope(|scope| {
        for worker in 0..AT_ONCE {
            let (node, config, name) = (&node, &config, &lab.plan().name);
            scope.spawn(move || {
                let pod = Netns::create(format!("{name}-churn{worker}")).unwrap();
                for _turn in 0..TURNS {
                    call(node, "ADD", &pod, config);
                    call(node, "DEL", &pod, config);
                }
                pod.delete().unwrap();
            });
        }
    });
    assert_eq!(node.status().unwrap()["ready"], true);
    let log = node.log();
    assert!(!log.contains("not ready") && !log.contains("set mtu"), "{log}");
}
