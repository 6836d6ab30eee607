//! `culvert ipam`, and the daemon's sweep after a reboot.

use std::fs;
use std::time::Duration;

use culvert_cni::ipam::{DATABASE, DIRECTORY, Store};
use culvert_lab::{Lab, Node, wait_until};

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
    let entry = json.as_array().unwrap().iter().find(|entry| entry["address"] == first).unwrap();
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
