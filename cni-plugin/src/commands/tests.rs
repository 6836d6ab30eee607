use std::ffi::OsString;

use serde_json::json;
use tempfile::TempDir;

use super::*;

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
    let code = run(&variables, &mut stdin.as_bytes(), &mut stdout, &mut stderr);
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
        [("{\"cniVersion\":\"0.4.0\"}", "0.4.0"), ("", "1.0.0"), ("{}", "1.0.0")]
    {
        let outcome = call(&pairs, stdin);
        assert!(outcome.is_success());
        assert_eq!(
            outcome.document(),
            json!({"cniVersion": version, "supportedVersions": ["0.3.1", "0.4.0", "1.0.0"]})
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
        (call(&[("CNI_COMMAND", "GC")], "{}"), 4),
        (call(&[("CNI_COMMAND", "ADD")], &good.to_string()), 4),
        (call(&[("CNI_COMMAND", "ADD")], "{"), 6),
        (call(&[("CNI_COMMAND", "VERSION")], "{\"cniVersion\": {}}"), 7),
        (verb("ADD", &json!({"cniVersion": "9.0.0", "name": "pods"})), 1),
        (verb("ADD", &json!({"cniVersion": "1.0.0"})), 7),
        (verb("ADD", &json!({"cniVersion": "1.0.0", "name": "pods", "mtu": 1})), 2),
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
