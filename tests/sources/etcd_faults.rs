//! What goes wrong with etcd, and that nobody loses a network by it.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use crate::listener::Listener;
use culvert::config::{Config, Overrides};
use culvert::control::source::{Saved, configured, describe};
use source_servers::etcd::{Etcd, config};

fn state() -> TempDir {
    TempDir::with_prefix("culvert-state-").unwrap()
}

fn node(etcd: &Etcd, number: u8, state: &TempDir, more: &str) -> Listener {
    let (name, address) = (format!("node{number}"), format!("192.168.1.{}", 10 + number));
    Listener::start(&format!("{}{more}", config(etcd, &name, state.path(), &address)))
}

const PEER: &str = r#"{"node":"peer","instance":"p","address":"192.168.1.77"}"#;

#[test]
fn an_etcd_that_is_away_takes_nothing_away_and_is_followed_again() {
    let mut etcd = Etcd::start();
    let state = state();
    let listener = node(&etcd, 1, &state, "");
    listener.until_names(&["node1"]);
    etcd.put("/culvert/subnets/10.244.77.0-24", PEER);
    listener.until_names(&["node1", "peer"]);
    etcd.kill();
    let heard = listener.until("the loss", |heard| heard.lost.is_some());
    assert_eq!(heard.names(), ["node1", "peer"]);
    let late = TempDir::with_prefix("culvert-state-").unwrap();
    let other = node(&etcd, 2, &late, "");
    other.until("the absence", |heard| heard.lost.is_some());
    etcd.run();
    // What changed while nobody listened is learned by reading everything.
    let names = ["node1", "node2", "peer"];
    listener.until_names(&names);
    other.until_names(&names);
}

#[test]
fn half_written_and_foreign_values_are_reported_and_cost_nobody_anything() {
    let etcd = Etcd::start();
    etcd.put("/culvert/subnets/10.244.66.0-24", "{\"node\":\"half");
    etcd.put("/culvert/subnets/elsewhere", "?");
    etcd.put("/culvert/subnets/10.244.77.0-24", PEER);
    let state = state();
    let listener = node(&etcd, 1, &state, "");
    let heard = listener.until_names(&["node1", "peer"]);
    assert_eq!(heard.proposal.unreadable().len(), 2, "{heard:?}");
    etcd.put("/culvert/subnets/10.244.55.0-24", "\"later\"");
    listener.until("a later one", |heard| heard.proposal.unreadable().len() == 3);
    etcd.put("/culvert/subnets/10.244.88.0-24", &PEER.replace("}", ",\"codec\":\"pigeon\"}"));
    let key = "/culvert/subnets/10.244.88.0-24";
    listener
        .until("a codec that nobody speaks", |heard| heard.proposal.unreadable().contains_key(key));
    for key in ["10.244.55.0-24", "10.244.66.0-24", "10.244.88.0-24", "elsewhere"] {
        etcd.ctl(&["del", &format!("/culvert/subnets/{key}")]);
    }
    let heard = listener.until("all mended", |heard| heard.proposal.unreadable().is_empty());
    assert_eq!(heard.losses, 0);
    listener.until_names(&["node1", "peer"]);
}

#[test]
fn a_lost_lease_is_claimed_anew_with_the_same_subnet() {
    let etcd = Etcd::start();
    let state = state();
    let listener = node(&etcd, 1, &state, "lease_seconds = 5\n");
    let had = listener.until_names(&["node1"]).subnets("node1");
    let key = format!("/culvert/subnets/{}-24", had[0].network());
    let leases = etcd.ctl(&["lease", "list"]);
    let lease = leases.lines().last().unwrap().trim().to_owned();
    etcd.ctl(&["lease", "revoke", &lease]);
    let back =
        || etcd.value(&key).contains("node1") && !etcd.ctl(&["lease", "list"]).contains(&lease);
    culvert_lab::wait_until(crate::listener::LIMIT, "a new claim", back).unwrap();
    let heard = listener.heard();
    assert_eq!((heard.subnets("node1"), heard.contested), (had, None));
}

#[test]
fn a_database_that_lost_everything_empties_no_table() {
    let mut etcd = Etcd::start();
    let (one, two) = (state(), state());
    let nodes = [node(&etcd, 1, &one, ""), node(&etcd, 2, &two, "")];
    for number in 0..20 {
        etcd.put("/culvert/subnets/10.244.77.0-24", PEER);
        etcd.put("/elsewhere", &number.to_string());
    }
    let names = ["node1", "node2", "peer"];
    let before: Vec<_> = nodes.iter().map(|node| node.until_names(&names)).collect();
    etcd.kill();
    etcd.lose_data();
    etcd.run();
    for (node, before) in nodes.iter().zip(&before) {
        // The peer's daemon does not run, so it cannot come back; it stays all the same.
        let heard = node.until("a new reading", |heard| heard.snapshots > before.snapshots);
        assert_eq!(heard.names(), names);
        for name in names {
            assert_eq!(heard.subnets(name), before.subnets(name));
        }
    }
    let claimed = || etcd.keys("/culvert/subnets/").len() == 2;
    culvert_lab::wait_until(crate::listener::LIMIT, "both to claim again", claimed).unwrap();
}

#[test]
fn patience_with_a_database_that_lost_everything_outlives_a_restart() {
    let mut etcd = Etcd::start();
    let state = state();
    let text = config(&etcd, "node1", state.path(), "192.168.1.11");
    let listener = Listener::start(&text);
    for _ in 0..20 {
        etcd.put("/culvert/subnets/10.244.77.0-24", PEER);
    }
    let names = ["node1", "peer"];
    let snapshots = listener.until_names(&names).snapshots;
    listener.reload();
    let heard = listener.until("a new reading", |heard| heard.snapshots > snapshots);
    drop(listener);
    // The copy that the daemon keeps.
    let config = Config::parse(Path::new("c.toml"), &text, &Overrides::default()).unwrap();
    let parameters = configured(&config).unwrap();
    let saved = Saved::of("node1", &describe(&config.table), parameters, &heard.proposal);
    saved.write(state.path()).unwrap();
    etcd.kill();
    etcd.lose_data();
    etcd.run();
    for attempt in 0..2 {
        let listener = Listener::start(&text);
        let heard = listener.until("a reading", |heard| heard.snapshots > 0);
        assert_eq!(heard.names(), names, "attempt {attempt}");
        assert_eq!(etcd.keys("/culvert/subnets/").len(), 1);
    }
}

#[test]
fn a_restored_database_is_followed() {
    let mut etcd = Etcd::start();
    let (one, two) = (state(), state());
    let first = node(&etcd, 1, &one, "");
    first.until_names(&["node1"]);
    etcd.kill();
    let backup = TempDir::with_prefix("culvert-backup-").unwrap();
    let copy = |from: &Path, to: &Path| {
        let done = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
        assert!(done.success());
    };
    copy(&etcd.data(), backup.path());
    etcd.run();
    let second = node(&etcd, 2, &two, "");
    first.until_names(&["node1", "node2"]);
    etcd.kill();
    etcd.lose_data();
    copy(&backup.path().join("data"), &etcd.data());
    etcd.run();
    // The copy knows nothing of the second, which claims what it had.
    let had = second.heard().subnets("node2");
    let key = format!("/culvert/subnets/{}-24", had[0].network());
    let back = || etcd.value(&key).contains("node2");
    culvert_lab::wait_until(crate::listener::LIMIT, "the second to claim again", back).unwrap();
    for node in [&first, &second] {
        assert_eq!(node.until_names(&["node1", "node2"]).subnets("node2"), had);
    }
}

#[test]
fn a_compaction_is_followed_by_a_new_reading() {
    let mut etcd = Etcd::start();
    let state = state();
    let listener = node(&etcd, 1, &state, "");
    listener.until_names(&["node1"]);
    etcd.kill();
    listener.until("the loss", |heard| heard.lost.is_some());
    etcd.run();
    etcd.put("/culvert/subnets/10.244.77.0-24", PEER);
    for number in 0..50 {
        etcd.put("/elsewhere", &number.to_string());
    }
    let status = etcd.ctl(&["endpoint", "status", "--write-out=json"]);
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let revision = status[0]["Status"]["header"]["revision"].to_string();
    etcd.ctl(&["compact", &revision]);
    listener.until_names(&["node1", "peer"]);
}

#[test]
fn two_nodes_that_want_one_subnet_at_once_get_two() {
    let etcd = Etcd::start();
    etcd.put("/culvert/config", r#"{"cidrs":["10.244.0.0/21"],"vni":1,"port":4790}"#);
    let states: Vec<TempDir> = (0..7).map(|_| state()).collect();
    let remembered = r#"{"instance":"INSTANCE","node":"NODE","subnets":["10.244.1.0/24"]}"#;
    // Each remembers the same subnet as its own, as copies of one disk do.
    let nodes: Vec<Listener> = (1..=7_u8)
        .zip(&states)
        .map(|(number, state)| {
            let memory = remembered
                .replace("INSTANCE", &format!("i{number}"))
                .replace("NODE", &format!("node{number}"));
            fs::write(state.path().join("claim.json"), memory).unwrap();
            let (name, address) = (format!("node{number}"), format!("192.168.1.{}", 10 + number));
            let text = config(&etcd, &name, state.path(), &address);
            Listener::start(&text.replace("cidrs = [\"10.244.0.0/16\"]\n", ""))
        })
        .collect();
    let names: Vec<String> = (1..=7).map(|number| format!("node{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let settled = || etcd.keys("/culvert/subnets/").len() == 7;
    culvert_lab::wait_until(crate::listener::LIMIT, "seven claims", settled).unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for (node, name) in nodes.iter().zip(&names) {
        let heard = node.until("all, each with its own", |heard| {
            let all: std::collections::BTreeSet<_> =
                names.iter().flat_map(|name| heard.subnets(name)).collect();
            heard.names() == names && all.len() == 7
        });
        assert!(seen.insert(heard.subnets(name)), "{name} shares its subnet");
    }
}
