//! What Prometheus makes of a node's metrics, and of deploy/monitoring.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use culvert_lab::wait_until;
use serde_json::Value;

use crate::harness::{SOON, assert_reaches, lab};

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/monitoring")
}

/// Runs promtool, which must be content.
fn promtool(arguments: &[&str], input: &str) {
    let mut promtool = Command::new("promtool")
        .args(arguments)
        .current_dir(directory())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is there (Debian: prometheus)");
    promtool.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success(), "promtool {arguments:?}: {said}");
}

/// The metrics that a query names.
fn metrics(query: &str) -> Vec<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    // What is quoted is a value.
    let bare: String = query.split('"').step_by(2).collect::<Vec<_>>().join(" ");
    let words = bare.split(|c| !is_part(c)).map(str::to_owned);
    words.filter(|word| word.starts_with("culvert_") || word.starts_with("process_")).collect()
}

/// Every `expr` of a document.
fn queries(document: &Value, found: &mut Vec<String>) {
    match document {
        Value::Object(fields) => {
            for (key, value) in fields {
                match (key.as_str(), value) {
                    ("expr", Value::String(query)) => found.push(query.clone()),
                    _ => queries(value, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| queries(item, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn yaml(name: &str) -> Value {
    serde_saphyr::from_str(&fs::read_to_string(directory().join(name)).unwrap()).unwrap()
}

#[test]
fn prometheus_takes_the_metrics_and_every_query_finds_its_own() {
    let lab = lab("nt-prometheus").up().unwrap();
    let node = lab.node(1);
    assert_reaches(lab.pod(1, 1).netns(), lab.pod(2, 1).ipv4());
    // The store is looked at once a minute, and when the daemon starts.
    node.restart().unwrap();
    assert_reaches(lab.pod(1, 1).netns(), lab.pod(2, 1).ipv4());
    let scrape = || node.http("/metrics").unwrap().1;
    let used = "culvert_addresses{subnet=\"10.244.1.0/24\",state=\"used\"} 1";
    wait_until(SOON, "the pod's address", || scrape().contains(used)).unwrap();
    let scrape = scrape();
    promtool(&["check", "metrics"], &scrape);

    let there: BTreeSet<&str> = scrape
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(['{', ' ']).next())
        .collect();
    let mut asked = Vec::new();
    let dashboards = ["culvert-cluster.json", "culvert-node.json"];
    for name in dashboards {
        let text = fs::read_to_string(directory().join("dashboards").join(name)).unwrap();
        queries(&serde_json::from_str(&text).unwrap(), &mut asked);
    }
    let of_dashboards = asked.len();
    assert!(of_dashboards > 30, "{asked:?}");
    queries(&yaml("rules.yaml"), &mut asked);
    assert!(asked.len() > of_dashboards + 10, "{asked:?}");
    for query in &asked {
        let named = metrics(query);
        assert!(!named.is_empty(), "{query}");
        for metric in named {
            assert!(there.contains(metric.as_str()), "{metric} of {query} is not in\n{scrape}");
        }
    }

    // What Grafana puts in place of its variables.
    let whole =
        |query: &String| query.replace("$__rate_interval", "5m").replace("$instance", "node1");
    let rules: Vec<Value> = asked
        .iter()
        .enumerate()
        .map(|(number, query)| {
            serde_json::json!({ "record": format!("query:{number}"), "expr": whole(query) })
        })
        .collect();
    let file = tempfile::NamedTempFile::new().unwrap();
    let groups = serde_json::json!({ "groups": [{ "name": "queries", "rules": rules }] });
    fs::write(file.path(), groups.to_string()).unwrap();
    promtool(&["check", "rules", file.path().to_str().unwrap()], "");
}

#[test]
fn alerts_are_sound_and_fire_when_they_should() {
    promtool(&["check", "rules", "rules.yaml"], "");
    promtool(&["test", "rules", "rules.test.yaml"], "");
    // The operator's copy has the same alerts, and each of them a test.
    let rules = yaml("rules.yaml");
    assert_eq!(yaml("prometheusrule.yaml")["spec"], rules);
    let tests = fs::read_to_string(directory().join("rules.test.yaml")).unwrap();
    let alerts = rules["groups"][0]["rules"].as_array().unwrap();
    assert!(alerts.len() > 10);
    for alert in alerts {
        let name = alert["alert"].as_str().unwrap();
        assert!(tests.contains(&format!("alertname: {name}\n")), "{name} has no test");
    }
}
