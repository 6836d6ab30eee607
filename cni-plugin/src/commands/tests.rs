use std::ffi::OsString;
use std::os::unix::net::UnixListener;

use serde_json::json;
use tempfile::TempDir;

use super::*;
use culvert_node::ipam::{Ports, Store};
use culvert_node::node_file::{NodeFile, SOCKET_NAME};

/// What the program answered: exit code, stdout, stderr.
struct Outcome {
    code: ExitCode,
    stdout: String,
    stderr: String,
}

impl Outcome {
    fn document(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap()
    }

    fn is_success(&self) -> bool {
        self.code == ExitCode::SUCCESS
    }
}

fn call(pairs: &[(&str, &str)], stdin: &str) -> Outcome {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let variables = |name: &str| {
        let found = pairs.iter().find(|(key, _)| *key == name);
        found.map(|(_, value)| OsString::from(value))
    };
    let code = run(Plugin::Bridge, &variables, &mut stdin.as_bytes(), &mut stdout, &mut stderr);
    Outcome {
        code,
        stdout: String::from_utf8(stdout).unwrap(),
        stderr: String::from_utf8(stderr).unwrap(),
    }
}

fn verb(command: &str, config: &Value) -> Outcome {
    let pairs = [
        ("CNI_COMMAND", command),
        ("CNI_CONTAINERID", "c1"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_NETNS", "/nonexistent/netns"),
    ];
    call(&pairs, &config.to_string())
}

#[test]
fn person_is_told_what_the_program_is() {
    let outcome = call(&[], "");
    assert!(outcome.is_success());
    assert_eq!(outcome.stdout, "");
    assert!(outcome.stderr.contains("container runtime"), "{}", outcome.stderr);
}

#[test]
fn version_lists_the_versions_and_repeats_the_one_asked_with() {
    let pairs = [("CNI_COMMAND", "VERSION")];
    for (stdin, version) in
        [("{\"cniVersion\":\"0.4.0\"}", "0.4.0"), ("", "1.1.0"), ("{}", "1.1.0")]
    {
        let outcome = call(&pairs, stdin);
        assert!(outcome.is_success());
        assert_eq!(
            outcome.document(),
            json!({
                "cniVersion": version,
                "supportedVersions":
                    ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"],
            })
        );
    }
}

#[test]
fn error_is_one_document_on_stdout_in_the_version_of_the_request() {
    let outcome = verb("ADD", &json!({"cniVersion": "0.4.0", "name": "pods"}));
    assert!(!outcome.is_success());
    let document = outcome.document();
    assert_eq!(document["cniVersion"], "0.4.0");
    assert_eq!(document["code"], 3);
    assert!(document["msg"].as_str().unwrap().contains("/nonexistent/netns"));
    assert!(outcome.stderr.starts_with("culvert-cni: "), "{}", outcome.stderr);
}

#[test]
fn each_early_error_has_the_code_of_the_specification() {
    let good = json!({"cniVersion": "1.0.0", "name": "pods"});
    let cases = [
        (call(&[("CNI_COMMAND", "DANCE")], "{}"), 4),
        (verb("GC", &good), 1),
        (verb("STATUS", &good), 1),
        (verb("GC", &json!({"cniVersion": "1.1.0", "name": "pods"})), 7),
        (verb("STATUS", &json!({"cniVersion": "1.1.0"})), 7),
        (call(&[("CNI_COMMAND", "ADD")], &good.to_string()), 4),
        (call(&[("CNI_COMMAND", "ADD")], "{"), 6),
        (call(&[("CNI_COMMAND", "VERSION")], "{\"cniVersion\": {}}"), 7),
        (verb("ADD", &json!({"cniVersion": "9.0.0", "name": "pods"})), 1),
        (verb("ADD", &json!({"cniVersion": "1.0.0"})), 7),
        (verb("ADD", &json!({"cniVersion": "1.0.0", "name": "pods", "vlan": 1})), 2),
        (verb("ADD", &good), 3),
        (verb("CHECK", &good), 7),
        (verb("CHECK", &json!({"cniVersion": "0.3.1", "name": "pods"})), 1),
    ];
    for (outcome, code) in cases {
        assert_eq!(outcome.document()["code"], code, "{}", outcome.stdout);
        assert!(!outcome.is_success());
    }
}

#[test]
fn plugins_own_namespace_is_refused() {
    let config = json!({"cniVersion": "1.0.0", "name": "pods"}).to_string();
    let pairs = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "c1"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_NETNS", "/proc/thread-self/ns/net"),
    ];
    assert_eq!(call(&pairs, &config).document()["code"], 8);
}

#[test]
fn del_of_what_never_was_succeeds_and_leaves_no_files() {
    let state = TempDir::new().unwrap();
    let config = json!({
        "cniVersion": "1.0.0", "name": "pods", "stateDir": state.path(), "mtu": 1,
    });
    for _ in 0..2 {
        let outcome = verb("DEL", &config);
        assert!(outcome.is_success(), "{}", outcome.stdout);
        assert_eq!(outcome.stdout, "");
    }
    assert_eq!(std::fs::read_dir(state.path()).unwrap().count(), 0);
}

/// A configuration of 1.1.0 with directories of its own.
fn latest(dir: &TempDir) -> Value {
    let (run, state) = (dir.path().join("run"), dir.path().join("state"));
    json!({"cniVersion": "1.1.0", "name": "pods", "runDir": run, "stateDir": state})
}

#[test]
fn status_says_what_is_missing() {
    let dir = TempDir::new().unwrap();
    let mut config = latest(&dir);
    // Nothing of a pod's is needed.
    let status = |config: &Value| call(&[("CNI_COMMAND", "STATUS")], &config.to_string());
    let error = status(&config).document();
    assert_eq!(error["code"], 50, "{error}");
    assert!(error["msg"].as_str().unwrap().contains("culvert run"), "{error}");

    let node = NodeFile {
        node: "node1".to_owned(),
        bridge: "lo".to_owned(),
        mtu: 1400,
        gso_max_size: None,
        subnets: Vec::new(),
        cluster_networks: Vec::new(),
        masquerade: None,
        policy: false,
        own_ports: Vec::new(),
    };
    let run_dir = dir.path().join("run");
    node.write(&run_dir).unwrap();
    let error = status(&config).document();
    assert_eq!(error["code"], 51, "a daemon that died: {error}");
    assert!(error["msg"].as_str().unwrap().contains(SOCKET_NAME), "{error}");

    let listener = UnixListener::bind(run_dir.join(SOCKET_NAME)).unwrap();
    NodeFile { bridge: "no-such-bridge".to_owned(), ..node }.write(&run_dir).unwrap();
    let error = status(&config).document();
    assert_eq!(error["code"], 51, "{error}");
    assert!(error["msg"].as_str().unwrap().contains("no-such-bridge"), "{error}");
    drop(listener);

    // A key that ADD refuses is no reason to call the node unready.
    config["vlan"] = json!(7);
    assert_eq!(status(&config).document()["code"], 51);
    NodeFile::remove(&run_dir).unwrap();
    Store::open_or_create(&dir.path().join("state"), &mut Ports::default()).unwrap();
    assert_eq!(status(&config).document()["code"], 51, "there were pods before");
}

#[test]
fn gc_of_a_node_without_pods_succeeds_and_leaves_no_files() {
    let dir = TempDir::new().unwrap();
    let mut config = latest(&dir);
    config["cni.dev/valid-attachments"] = json!([]);
    let outcome = call(&[("CNI_COMMAND", "GC")], &config.to_string());
    assert!(outcome.is_success(), "{}", outcome.stdout);
    assert_eq!(outcome.stdout, "");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn gc_with_nonsense_on_its_list_frees_nothing() {
    let dir = TempDir::new().unwrap();
    let mut config = latest(&dir);
    config["cni.dev/valid-attachments"] = json!([{"containerID": "../c1", "ifname": "eth0"}, {"containerID": "c2", "ifname": "eth0"}]);
    let error = call(&[("CNI_COMMAND", "GC")], &config.to_string()).document();
    assert_eq!(error["code"], 7);
    assert!(error["msg"].as_str().unwrap().contains("../c1"), "{error}");
}

#[test]
fn hostile_environment_is_refused_by_name() {
    let config = json!({"cniVersion": "1.0.0", "name": "pods"}).to_string();
    let long = "c".repeat(100_000);
    let cases = [
        ("CNI_CONTAINERID", "../../etc/passwd"),
        ("CNI_CONTAINERID", "c1/../c2"),
        ("CNI_CONTAINERID", "c\0"),
        ("CNI_CONTAINERID", "-rf"),
        ("CNI_IFNAME", "../eth0"),
        ("CNI_IFNAME", ".."),
        ("CNI_IFNAME", "eth0\n"),
        ("CNI_IFNAME", "eth%d"),
        ("CNI_IFNAME", "all"),
        ("CNI_IFNAME", "default"),
        ("CNI_IFNAME", &long),
        ("CNI_ARGS", &long),
        ("CULVERT_STATE_DIR", "../state"),
    ];
    for (name, value) in cases {
        let mut pairs = vec![
            ("CNI_COMMAND", "ADD"),
            ("CNI_CONTAINERID", "c1"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_NETNS", "/nonexistent/netns"),
        ];
        pairs.retain(|(other, _)| *other != name);
        pairs.push((name, value));
        let error = call(&pairs, &config).document();
        assert_eq!(error["code"], 4, "{name}");
        let text = error["msg"].as_str().unwrap();
        assert!(text.contains(name) && text.len() < 1_000, "{text}");
    }
}

#[test]
fn what_others_made_is_repeated_in_short_and_without_control_characters() {
    let dir = TempDir::new().unwrap();
    let long = format!("/{}\u{1b}[2J\n{}", "x".repeat(10), "y".repeat(100_000));
    let config = latest(&dir);
    let with = |key: &str, value: Value| {
        let mut config = latest(&dir);
        config[key] = value;
        config
    };
    let netns = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "c1"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_NETNS", long.as_str()),
    ];
    let result = |member: Value| json!({"interfaces": [member]});
    for outcome in [
        call(&netns, &config.to_string()),
        verb("ADD", &with("runDir", json!(long))),
        verb("ADD", &with("name", json!(long))),
        verb("ADD", &with("mtu", json!(long))),
        verb("ADD", &with("dns", json!({"nameservers": [1, long]}))),
        verb("ADD", &with(&long, json!(1))),
        verb("ADD", &with("prevResult", result(json!(long)))),
        verb("CHECK", &with("prevResult", result(json!({"name": long, "mtu": long})))),
        verb("ADD", &json!(long)),
        call(&[("CNI_COMMAND", &long)], "{}"),
    ] {
        assert!(!outcome.is_success());
        let text = outcome.stderr;
        assert!(text.len() < 1_500, "{} bytes", text.len());
        assert!(text.chars().all(|letter| letter == '\n' || !letter.is_control()), "{text:?}");
    }
}

#[test]
fn a_pipe_in_place_of_a_namespace_holds_nothing_up() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("pipe");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &path,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from(0o600),
        0,
    )
    .unwrap();
    let pairs = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "c1"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_NETNS", path.to_str().unwrap()),
    ];
    let mut config = latest(&dir);
    let run_dir = dir.path().join("run");
    let error = call(&pairs, &config.to_string()).document();
    assert_eq!(error["code"], 11, "opening it did not wait: {error}");

    let node = json!({
        "node": "n", "bridge": "lo", "mtu": 1400, "subnets": ["10.0.0.0/24"], "clusterNetworks": [],
    });
    std::fs::create_dir(&run_dir).unwrap();
    std::fs::write(NodeFile::path(&run_dir), node.to_string()).unwrap();
    config["ipam"] = json!({"resolvConf": path});
    assert_eq!(call(&pairs, &config.to_string()).document()["code"], 7);
    config["ipam"] = json!({});
    assert_eq!(call(&pairs, &config.to_string()).document()["code"], 8);
}
