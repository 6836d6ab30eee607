//! `culvert support`: what is in the bundle, and what must never be.

#![expect(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output};
use std::thread;

use culvert::observe::{SealedStatus, Status};
use culvert_node::node_file::SOCKET_NAME;
use serde_json::Value;
use tempfile::TempDir;

/// What no helper needs, as it stands in the places where it may be.
const SECRETS: [&str; 5] = ["s3cret-key", "s3cret-psk", "s3cret-user", "s3cret-log", "s3cret-etcd"];

fn support(directory: &Path, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_culvert"))
        .arg("support")
        .args(more)
        .current_dir(directory)
        .env("CULVERT_RUN_DIR", directory)
        .env("CULVERT_STATE_DIR", directory)
        .env("CULVERT_CONFIG", directory.join("config.toml"))
        .output()
        .unwrap()
}

/// A directory with a configuration that leads to secrets, and with some of them.
fn place() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let config = "[network]\ncidrs = [\"10.244.0.0/16\"]\n[node]\nname = \"node1\"\n\
                  [table]\nsource = \"etcd\"\n\
                  [etcd]\nendpoints = [\"http://root:s3cret-etcd@192.0.2.8:2379\"]\n\
                  user = \"s3cret-user\"\npassword_file = \"/etc/s3cret-user\"\n\
                  [sealed]\nkey_file = \"/etc/s3cret-key\"\npsk_files = [\"/etc/s3cret-psk\"]\n\
                  key_log = \"/run/s3cret-log\"\n";
    fs::write(directory.path().join("config.toml"), config).unwrap();
    fs::write(directory.path().join("node.key"), "s3cret-key").unwrap();
    directory
}

fn unpacked(directory: &Path, name: &str) -> Vec<(String, Value)> {
    let whole = fs::read(directory.join(name)).unwrap();
    for secret in SECRETS {
        let is_there = whole.windows(secret.len()).any(|window| window == secret.as_bytes());
        assert!(!is_there, "{secret} is in the bundle");
    }
    let tar = Command::new("tar").args(["-x", "-f", name]).current_dir(directory).status();
    assert!(tar.unwrap().success());
    let files = fs::read_dir(directory.join("culvert-support")).unwrap();
    let mut files: Vec<(String, Value)> = files
        .map(|file| {
            let path = file.unwrap().path();
            let text = fs::read_to_string(&path).unwrap();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, serde_json::from_str(&text).unwrap())
        })
        .collect();
    files.sort_by(|one, other| one.0.cmp(&other.0));
    files
}

fn file<'a>(files: &'a [(String, Value)], name: &str) -> &'a Value {
    &files.iter().find(|(found, _)| found == name).unwrap_or_else(|| panic!("no {name}")).1
}

#[test]
fn bundle_is_made_without_a_daemon_and_says_what_is_missing() {
    let place = place();
    let output = support(place.path(), &[]);
    assert!(output.status.success(), "{output:?}");
    let name = String::from_utf8(output.stdout).unwrap();
    assert_eq!(name, "culvert-support-node1.tar\n");
    let path = place.path().join(name.trim());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let files = unpacked(place.path(), name.trim());
    let config = file(&files, "config.json");
    assert_eq!(config["table_source"], "etcd");
    assert_eq!((&config["shared_secrets"], &config["writes_key_log"]), (&1.into(), &true.into()));
    assert!(file(&files, "machine.json")["kernel"].as_str().unwrap().len() > 2);
    let about = file(&files, "about.json");
    let missing = about["missing"].as_array().unwrap();
    let why = |name: &str| missing.iter().find(|pair| pair[0] == name).unwrap()[1].to_string();
    assert!(why("status.json").contains("no daemon answers"), "{about}");
    assert!(why("addresses.json").contains("no address store"), "{about}");
    // Nothing is written over.
    assert!(!support(place.path(), &[]).status.success());
}

#[test]
fn configuration_that_is_wrong_is_told_without_what_is_in_it() {
    let place = place();
    let path = place.path().join("config.toml");
    for wrong in [
        "psk = \"s3cret-psk\"\n",
        "psk = \"s3cret-psk\n",
        "[etcd]\nlease_seconds = \"s3cret-etcd\"\n",
    ] {
        fs::write(&path, wrong).unwrap();
        let name = format!("{}.tar", wrong.len());
        let output = support(place.path(), &["--output", &name]);
        assert!(output.status.success(), "{output:?}");
        let about = file(&unpacked(place.path(), &name), "about.json").to_string();
        assert!(about.contains("config.toml is not valid: `culvert check` says where"), "{about}");
        fs::remove_dir_all(place.path().join("culvert-support")).unwrap();
    }
}

#[test]
fn what_a_daemon_says_is_chosen_by_field() {
    let place = place();
    let listener = UnixListener::bind(place.path().join(SOCKET_NAME)).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = String::new();
            BufReader::new(stream.try_clone().unwrap()).read_line(&mut request).unwrap();
            let sealed = SealedStatus {
                mode: "prefer".to_owned(),
                public_keys: vec!["s3cret-key".to_owned()],
                key_log: Some("/run/s3cret-log".to_owned()),
                ..SealedStatus::default()
            };
            let status =
                Status { node: "node7".to_owned(), ready: true, sealed, ..Status::default() };
            writeln!(stream, "{}", serde_json::to_string(&status).unwrap()).unwrap();
        }
    });
    let output = support(place.path(), &["--output", "x.tar"]);
    assert!(output.status.success(), "{output:?}");
    let files = unpacked(place.path(), "x.tar");
    let status = file(&files, "status.json");
    assert_eq!((&status["node"], &status["sealed_mode"]), (&"node7".into(), &"prefer".into()));
    assert!(status["verdict"].as_str().unwrap().starts_with("ready; 0 peers"), "{status}");
}
