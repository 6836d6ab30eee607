//! `kubectl culvert`, with a stand-in for kubectl that says what it was asked.

#![expect(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

/// Answers as a cluster of two nodes would, and prints what it is to run in a pod.
const KUBECTL: &str = r#"#!/bin/sh
printf "%s\\n" "$*" >>"$(dirname "$0")/calls"
case "$*" in
*spec.nodeName=gone*) ;;
*spec.nodeName=worker-1*) printf 'worker-1 culvert-aaaaa\nworker-1 culvert-zzzzz\n' ;;
*"get pods"*) printf 'worker-2 culvert-bbbbb\nworker-1 culvert-aaaaa\n' ;;
*"get pod web-0"*) echo 10.244.1.2 ;;
*"get pod db-0"*) echo 10.244.2.3 ;;
*"get pod"*) echo 'Error: pods "none" not found' >&2; exit 1 ;;
*exec*culvert-bbbbb*) exit 3 ;;
*exec*) echo "in the pod: ${*#* -- }" ;;
esac
"#;

struct Stage(TempDir);

impl Stage {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let kubectl = directory.path().join("kubectl");
        fs::write(&kubectl, KUBECTL).unwrap();
        fs::set_permissions(&kubectl, fs::Permissions::from_mode(0o755)).unwrap();
        let plugin = directory.path().join("kubectl-culvert");
        symlink(env!("CARGO_BIN_EXE_culvert"), plugin).unwrap();
        Self(directory)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let path = format!("{}:/usr/bin:/bin", self.path().display());
        Command::new(self.path().join("kubectl-culvert"))
            .args(arguments)
            .env("PATH", path)
            .output()
            .unwrap()
    }

    fn says(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn complains(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(!output.status.success(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    fn calls(&self) -> String {
        fs::read_to_string(self.path().join("calls")).unwrap()
    }
}

#[test]
fn command_runs_in_the_daemons_pod_on_the_node() {
    let stage = Stage::new();
    let said = stage.says(&["--context", "lab", "status", "worker-1", "--json", "--all"]);
    assert_eq!(said, "in the pod: /bin/culvert status --json --all\n");
    let calls = stage.calls();
    let [list, exec] = calls.lines().collect::<Vec<_>>()[..] else { panic!("{calls}") };
    for part in [
        "--context lab --namespace culvert get pods",
        "--selector app.kubernetes.io/name=culvert",
        "status.phase=Running,spec.nodeName=worker-1",
    ] {
        assert!(list.contains(part), "{part} is not in {list}");
    }
    // Where nobody types there is no terminal to be had.
    assert_eq!(
        exec,
        "--context lab --namespace culvert exec culvert-aaaaa --container culvert -- /bin/culvert \
         status --json --all"
    );
}

#[test]
fn pods_are_named_by_namespace_and_name() {
    let stage = Stage::new();
    let asked = ["explain", "worker-1", "default/web-0", "shop/db-0", "--dport", "5432"];
    let said = stage.says(&asked);
    assert_eq!(said, "in the pod: /bin/culvert explain 10.244.1.2 10.244.2.3 --dport 5432\n");
    assert!(stage.calls().contains("--namespace shop get pod db-0"));
    let error = stage.complains(&["explain", "worker-1", "default/none", "10.244.2.3"]);
    assert!(error.contains("pods \"none\" not found"), "{error}");
}

#[test]
fn every_node_is_asked_once_and_the_worst_code_is_the_code() {
    let stage = Stage::new();
    let output = stage.run(&["--all", "doctor"]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("worker-1:\n") && said.contains("worker-2:\n"), "{said}");
    assert_eq!(stage.calls().matches(" exec ").count(), 2);
}

#[test]
fn a_command_of_the_whole_cluster_runs_here() {
    let stage = Stage::new();
    let error = stage.complains(&["--context", "lab", "-n", "other", "test", "--json"]);
    assert!(error.contains("name one by --image"), "{error}");
    let calls = stage.calls();
    let expected = "--context lab --namespace other get daemonset culvert";
    assert!(calls.starts_with(expected) && !calls.contains("exec"), "{calls}");
    // A node may be called as it likes.
    assert_eq!(stage.says(&["status", "worker-1", "ui"]), "in the pod: /bin/culvert status ui\n");
}

#[test]
fn what_is_missing_is_said_with_what_to_do() {
    let stage = Stage::new();
    let error = stage.complains(&["status", "gone"]);
    assert!(error.contains("no pod of Culvert runs on the node \"gone\""), "{error}");
    assert!(stage.complains(&["status"]).contains("name the node"));
    assert!(stage.complains(&["cleanup", "worker-1"]).contains("invalid value"));
    fs::remove_file(stage.path().join("kubectl")).unwrap();
    let plugin = stage.path().join("kubectl-culvert");
    let output =
        Command::new(plugin).args(["status", "worker-1"]).env("PATH", "/nowhere").output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("there is no kubectl on the PATH"), "{error}");
}
