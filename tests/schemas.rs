//! What commands print as JSON is as docs/schemas says, of those that need no running daemon; the
//! others are held against it in tests/netns.

#![expect(clippy::unwrap_used, reason = "a test may fail where it stands")]

#[path = "schemas/validator.rs"]
mod validator;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use validator::{assert_valid, faults, schema};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn culvert(arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_culvert"));
    let output = command.args(arguments).current_dir(root()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    text
}

#[test]
fn answers_without_a_daemon_are_as_their_schemas_say() {
    let table = "deploy/table.example.toml";
    let asked = ["explain", "10.244.2.2", "10.244.1.2", "--json", "--node", "node1", "--table"];
    assert_valid("explain", &culvert(&[&asked[..], &[table]].concat()));

    let directory = "tests/fixtures/pcap";
    let (table, capture) = (format!("{directory}/table.toml"), format!("{directory}/jumbo.pcap"));
    let rows = culvert(&["replay", &capture, "--json", "--node", "node1", "--table", &table]);
    assert!(rows.lines().count() > 5);
    rows.lines().for_each(|row| assert_valid("replay", row));

    let state = tempfile::tempdir().unwrap();
    let config = state.path().join("config.toml");
    let text = fs::read_to_string(root().join("deploy/config.example.toml")).unwrap();
    fs::write(&config, text).unwrap();
    let state = state.path().to_str().unwrap();
    for verb in ["show", "rotate", "switch", "retire"] {
        let config = config.to_str().unwrap();
        let mut shown = vec!["keys", verb, "--json", "--state-dir", state, "--config", config];
        // The key that takes its place has been in use for a moment only.
        shown.extend((verb == "retire").then_some("--force"));
        assert_valid("keys", &culvert(&shown));
    }
}

/// Objects with a fault, a note, both families and every kind of place.
const OBJECTS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
status: {podIPs: [{ip: 10.244.1.2}, {ip: 'fd00:10:244:1::2'}]}
---
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: shop, labels: {app: db}}
status: {podIPs: [{ip: 10.244.2.2}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: web}}}]
    ports: [{port: 5432}]
  - from: [{ipBlock: {cidr: 192.0.2.0/24, except: [192.0.2.128/25]}}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: nobody, namespace: shop}
spec: {podSelector: {matchLabels: {app: nobody}}}
";

#[test]
fn what_is_said_of_policies_is_as_its_schemas_say() {
    let [old, new, wrong] = ["5432", "5433", "70000"].map(|port| {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("all.yaml"), OBJECTS.replace("5432", port)).unwrap();
        directory
    });
    let policy = |arguments: &[&str], code: i32| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_culvert"));
        let output = command.arg("policy").args(arguments).arg("--json").output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let [old, new, wrong] = [&old, &new, &wrong].map(|it| it.path().to_str().unwrap());
    for (directory, code) in [(old, 0), (wrong, 1)] {
        let said = policy(&["check", directory], code);
        assert_valid("policy-check", &said);
        assert!(said.contains("shop/nobody"), "it selects no pod: {said}");
    }
    let matrix = policy(&["matrix", old], 0);
    assert_valid("policy-matrix", &matrix);
    for kind in ["pods", "network", "elsewhere"] {
        assert!(matrix.contains(&format!("\"kind\": \"{kind}\"")), "{kind}: {matrix}");
    }
    assert_valid("policy-diff", &policy(&["diff", old, new], 3));
    assert_valid("policy-diff", &policy(&["diff", old, old], 0));
    let explain = |port| ["explain", old, "shop/web", "shop/db", "--port", port];
    assert_valid("policy-explain", &policy(&explain("5432"), 0));
    let denied = policy(&explain("81"), 1);
    assert_valid("policy-explain", &denied);
    assert!(denied.contains("near_misses") && denied.contains("5432"), "{denied}");
    assert_valid("policy-explain", &policy(&["explain", old, "192.0.2.1", "shop/db"], 0));
}

/// The commands with `--json`, each by its words, that `culvert WORDS… --help` shows.
fn commands_with_json(words: &[&str], found: &mut Vec<String>) {
    let help = culvert(&[words, &["--help"]].concat());
    let Some(listed) = help.split("\nCommands:\n").nth(1) else {
        if help.lines().any(|line| line.trim_start().starts_with("--json")) {
            found.push(words.join("-"));
        }
        return;
    };
    let lines = listed.lines().take_while(|line| !line.is_empty());
    // What continues the line above is further to the right.
    let names = lines.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    for name in names.filter_map(|line| line.split_whitespace().next()) {
        if name != "help" {
            commands_with_json(&[words, &[name]].concat(), found);
        }
    }
}

#[test]
fn every_command_with_json_has_a_schema_and_every_schema_meets_real_output() {
    let mut commands = Vec::new();
    commands_with_json(&[], &mut commands);
    assert!(commands.len() > 20, "{commands:?}");
    let schemas: BTreeSet<String> = fs::read_dir(root().join("docs/schemas"))
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    let mut held = String::new();
    for directory in ["tests", "tests/netns", "tests/netns/policy"] {
        for entry in fs::read_dir(root().join(directory)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "rs") {
                held.push_str(&fs::read_to_string(path).unwrap());
            }
        }
    }
    for name in &schemas {
        assert!(held.contains(&format!("assert_valid(\"{name}\"")), "no test asks {name}");
    }
    let schema_of = |command: &String| {
        // One schema may be that of all verbs of a command.
        let family = command.split('-').next().unwrap().to_owned();
        let found = [command.clone(), family].into_iter().find(|name| schemas.contains(name));
        found.unwrap_or_else(|| panic!("{command} has no schema"))
    };
    let used: BTreeSet<String> = commands.iter().map(schema_of).collect();
    assert_eq!(used, schemas, "each schema is that of a command");
}

#[test]
fn every_schema_has_its_number_and_knows_every_key() {
    let mut count = 0;
    for entry in fs::read_dir(root().join("docs/schemas")).unwrap() {
        let path = entry.unwrap().path();
        let schema = schema(path.file_stem().unwrap().to_str().unwrap());
        assert_eq!(schema["properties"]["schema"]["const"], 1, "{path:?}");
        assert!(schema["required"].as_array().unwrap().contains(&"schema".into()), "{path:?}");
        assert_eq!(schema["additionalProperties"], false, "{path:?}");
        count += 1;
    }
    assert!(count >= 10, "{count}");
}

#[test]
fn what_is_not_as_the_schema_says_is_found() {
    let schema = schema("top");
    let good = json!({ "schema": 1, "by": "pod", "seconds": 2.0, "rows": [] });
    assert_eq!(faults(&schema, &good, ""), Vec::<String>::new());
    let change = |key: &str, value: Value| {
        let mut changed = good.clone();
        changed[key] = value;
        faults(&schema, &changed, "").len()
    };
    assert_eq!(change("schema", 2.into()), 1);
    assert_eq!(change("by", "node".into()), 1);
    assert_eq!(change("seconds", "2".into()), 1);
    assert_eq!(change("more", true.into()), 1);
    let row = json!({ "name": "x", "sent_packets": -1, "sent_bits": 0, "received_packets": 0,
        "received_bits": 0 });
    // One is negative, and one is missing.
    assert_eq!(change("rows", json!([row])), 2);
    let unknown = json!({ "pattern": "x" });
    assert_eq!(faults(&unknown, &good, "").len(), 1);
}
