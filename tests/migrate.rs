//! `culvert migrate flannel` as a person calls it: with a stand-in for kubectl, and on the files of
//! a node. The tunnel under traffic is in tests/sources/flannel.

#![expect(clippy::unwrap_used, reason = "a test may fail where it stands")]

#[path = "schemas/validator.rs"]
mod validator;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Output};

use serde_json::json;
use tempfile::TempDir;

use validator::assert_valid;

fn flannels(number: u8, backend: &str) -> serde_json::Value {
    json!({
        "metadata": {"name": format!("node{number}"), "annotations": {
            "flannel.alpha.coreos.com/kube-subnet-manager": "true",
            "flannel.alpha.coreos.com/backend-type": backend,
            "flannel.alpha.coreos.com/backend-data":
                format!("{{\"VNI\":1,\"VtepMAC\":\"aa:00:00:00:00:0{number}\"}}"),
            "flannel.alpha.coreos.com/public-ip": format!("192.168.1.1{number}"),
        }},
        "spec": {"podCIDR": format!("10.244.{number}.0/24")},
    })
}

/// Asks a cluster whose nodes have these back ends.
fn check(backends: &[&str], more: &[&str]) -> Output {
    let directory = TempDir::new().unwrap();
    let nodes = backends.iter().zip(1..).map(|(backend, number)| flannels(number, backend));
    let nodes = json!({"items": nodes.collect::<Vec<_>>()});
    let config = json!({"Network": "10.244.0.0/16", "Backend": {"Type": backends[0]}});
    let maps = json!({"items": [{"data": {"net-conf.json": config.to_string()}}]});
    fs::write(directory.path().join("nodes"), nodes.to_string()).unwrap();
    fs::write(directory.path().join("configmaps"), maps.to_string()).unwrap();
    let kubectl = directory.path().join("kubectl");
    // Which kind is asked for is its second word.
    fs::write(&kubectl, "#!/bin/sh\ncat \"$(dirname \"$0\")/$2\"\n").unwrap();
    fs::set_permissions(&kubectl, fs::Permissions::from_mode(0o755)).unwrap();
    Command::new(env!("CARGO_BIN_EXE_culvert"))
        .args(["migrate", "flannel", "check"])
        .args(more)
        .env("PATH", format!("{}:/usr/bin:/bin", directory.path().display()))
        .output()
        .unwrap()
}

#[test]
fn a_cluster_is_checked_and_the_code_says_whether_it_can_come_over() {
    let good = check(&["vxlan", "vxlan"], &[]);
    let text = String::from_utf8(good.stdout).unwrap();
    assert_eq!(good.status.code(), Some(0), "{text}");
    assert!(
        text.contains("node2  flannel  192.168.1.12") && text.contains("migrate_from"),
        "{text}"
    );
    let bad = check(&["udp"], &[]);
    let text = String::from_utf8(bad.stdout).unwrap();
    assert_eq!(bad.status.code(), Some(1), "{text}");
    assert!(
        text.contains("in the way: net-conf.json of kube-flannel-cfg: the back end is udp"),
        "{text}"
    );
    for backends in [&["vxlan"][..], &["udp"]] {
        let said = String::from_utf8(check(backends, &["--json"]).stdout).unwrap();
        assert_valid("migrate-flannel-check", &said);
    }
}

/// The directories of a node that flannel serves.
struct Node(TempDir);

impl Node {
    fn new() -> Self {
        let node = Self(TempDir::new().unwrap());
        fs::create_dir(node.path("net.d")).unwrap();
        let list = json!({"name": "cbr0", "plugins": [{"type": "flannel", "delegate": {}}]});
        fs::write(node.path("net.d/10-flannel.conflist"), list.to_string()).unwrap();
        fs::write(node.path("net.d/99-other.conflist"), "{}").unwrap();
        fs::create_dir_all(node.path("networks/cbr0")).unwrap();
        fs::write(node.path("networks/cbr0/10.244.1.2"), "pod1\r\neth0").unwrap();
        let text = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\n";
        fs::write(node.path("subnet.env"), text).unwrap();
        node
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    fn migrate(&self, words: &[&str]) -> Output {
        let place = |name: &str| self.path(name).display().to_string();
        Command::new(env!("CARGO_BIN_EXE_culvert"))
            .args(["migrate", "flannel"])
            .args(words)
            .args(["--conf-dir", &place("net.d"), "--host-local-dir", &place("networks")])
            .args(["--subnet-env", &place("subnet.env"), "--state-dir", &place("state")])
            .args(["--run-dir", &place("run")])
            .output()
            .unwrap()
    }

    fn files(&self) -> Vec<String> {
        let mut found = Vec::new();
        list(self.0.path(), self.0.path(), &mut found);
        found.sort();
        found
    }
}

fn list(root: &Path, directory: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            list(root, &path, found);
        } else {
            found.push(path.strip_prefix(root).unwrap().display().to_string());
        }
    }
}

#[test]
fn a_node_is_told_first_and_changed_only_with_apply() {
    let node = Node::new();
    let before = node.files();
    let said = node.migrate(&["node"]);
    let text = String::from_utf8(said.stdout).unwrap();
    assert!(said.status.success(), "{text}{}", String::from_utf8_lossy(&said.stderr));
    assert!(text.contains("would: set ") && text.contains("10.244.1.0/24"), "{text}");
    assert!(text.contains("nothing was changed; repeat with --apply"), "{text}");
    assert_eq!(node.files(), before);
    let said = node.migrate(&["node", "--json"]);
    assert_valid("migrate", &String::from_utf8(said.stdout).unwrap());

    let done = node.migrate(&["node", "--apply"]);
    let text = String::from_utf8(done.stdout).unwrap();
    assert!(done.status.success(), "{text}{}", String::from_utf8_lossy(&done.stderr));
    assert!(text.contains("next: start Culvert's daemon") && text.contains("\"cni0\""), "{text}");
    let after = node.files();
    assert!(after.contains(&"net.d/10-flannel.conflist.before-culvert".to_owned()), "{after:?}");
    assert!(after.contains(&"networks/cbr0/10.244.1.2".to_owned()), "for the way back: {after:?}");
    assert!(after.contains(&"state/ipam/addresses.sqlite3".to_owned()), "{after:?}");
    // Again, as after a step that failed: what is done stays so.
    let again = node.migrate(&["node", "--apply"]);
    assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
}

/// A plugin's call of this name and this script.
fn call(node: &Node, name: &str, script: &str) -> Child {
    let program = node.path(name);
    fs::copy("/bin/sh", &program).unwrap();
    Command::new(program).args(["-c", script]).current_dir(node.0.path()).spawn().unwrap()
}

#[test]
fn an_address_that_a_call_under_way_gives_is_imported_also_by_a_command_that_is_repeated() {
    let node = Node::new();
    // As a command leaves it that was killed once it had set the configuration aside.
    let list = node.path("net.d/10-flannel.conflist");
    fs::rename(&list, list.with_extension("conflist.before-culvert")).unwrap();
    let script = "sleep 0.5; printf 'pod2\\r\\neth0' > networks/cbr0/10.244.1.3";
    let mut plugin = call(&node, "flannel", script);
    let reaping = std::thread::spawn(move || plugin.wait().unwrap());
    let done = node.migrate(&["node", "--apply"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert!(reaping.join().unwrap().success());
    let held = Command::new(env!("CARGO_BIN_EXE_culvert"))
        .args(["ipam", "list", "--state-dir"])
        .arg(node.path("state"))
        .output()
        .unwrap();
    let text = String::from_utf8(held.stdout).unwrap();
    assert!(text.contains("10.244.1.2") && text.contains("10.244.1.3"), "{text}");
}

#[test]
fn a_node_that_is_none_of_flannels_is_refused_by_the_directory() {
    let node = Node::new();
    fs::remove_file(node.path("net.d/10-flannel.conflist")).unwrap();
    let said = node.migrate(&["node"]);
    let text = String::from_utf8(said.stderr).unwrap();
    assert_eq!(said.status.code(), Some(1), "{text}");
    assert!(text.contains("no network configuration with the plugin flannel"), "{text}");
    assert!(text.contains("--conf-dir"), "{text}");
    fs::remove_file(node.path("subnet.env")).unwrap();
    let said = Node::new().migrate(&["finish"]);
    let text = String::from_utf8(said.stderr).unwrap();
    assert!(text.contains("has not come over"), "{text}");
}
