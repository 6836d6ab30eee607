//! What the page shows.

use std::process::Command;
use std::time::Duration;

use culvert_lab::probe::{self, Ping};
use culvert_lab::{Fault, Lab};
use serde_json::{Value, json};

use crate::chromium::Browser;
use crate::ui::Ui;

const CULVERT: &str = env!("CARGO_BIN_EXE_culvert");

fn no_complaints(browser: &mut Browser) {
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

/// How a cell of the matrix is drawn.
fn kind(from: &str, to: &str) -> String {
    format!("kindOf(model.cells['{from}\\t{to}'])")
}

#[test]
fn the_page_shows_a_lab_and_follows_a_node_that_dies_and_a_path_that_is_lost() {
    let name = "browser-lab";
    let lab = Lab::builder(name)
        .culvert(CULVERT)
        .nodes(3)
        .pods(1)
        // Asked often, so that the test is short.
        .config("[probe]\ninterval = 1")
        .sealed("prefer")
        .replace()
        .up()
        .unwrap();
    let talk = || {
        for (from, to) in [(1, 2), (1, 3), (2, 1), (2, 3), (3, 1), (3, 2)] {
            let ping = Ping::default().timeout(Duration::from_millis(300));
            probe::ping(lab.pod(from, 1).netns(), lab.pod(to, 1).ipv4(), &ping).unwrap();
        }
    };
    talk();
    let mut ui = Ui::start(&["lab", "--name", name]);
    let mut browser = Browser::start();
    browser.open(&ui.address);
    for (from, to) in [(1, 2), (1, 3), (2, 1), (2, 3), (3, 1), (3, 2)] {
        browser
            .wait(&format!("{} === 'answers'", kind(&format!("node{from}"), &format!("node{to}"))));
    }
    browser.wait("byId('link').textContent === 'live'");
    assert_eq!(browser.value("names"), json!(["node1", "node2", "node3"]));
    let shown = browser.value("byId('nodes').innerText");
    for word in ["node1", "ready", "192.168.1.11", "10.244.3.0/24", "2 of 2"] {
        assert!(shown.as_str().unwrap().contains(word), "{word} is not in {shown}");
    }
    assert_eq!(
        browser.value("byId('place').textContent"),
        "lab browser-lab: 3 nodes, 3 of 3 daemons asked"
    );

    // A path is lost.
    let status = lab.node(1).culvert(&["ping", "node3", "--all-paths", "--count", "1", "--json"]);
    let ping: Value = serde_json::from_str(&status.unwrap()).unwrap();
    let port = u16::try_from(ping["paths"][4]["port"].as_u64().unwrap()).unwrap();
    let (node, percent, source_port) = ("node1".to_owned(), 100, Some(port));
    lab.inflict(&Fault::Lose { node, percent, source_port }).unwrap();
    for _ in 0..200 {
        talk();
        if browser.value(&kind("node1", "node3")) == "paths" {
            break;
        }
    }
    browser.wait(&format!("{} === 'paths'", kind("node1", "node3")));
    browser.wait(&format!("byId('ill').innerText.includes('source port {port}')"));
    browser.value("pointed = [places.get('node1'), places.get('node3')]; describe(); 1");
    browser.wait("document.querySelectorAll('#paths i.lost').length === 1");
    assert_eq!(
        browser.value("[...document.querySelectorAll('#paths i')].findIndex(i => i.className)"),
        4
    );

    // A node dies.
    lab.node(2).kill9().unwrap();
    talk();
    for from in ["node1", "node3"] {
        browser.wait(&format!("{} === 'silent'", kind(from, "node2")));
    }
    browser.wait("byId('ill').innerText.includes('node2 does not answer node1, node3')");
    browser.wait("model.nodes.node2.state === 'no daemon'");
    assert_eq!(browser.value(&kind("node2", "node1")), "unasked", "nobody says so any more");
    keep_picture(&mut browser);

    browser.value("byId('filter').value = 'no daemon'; drawNodes(); 1");
    assert_eq!(browser.value("byId('nodes').children.length"), 1);
    no_complaints(&mut browser);

    // It says so when nobody tells it any more.
    ui.end();
    browser.wait("byId('all').className === 'stale'");
    assert!(browser.value("byId('link').textContent").as_str().unwrap().contains("trying again"));
}

/// Keeps a picture of the page, if one is wanted.
fn keep_picture(browser: &mut Browser) {
    let Some(path) = std::env::var_os("CULVERT_SCREENSHOT") else { return };
    let picture = browser.picture();
    let mut decode = Command::new("base64")
        .arg("-d")
        .stdin(std::process::Stdio::piped())
        .stdout(std::fs::File::create(path).unwrap())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut decode.stdin.take().unwrap(), picture.as_bytes()).unwrap();
    assert!(decode.wait().unwrap().success());
}

/// The status of a node with so many peers.
fn large(peers: usize) -> Value {
    let one = |number: usize| {
        let state = match number % 100 {
            3 => "silent",
            _ => "answers",
        };
        json!({
            "name": format!("worker-{number}"), "address": format!("172.16.{}.{}", number >> 8, number & 255),
            "subnets": [format!("10.{}.{}.0/24", number >> 8, number & 255)], "codec": "vxlan-gpe",
            "port": 4790, "mtu": 1464, "egress": {"packets": 1, "bytes": 1}, "ingress": {"packets": 1, "bytes": 1},
            "last_heard_seconds": 1.5,
            "path": { "state": state, "lost": [], "lost_of_peer": [], "rtt_seconds": 0.0002, "mtu_from": "route",
                "told": { "version": "0.1.0", "table": "9f31c2aa", "ready": true, "peers_lost": 0,
                    "drops_per_second": 0, "mtu": 1464 } },
        })
    };
    json!({
        "schema": 1, "version": "0.1.0", "node": "worker-0", "ready": true, "missing": [],
        "uptime_seconds": 1.0, "mtu": 1464, "vni": 1, "subnets": ["10.0.0.0/24"],
        "underlay": {"address": "172.16.0.0", "port": 4790, "tunnels": [], "mac": null},
        "table": {"source": "file", "current": true, "age_seconds": 0.0, "source_error": null,
            "hash": "9f31c2aa", "generation": 1, "nodes": peers + 1, "error": null, "left_out": [], "contested": null},
        "offload": "tcp+udp", "workers": 4, "peers": (1..=peers).map(one).collect::<Vec<_>>(),
        "drops": {}, "icmp_replies": 0, "offload_refusals": 0, "repairs": 0,
    })
}

#[test]
fn a_thousand_nodes_are_drawn_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("status.json");
    // A name that would be more than a name, if the page took it for one.
    let mut status = large(999);
    status["peers"][0]["name"] = "<img src=x onerror=alert(1)>".into();
    std::fs::write(&path, status.to_string()).unwrap();
    let ui = Ui::start(&["files", path.to_str().unwrap()]);
    let mut browser = Browser::start();
    browser.open(&ui.address);
    browser.wait("names.length === 1000");
    browser.wait("Object.keys(model.cells).length === 999");
    assert_eq!(browser.value("document.querySelectorAll('img').length"), 0);
    let shown = browser.value("byId('nodes').innerText");
    assert!(shown.as_str().unwrap().contains("<img src=x"), "{shown}");
    assert_eq!(browser.value(&kind("worker-0", "worker-3")), "silent");
    assert_eq!(browser.value("byId('more').textContent"), "800 more: filter");
    // The best of ten: others use this machine, too.
    let drawn = "Math.min(...Array.from({length: 10}, () => { drawMatrix(); \
                 return +document.documentElement.dataset.drawn; }))";
    let milliseconds = browser.value(drawn).as_f64().unwrap();
    let resident = ui.resident_bytes() >> 20;
    println!("1,000 nodes: drawn in {milliseconds} ms, culvert ui takes {resident} MiB");
    assert!(
        milliseconds < 60.0,
        "{milliseconds} ms: a page that is asked for at most 20 on an idle machine"
    );
    no_complaints(&mut browser);

    // What changes comes by itself, and what is gone goes.
    let mut fewer = large(10);
    fewer["peers"][2]["path"]["state"] = "answers".into();
    let partial = directory.path().join("partial");
    std::fs::write(&partial, fewer.to_string()).unwrap();
    std::fs::rename(&partial, &path).unwrap();
    browser.wait("names.length === 11");
    browser.wait(&format!("{} === 'answers'", kind("worker-0", "worker-3")));
    no_complaints(&mut browser);
}
