//! `culvert ipam`, and the daemon's sweep: after a reboot, and when the store is lost.

use std::fs;
use std::process::Command;
use std::time::Duration;

use culvert_lab::{Lab, Node, wait_until};
use culvert_node::ipam::{DATABASE, DIRECTORY, Store};

use crate::harness::{CULVERT, lab, run};

fn ipam(node: &Node, arguments: &[&str]) -> String {
    let (state, run_dir) = (node.state_dir(), node.run_dir());
    let directories =
        ["--state-dir", state.to_str().unwrap(), "--run-dir", run_dir.to_str().unwrap()];
    run(node.netns(), CULVERT, &[&["ipam"], arguments, &directories].concat())
}

fn held(node: &Node) -> usize {
    Store::open(&node.state_dir()).unwrap().unwrap().records().unwrap().len()
}

fn two_pods(name: &str) -> Lab {
    lab(name).nodes(1).pods(2).up().unwrap()
}

#[test]
fn allocations_of_an_earlier_boot_are_freed_at_start_unless_their_pods_live() {
    let lab = two_pods("nt-reboot");
    let node = lab.node(1);
    node.stop().unwrap();
    let both = held(node);
    lab.pod(1, 1).netns().delete().unwrap();
    // The kernel removes what was in the namespace a moment later.
    let record = Store::open(&node.state_dir()).unwrap().unwrap().records().unwrap().remove(0);
    wait_until(Duration::from_secs(20), "the first pod's device to go", || {
        !node.netns().ip_output(&["-o", "link"]).unwrap().contains(&record.host_device)
    })
    .unwrap();
    let file = node.state_dir().join(DIRECTORY).join(DATABASE);
    let store = rusqlite::Connection::open(&file).unwrap();
    assert_eq!(store.execute("UPDATE allocation SET boot = 'an earlier one'", []).unwrap(), both);
    drop(store);
    node.start().unwrap();
    wait_until(Duration::from_secs(20), "the first pod's addresses to be freed", || {
        held(node) == both / 2
    })
    .unwrap();
    let left = Store::open(&node.state_dir()).unwrap().unwrap().records().unwrap();
    let path = lab.pod(1, 2).netns().path();
    assert!(
        left.iter().all(|record| fs::canonicalize(&record.netns.path).unwrap()
            == fs::canonicalize(&path).unwrap())
    );
}

#[test]
fn command_lists_checks_and_frees() {
    let lab = two_pods("nt-ipam");
    let node = lab.node(1);
    let first = lab.pod(1, 1).ipv4().to_string();
    let list = ipam(node, &["list"]);
    assert!(list.contains(&first) && list.contains("eth0"), "{list}");
    let json: serde_json::Value = serde_json::from_str(&ipam(node, &["list", "--json"])).unwrap();
    let entry =
        json["entries"].as_array().unwrap().iter().find(|entry| entry["address"] == first).unwrap();
    for key in ["container", "ifname", "netns", "since"] {
        assert!(entry[key].as_str().is_some_and(|text| !text.is_empty()), "{key} of {entry}");
    }
    let check = ipam(node, &["check"]);
    assert!(check.starts_with("good: "), "{check}");
    // It lives, so only force frees it; then the check finds the pod without an allocation.
    let before = held(node);
    let state = node.state_dir();
    let refused = node
        .netns()
        .command(CULVERT)
        .args(["ipam", "free", &first, "--state-dir"])
        .arg(&state)
        .output()
        .unwrap();
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--force"), "{refused:?}");
    assert_eq!(held(node), before);
    assert!(ipam(node, &["free", &first, "--force"]).contains("freed"));
    assert_eq!(held(node), before - 1);
    let found = node
        .netns()
        .command(CULVERT)
        .args(["ipam", "check", "--state-dir"])
        .arg(&state)
        .arg("--run-dir")
        .arg(node.run_dir())
        .output()
        .unwrap();
    assert_eq!(found.status.code(), Some(1), "{found:?}");
    assert!(
        String::from_utf8_lossy(&found.stdout).contains(&format!("{first}: used by")),
        "{found:?}"
    );
}

/// Runs `culvert ipam` as in the shipped DaemonSet: in the node's network namespace, with neither
/// the names of namespaces nor other processes in sight.
fn ipam_in_container(node: &Node, arguments: &[&str]) -> (Option<i32>, String) {
    let hidden = "mount -t tmpfs none /run/netns && mount -t proc none /proc && exec \"$@\"";
    let mut unshare = node.netns().command("unshare");
    unshare.args(["--mount", "--pid", "--fork", "sh", "-c", hidden, "sh", CULVERT, "ipam"]);
    ipam_of(node, unshare.args(arguments))
}

/// Has `command` look at the addresses of `node`.
fn ipam_of(node: &Node, command: &mut Command) -> (Option<i32>, String) {
    let output = command
        .arg("--state-dir")
        .arg(node.state_dir())
        .arg("--run-dir")
        .arg(node.run_dir())
        .output()
        .unwrap();
    let text =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    (output.status.code(), text.concat())
}

fn addresses(node: &Node) -> Vec<String> {
    let mut store = Store::open(&node.state_dir()).unwrap().unwrap();
    let records = store.records().unwrap().into_iter();
    records.map(|record| record.allocation.interface_address().to_string()).collect()
}

#[test]
fn pods_whose_namespaces_are_out_of_sight_are_healthy_and_are_rebuilt() {
    let lab = two_pods("nt-container");
    let node = lab.node(1);
    let before = addresses(node);
    let (code, said) = ipam_in_container(node, &["check"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.starts_with("good: "), "{said}");
    let (code, said) = ipam_in_container(node, &["rebuild"]);
    assert_eq!(code, Some(1), "it is sound: {said}");
    for arguments in [&["rebuild", "--force"][..], &["rebuild"]] {
        if arguments.len() == 1 {
            fs::remove_dir_all(node.state_dir().join(DIRECTORY)).unwrap();
        }
        let (code, said) = ipam_in_container(node, arguments);
        assert_eq!(code, Some(0), "{said}");
        assert_eq!(addresses(node), before);
    }
}

#[test]
fn command_in_another_network_namespace_says_that_it_compared_nothing() {
    let lab = lab("nt-elsewhere").nodes(2).pods(1).up().unwrap();
    let (node, other) = (lab.node(1), lab.node(2));
    let elsewhere = |arguments: &[&str]| {
        ipam_of(node, other.netns().command(CULVERT).arg("ipam").args(arguments))
    };
    let before = addresses(node);
    for (arguments, part) in [
        (&["check"][..], "nothing was compared, because"),
        (&["rebuild"], "nothing was rebuilt, because"),
        (&["free", &before[0][..before[0].find('/').unwrap()]], "cannot be seen"),
    ] {
        let (code, said) = elsewhere(arguments);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(part) && said.contains("network namespace"), "{said}");
    }
    assert_eq!(addresses(node), before);
}

#[test]
fn daemon_makes_a_lost_store_anew_at_its_start() {
    for damage in [false, true] {
        let lab = two_pods("nt-loststore");
        let node = lab.node(1);
        node.stop().unwrap();
        let before = addresses(node);
        let directory = node.state_dir().join(DIRECTORY);
        if damage {
            fs::write(directory.join(DATABASE), [0x55; 8192]).unwrap();
        } else {
            fs::remove_dir_all(&directory).unwrap();
        }
        node.start().unwrap();
        wait_until(Duration::from_secs(20), "the store to be made anew", || {
            Store::open(&node.state_dir()).is_ok_and(|store| store.is_some())
        })
        .unwrap();
        assert_eq!(addresses(node), before);
    }
}

#[test]
fn list_of_a_directory_without_a_store_is_an_error() {
    let lab = lab("nt-nostore").nodes(1).pods(0).up().unwrap();
    let mut command = lab.node(1).netns().command(CULVERT);
    let output = command.args(["ipam", "list", "--state-dir", "/nonexistent"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("/nonexistent") && said.contains("--state-dir"), "{said}");
}
