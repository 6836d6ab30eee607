//! The pods' source check as the daemon keeps it, and both tables as the program `nft` reads them.

use crate::node::{Namespace, Node, ip, run};

/// A device with the note that the plugin leaves on a pod's port.
fn plug(port: &str, note: &str) {
    ip(&format!("link add {port} mtu 1464 type veth peer name p{port} mtu 1464"));
    let done = std::process::Command::new("ip")
        .args(["link", "set", port, "master", "v-net-0", "alias", note])
        .status()
        .unwrap();
    assert!(done.success());
}

/// A listing without what counters have counted, all white space alike.
fn words(table: &str) -> String {
    let text = run(&format!("nft -s list table {table}"));
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn normal(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

const NOTE: &str = "culvert pod 0a:58:0a:f4:01:02 checked hairpin 10.244.1.2 fd00:10:244:1::2";

#[test]
fn nft_shows_the_nodes_table_as_the_documents_do() {
    Namespace::new("nft-words").run(async || {
        let mut node = Node::new();
        node.spec.cluster_networks.truncate(1);
        node.spec.local_subnets.truncate(1);
        node.reconcile();
        let documents = include_str!("../../docs/operations.md");
        let begin = documents.find("table inet culvert {").unwrap();
        let documented = &documents[begin..begin + documents[begin..].find("```").unwrap()];
        assert_eq!(words("inet culvert"), normal(documented));
    });
}

#[test]
fn nft_shows_the_source_check_as_the_documents_do() {
    Namespace::new("nft-check").run(async || {
        let mut node = Node::ready();
        plug("culv1a2b3c4d", NOTE);
        node.reconcile();
        let documents = include_str!("../../docs/operations.md");
        let begin = documents.find("table bridge culvert {").unwrap();
        let documented = &documents[begin..begin + documents[begin..].find("```").unwrap()];
        // The order of elements is the kernel's.
        let sorted = |text: String| {
            let mut words: Vec<String> =
                text.replace(',', " ").split_whitespace().map(str::to_owned).collect();
            words.sort();
            words
        };
        assert_eq!(sorted(words("bridge culvert")), sorted(normal(documented)));
    });
}

#[test]
fn every_damage_to_the_source_check_is_repaired() {
    Namespace::new("check-repair").run(async || {
        let mut node = Node::ready();
        plug("culv1a2b3c4d", NOTE);
        assert_eq!(node.reconcile(), ["repair nft tables bridge culvert, inet culvert-pods"]);
        assert_eq!(node.reconcile(), [""; 0]);
        let whole = [words("bridge culvert"), words("inet culvert-pods")];
        for damage in [
            "nft flush ruleset",
            "nft delete table bridge culvert",
            "nft flush chain bridge culvert prerouting",
            "nft flush set bridge culvert ports",
            "nft delete element bridge culvert ipv4 { culv1a2b3c4d . 10.244.1.2 }",
            "nft add element bridge culvert ipv4 { culv1a2b3c4d . 10.244.1.3 }",
            "nft insert rule bridge culvert prerouting accept",
            "nft delete table inet culvert-pods",
            "nft flush chain inet culvert-pods forward",
            "nft delete element inet culvert-pods ipv4 { 10.244.1.2 }",
            "nft add element inet culvert-pods ipv6 { fd00:10:244:1::3 }",
        ] {
            run(damage);
            let done = node.reconcile();
            assert!(
                done.contains(&"repair nft tables bridge culvert, inet culvert-pods".to_owned()),
                "{damage}"
            );
            assert_eq!(node.reconcile(), [""; 0], "after {damage}");
            let now = [words("bridge culvert"), words("inet culvert-pods")];
            assert_eq!(now, whole, "after {damage}");
        }
        // A daemon that was restarted finds the table and the note.
        let mut restarted = Node::new();
        drop(node);
        assert_eq!(restarted.reconcile(), ["open TUN culvert0"]);
    });
}

#[test]
fn note_that_somebody_takes_away_comes_back_and_all_that_follows_from_it_stays() {
    Namespace::new("check-note").run(async || {
        let mut node = Node::ready();
        plug("culv1a2b3c4d", NOTE);
        node.reconcile();
        let whole = [words("bridge culvert"), words("inet culvert-pods")];
        let set_alias = |alias: &str| {
            let set = ["link", "set", "culv1a2b3c4d", "alias", alias];
            assert!(std::process::Command::new("ip").args(set).status().unwrap().success());
        };
        for alias in ["", "culvert pod", "mine"] {
            set_alias(alias);
            assert_eq!(node.reconcile(), ["put the note back on culv1a2b3c4d"]);
            assert_eq!(node.reconcile(), [""; 0]);
            assert!(ip("link show dev culv1a2b3c4d").contains(NOTE));
            assert_eq!([words("bridge culvert"), words("inet culvert-pods")], whole);
        }
        // One that was written anew counts.
        set_alias(&NOTE.replace("10.244.1.2", "10.244.1.3"));
        assert_eq!(node.reconcile(), ["repair nft tables bridge culvert, inet culvert-pods"]);
        assert!(words("bridge culvert").contains("10.244.1.3"));
    });
}

#[test]
fn what_is_known_of_a_pod_goes_with_its_device() {
    Namespace::new("check-stale").run(async || {
        let mut node = Node::ready();
        plug("culv1a2b3c4d", NOTE);
        plug("culv5e6f7a8b", &NOTE.replace(" checked", ""));
        node.reconcile();
        let table = words("bridge culvert");
        assert!(table.contains("culv1a2b3c4d") && !table.contains("culv5e6f7a8b"), "{table}");
        ip("link del culv1a2b3c4d");
        node.reconcile();
        assert!(!words("bridge culvert").contains("culv1a2b3c4d"));
        assert!(node.reconciler.cleanup().failed.is_empty());
        assert!(!run("nft list tables").contains("culvert"));
    });
}

#[test]
fn bridge_keeps_its_hardware_address_whatever_is_plugged_in() {
    Namespace::new("fixed-mac").run(async || {
        let _node = Node::ready();
        let mac = "link/ether 02:cf:0a:f4:01:00";
        // Lower than the bridge's, and so what a bridge without one of its own would take.
        ip("link add low address 02:00:00:00:00:01 type veth peer name far");
        ip("link set low master v-net-0 up");
        assert!(ip("link show dev v-net-0").contains(mac));
        ip("link del low");
        assert!(ip("link show dev v-net-0").contains(mac));
    });
}
