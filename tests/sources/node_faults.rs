//! Whole nodes whose source is cut off, forgets what they missed, or changes what all nodes share,
//! and whose clocks jump.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use culvert_lab::{Node, wait_until};
use serde_json::{Value, json};
use source_servers::Etcd;
use tempfile::TempDir;

use crate::listener::LIMIT;
use crate::nodes::{
    SWITCH, answers, assert_talk, lab, switch, table, until_current, up, with_etcd, with_kubernetes,
};

/// Loses whatever a node and its source say to each other, without a word to either.
fn cut(node: &Node) {
    nft(
        node,
        &format!(
            "add table inet cut
             add chain inet cut out {{ type filter hook output priority 0; }}
             add chain inet cut in {{ type filter hook input priority 0; }}
             add rule inet cut out ip daddr {SWITCH} drop
             add rule inet cut in ip saddr {SWITCH} drop"
        ),
    );
}

/// Ends what [`cut`] began.
fn mend(node: &Node) {
    nft(node, "delete table inet cut");
}

fn nft(node: &Node, script: &str) {
    let done = node.netns().command("nft").arg(script).status();
    assert!(done.expect("nft starts: install the package nftables").success(), "{script}");
}

fn subnet(node: &Node) -> Value {
    node.status().unwrap()["subnets"][0].clone()
}

/// Every lease; etcd lists them in any order.
fn leases(etcd: &Etcd) -> BTreeSet<String> {
    let text = etcd.ctl(&["lease", "list"]);
    text.lines().skip(1).map(|line| line.trim().to_owned()).collect()
}

#[test]
fn a_node_cut_off_past_its_lease_keeps_its_pods_and_shares_no_subnet() {
    let text = format!(
        "[network]\ncidrs = [\"10.244.0.0/22\"]\n[table]\nsource = \"etcd\"\n[etcd]\n\
         endpoints = [\"http://{SWITCH}:2379\"]\nlease_seconds = 5\n"
    );
    let lab = lab("src-part").nodes(3).config(text).without_daemons().up().unwrap();
    let etcd = Etcd::start_in(lab.switch(), switch(), Vec::new());
    // Of three subnets one is nobody's, so that a third node finds none.
    let kept = "/culvert/reservations/10.244.3.0-24";
    etcd.put(kept, "{}");
    let (one, two) = up(&lab);
    assert_talk(&one, &two);
    let had = subnet(lab.node(1));
    let key = format!("/culvert/subnets/{}", had.as_str().unwrap().replace('/', "-"));

    cut(lab.node(1));
    lab.node(3).spawn().unwrap();
    wait_until(LIMIT, "the lease to run out", || lab.node(3).is_ready()).unwrap();
    assert_eq!(subnet(lab.node(3)), had, "there is no other");
    assert!(etcd.value(&key).contains("node3"));
    let three = lab.add_pod(3).unwrap();
    assert_talk(&three, &two);
    // Nobody takes packets from the node that was cut off for those of the subnet's owner.
    until_current(lab.node(1), false);
    // By its address, or by its session, which ended with its place in the table.
    let refused = || {
        let drops = |reason| lab.node(2).drops(reason).unwrap();
        drops("unknown_peer") + drops("unknown_spi")
    };
    let strangers = refused();
    assert!(!answers(&one, &two));
    assert!(refused() > strangers);

    mend(lab.node(1));
    let refuses = || {
        let (code, body) = lab.node(1).http("/readyz").unwrap();
        code == 503
            && body.contains("node \"node3\" has claimed it")
            && body.contains("1 of its pods")
    };
    wait_until(LIMIT, "the node to be told", refuses).unwrap();
    assert_eq!(subnet(lab.node(1)), had, "it stays what its pod has");
    assert!(lab.add_pod(1).is_err(), "no new pod gets an address that another may have");
    assert!(etcd.value(&key).contains("node3"));
    assert_eq!(etcd.keys("/culvert/subnets/").len(), 2);
    assert_talk(&three, &two);

    // Drained, and with room, it takes another.
    lab.remove_pod(1, one.index()).unwrap();
    etcd.ctl(&["del", kept]);
    lab.node(1).wait_ready().unwrap();
    assert_eq!(subnet(lab.node(1)), "10.244.3.0/24");
    let one = lab.add_pod(1).unwrap();
    assert_talk(&one, &three);
    assert_talk(&one, &two);
}

#[test]
fn a_connection_that_dies_without_a_word_is_noticed_and_made_anew() {
    let (lab, server, _directory) = with_kubernetes("src-dead");
    let (one, two) = up(&lab);
    until_current(lab.node(1), true);
    cut(lab.node(1));
    until_current(lab.node(1), false);
    assert_talk(&one, &two);
    mend(lab.node(1));
    until_current(lab.node(1), true);
    assert_talk(&one, &two);
    drop(server);
}

#[test]
fn a_watch_that_slept_through_a_compaction_reads_everything_anew() {
    let (lab, etcd) = with_etcd("src-compact", "");
    lab.node(1).start().unwrap();
    let id = lab.node(1).pid().unwrap().to_string();
    let signal = |name: &str| {
        assert!(Command::new("kill").args([name, &id]).status().unwrap().success());
    };
    signal("-STOP");
    // More than what connection and server keep for somebody who does not listen.
    let mut gateway = etcd.gateway();
    let large = "x".repeat(20_000);
    for _ in 0..1000 {
        gateway.put("/culvert/subnets/10.244.99.0-24", &large);
    }
    etcd.ctl(&["del", "/culvert/subnets/10.244.99.0-24"]);
    etcd.put(
        "/culvert/subnets/10.244.77.0-24",
        r#"{"node":"peer","instance":"p","address":"192.168.1.77"}"#,
    );
    let status = etcd.ctl(&["endpoint", "status", "--write-out=json"]);
    let status: Value = serde_json::from_str(&status).unwrap();
    etcd.ctl(&["compact", &status[0]["Status"]["header"]["revision"].to_string()]);
    signal("-CONT");
    let node = lab.node(1);
    wait_until(LIMIT, "the node to be told", || {
        node.log().contains("etcd has forgotten changes that were not told yet")
    })
    .unwrap();
    wait_until(LIMIT, "the newest table", || {
        let table = table(node);
        table["current"] == true && table["nodes"] == 2 && table["left_out"] == json!([])
    })
    .unwrap();
}

#[test]
fn a_clock_that_jumps_costs_neither_lease_nor_packets() {
    let directory = TempDir::with_prefix("culvert-clock-").unwrap();
    let offset = directory.path().join("offset");
    let jump = |text: &str| fs::write(&offset, text).unwrap();
    jump("+0");
    let text = format!(
        "[table]\nsource = \"etcd\"\n[etcd]\nendpoints = [\"http://{SWITCH}:2379\"]\n\
         lease_seconds = 15\n"
    );
    let lab = lab("src-clock")
        .config(text)
        .daemon_env("LD_PRELOAD", faketime().to_string_lossy())
        .daemon_env("FAKETIME_TIMESTAMP_FILE", offset.to_string_lossy())
        .daemon_env("FAKETIME_NO_CACHE", "1")
        // Time since the start does not jump on any machine.
        .daemon_env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .without_daemons()
        .up()
        .unwrap();
    let mut etcd = Etcd::start_in(lab.switch(), switch(), Vec::new());
    let (one, two) = up(&lab);
    assert_talk(&one, &two);
    let (held, had) = (leases(&etcd), subnet(lab.node(1)));
    assert_eq!(held.len(), 2);
    for (offset, whole) in [("+2d", "+2 days"), ("-30d", "-30 days")] {
        jump(offset);
        // Longer than a lease lives that is not renewed.
        thread::sleep(Duration::from_secs(18));
        assert_eq!(leases(&etcd), held, "{offset}");
        assert_talk(&one, &two);
        // The daemon itself dates what it says now by the clock that jumped.
        etcd.kill();
        until_current(lab.node(1), false);
        let said = lab.node(1).log();
        let last = said.lines().last().unwrap();
        assert!(last.contains(&day(whole)), "{offset}: {last}");
        etcd.run();
        until_current(lab.node(1), true);
        until_current(lab.node(2), true);
    }
    assert_eq!((leases(&etcd), subnet(lab.node(1))), (held, had));
    assert_eq!(table(lab.node(1))["contested"], Value::Null);
    lab.add_pod(1).unwrap();
}

/// The date so far from now, which log lines begin with.
fn day(offset: &str) -> String {
    let output = Command::new("date").args(["-u", "-d", offset, "+%Y-%m-%d"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// The library that moves a program's clock.
fn faketime() -> PathBuf {
    let directories = fs::read_dir("/usr/lib").unwrap().flatten();
    let mut found = directories.map(|entry| entry.path().join("faketime/libfaketime.so.1"));
    found.find(|path| path.exists()).expect("install the package libfaketime")
}

#[test]
fn pod_networks_that_widen_get_routes_and_packets_go_on() {
    let (lab, etcd) = with_etcd("src-wide", "");
    etcd.put("/culvert/config", r#"{"cidrs":["10.244.0.0/16"],"vni":1,"port":4790}"#);
    for node in lab.nodes() {
        let text = fs::read_to_string(node.config_path()).unwrap();
        let mut config: toml::Table = text.parse().unwrap();
        config["network"].as_table_mut().unwrap().remove("cidrs");
        fs::write(node.config_path(), config.to_string()).unwrap();
    }
    let (one, two) = up(&lab);
    assert_talk(&one, &two);
    etcd.put("/culvert/config", r#"{"cidrs":["10.240.0.0/12"],"vni":1,"port":4790}"#);
    for node in lab.nodes() {
        let wide =
            || node.netns().ip_output(&["route"]).unwrap().contains("10.240.0.0/12 dev culvert0");
        wait_until(LIMIT, "the wider route", wide).unwrap();
    }
    assert_talk(&one, &two);
    etcd.put("/culvert/config", r#"{"cidrs":["10.240.0.0/12"],"vni":2,"port":4790}"#);
    let told =
        || table(lab.node(1))["error"].as_str().is_some_and(|error| error.contains("restart it"));
    wait_until(LIMIT, "the node to say that it differs", told).unwrap();
    assert_talk(&one, &two);
    assert_eq!(table(lab.node(1))["current"], true);
}
