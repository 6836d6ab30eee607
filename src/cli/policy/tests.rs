use std::fs;

use super::*;

const OBJECTS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
status: {podIPs: [{ip: 10.244.1.2}]}
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
  ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 5432}]}]
";

fn directory(objects: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("objects.yaml"), objects).unwrap();
    directory
}

fn is(code: anyhow::Result<ExitCode>, number: u8) -> bool {
    format!("{:?}", code.unwrap()) == format!("{:?}", ExitCode::from(number))
}

#[test]
fn each_command_ends_with_what_it_found() {
    let (now, new) = (directory(OBJECTS), directory(&OBJECTS.replace("5432", "5433")));
    let wrong = directory(&OBJECTS.replace("5432", "70000"));
    assert!(is(check(now.path(), false), 0));
    assert!(is(check(wrong.path(), true), 1));
    let diff = |old: &Path, new: &Path| {
        let (old, new) = (old.to_owned(), new.to_owned());
        run(&PolicyArgs { command: PolicyCommand::Diff { old, new, json: true } })
    };
    assert!(is(diff(now.path(), now.path()), 0));
    assert!(is(diff(now.path(), new.path()), DIFFERENT));
    let world = world(now.path()).unwrap();
    let tcp = |port| Some(Traffic::Port(Protocol::Tcp, port));
    assert!(is(explain(&world, "shop/web", "shop/db", tcp(5432), false), 0));
    assert!(is(explain(&world, "shop/web", "10.244.2.2", tcp(81), true), 1));
    let error = explain(&world, "shop/nobody", "shop/db", None, false).unwrap_err();
    assert!(error.to_string().starts_with("shop/nobody: neither"), "{error}");
}

#[test]
fn json_says_what_the_table_says() {
    let now = directory(OBJECTS);
    let world = world(now.path()).unwrap();
    let matrix = matrix_json(&Matrix::new(&world));
    assert_eq!(matrix["schema"], 1);
    assert_eq!(matrix["places"][0], json!({"kind": "pods", "namespace": "shop", "pods": ["db"]}));
    let cells = matrix["cells"].as_array().unwrap();
    let cell = cells.iter().find(|cell| cell["from"] == 1 && cell["to"] == 0).unwrap();
    assert_eq!(cell["ipv4"], "tcp 5432");
    assert_eq!(cell["ipv6"], Value::Null);
}

#[test]
fn the_page_is_written_to_its_file() {
    let now = directory(OBJECTS);
    let html = now.path().join("page.html");
    let traffic = TrafficArgs { port: Some(5432), proto: Proto::Tcp };
    let command = PolicyCommand::Matrix {
        directory: now.path().to_owned(),
        json: false,
        html: Some(html.clone()),
        traffic,
    };
    assert!(is(run(&PolicyArgs { command }), 0));
    let page = fs::read_to_string(html).unwrap();
    assert!(page.contains("<title>Who may speak with whom, tcp port 5432</title>"));
}
