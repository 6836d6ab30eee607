//! The nodes of a cluster as the table, and what this node says of itself there.

use std::fs;

use culvert::control::source::{NodeKeys, Reason};
use culvert_lab::wait_until;
use serde_json::json;
use tempfile::TempDir;

use crate::listener::{LIMIT, Listener};
use source_servers::api_server::{ApiServer, node};

/// A listener of the node `node1`, and the directory with its files.
pub(crate) fn listen(server: &ApiServer) -> (Listener, TempDir) {
    let directory = TempDir::with_prefix("culvert-kube-").unwrap();
    let kubeconfig = directory.path().join("kubeconfig");
    fs::write(&kubeconfig, server.kubeconfig()).unwrap();
    let text = format!(
        "[network]\ncidrs = [\"10.244.0.0/16\"]\n[node]\nname = \"node1\"\nstate_dir = \"{}\"\n\
         [table]\nsource = \"kubernetes\"\n[kubernetes]\nkubeconfig = \"{}\"\n",
        directory.path().display(),
        kubeconfig.display()
    );
    (Listener::start(&text), directory)
}

fn cluster() -> ApiServer {
    let server = ApiServer::start();
    server.put(node(1, "10.244.1.0/24"));
    server.put(node(2, "10.244.2.0/24"));
    server
}

#[test]
fn nodes_come_change_and_go() {
    let server = cluster();
    let (listener, _directory) = listen(&server);
    listener.until_names(&["node1", "node2"]);
    server.put(node(3, "10.244.3.0/24"));
    listener.until_names(&["node1", "node2", "node3"]);
    let mut moved = node(3, "10.244.3.0/24");
    moved["metadata"]["annotations"]["culvert.dev/address"] = json!("198.51.100.7");
    server.put(moved);
    listener.until("the other address", |heard| {
        heard.proposal.nodes().any(|node| node.entry.address.to_string() == "198.51.100.7")
    });
    server.delete("node2");
    let heard = listener.until_names(&["node1", "node3"]);
    assert_eq!(server.agents(), [concat!("culvert/", env!("CARGO_PKG_VERSION"))]);
    assert_eq!((heard.snapshots, heard.losses), (1, 0), "all of it was told as changes");
}

#[test]
fn nodes_that_are_new_after_a_backup_was_restored_are_told() {
    let server = cluster();
    let (listener, _directory) = listen(&server);
    for _version in 0..100 {
        server.put(node(3, "10.244.3.0/24"));
    }
    listener.until_names(&["node1", "node2", "node3"]);
    let (_lists, watches) = server.asked();
    server.restore(|_list, object| object["metadata"]["name"] != "node3");
    // From a version that the server will come to much later.
    wait_until(LIMIT, "another watch", || server.asked().1 > watches).unwrap();
    server.put(node(4, "10.244.4.0/24"));
    server.drop_watches();
    listener.until_names(&["node1", "node2", "node4"]);
}

#[test]
fn a_node_annotates_its_keys_and_takes_them_away() {
    let server = cluster();
    let (listener, _directory) = listen(&server);
    listener.until_names(&["node1", "node2"]);
    let texts = [
        "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=",
        "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=",
    ];
    let said = || server.node("node1")["metadata"]["annotations"]["culvert.dev/public-key"].clone();
    for texts in [&texts[..1], &texts[..], &[]] {
        let keys = NodeKeys::parse(texts.iter().copied()).unwrap();
        listener.keys(keys);
        listener.until("its own keys", |heard| heard.keys("node1") == keys);
        let expected = if texts.is_empty() { json!(null) } else { json!(texts.join(",")) };
        assert_eq!(said(), expected);
    }
}

#[test]
fn a_version_that_is_forgotten_is_followed_by_a_new_list() {
    let server = cluster();
    let (listener, _directory) = listen(&server);
    listener.until_names(&["node1", "node2"]);
    for round in 3..6 {
        let snapshots = listener.heard().snapshots;
        server.put(node(round, &format!("10.244.{round}.0/24")));
        server.forget();
        listener.until("a new list", |heard| heard.snapshots > snapshots);
        let name = format!("node{round}");
        listener.until("the new node", |heard| heard.names().contains(&name));
    }
    assert_eq!(listener.heard().losses, 0, "an old version is no loss");
}

#[test]
fn a_watch_that_breaks_goes_on_where_it_was_and_bookmarks_say_where() {
    let server = cluster();
    let (listener, _directory) = listen(&server);
    listener.until_names(&["node1", "node2"]);
    for round in 3..6 {
        let watches = server.asked().1;
        server.bookmark();
        server.drop_watches();
        wait_until(LIMIT, "another watch", || server.asked().1 > watches).unwrap();
        server.put(node(round, &format!("10.244.{round}.0/24")));
        let name = format!("node{round}");
        listener.until("the new node", |heard| heard.names().contains(&name));
    }
}

#[test]
fn a_slow_watch_is_heard_out() {
    let server = cluster();
    let (listener, _directory) = listen(&server);
    listener.until_names(&["node1", "node2"]);
    server.slow(true);
    server.put(node(3, "10.244.3.0/24"));
    listener.until_names(&["node1", "node2", "node3"]);
}

#[test]
fn a_server_that_is_busy_or_away_takes_nothing_away() {
    let server = cluster();
    let (listener, directory) = listen(&server);
    listener.until_names(&["node1", "node2"]);
    server.refuse(usize::MAX);
    listener.reload();
    let heard = listener.until("the refusal", |heard| heard.losses > 0);
    assert_eq!(heard.names(), ["node1", "node2"]);
    let reason = heard.lost.unwrap();
    assert!(reason.contains("TooManyRequests"), "{reason}");
    server.refuse(0);
    listener.until("an end of it", |heard| heard.lost.is_none());
    drop(server);
    let heard = listener.until("the absence", |heard| heard.lost.is_some());
    assert_eq!(heard.names(), ["node1", "node2"]);
    let server = cluster();
    server.put(node(7, "10.244.7.0/24"));
    fs::write(directory.path().join("kubeconfig"), server.kubeconfig()).unwrap();
    listener.until_names(&["node1", "node2", "node7"]);
}

#[test]
fn a_node_without_a_pod_cidr_is_told_what_to_do() {
    let server = ApiServer::start();
    let mut bare = node(1, "");
    bare["spec"] = json!({});
    server.put(bare);
    let (listener, _directory) = listen(&server);
    let heard = listener.until("the reason", |heard| heard.contested.is_some());
    let reason = heard.contested.unwrap();
    assert!(
        reason.contains("has no podCIDR") && reason.contains("--allocate-node-cidrs"),
        "{reason}"
    );
    assert!(heard.proposal.nodes().next().is_none());
    server.put(node(1, "10.244.1.0/24"));
    let heard = listener.until_names(&["node1"]);
    assert_eq!(heard.contested, None);
    // Taken away again, it is kept: stale is better than empty.
    server.delete("node1");
    let heard = listener.until("the reason", |heard| heard.contested.is_some());
    assert_eq!(heard.names(), ["node1"]);
}

#[test]
fn a_node_that_makes_no_sense_is_reported_and_costs_nobody_anything() {
    let server = cluster();
    let mut wrong = node(3, "10.244.3.0/24");
    wrong["metadata"]["annotations"]["culvert.dev/codec"] = json!("pigeon");
    server.put(wrong);
    let (listener, _directory) = listen(&server);
    let heard = listener.until_names(&["node1", "node2"]);
    assert_eq!(heard.proposal.unreadable().len(), 1, "{heard:?}");
    server.put(node(3, "10.244.3.0/24"));
    let heard = listener.until_names(&["node1", "node2", "node3"]);
    assert!(heard.proposal.unreadable().is_empty());
}

#[test]
fn a_node_publishes_what_peers_need_and_ends_its_taint_when_ready() {
    let server = cluster();
    let mut tainted = node(1, "10.244.1.0/24");
    tainted["spec"]["taints"] = json!([
        {"key": "culvert.dev/not-ready", "effect": "NoSchedule"},
        {"key": "other", "effect": "NoExecute"},
    ]);
    server.put(tainted);
    let (listener, _directory) = listen(&server);
    let annotation = |key: &str| server.node("node1")["metadata"]["annotations"][key].clone();
    let published = || annotation("culvert.dev/codec") == "vxlan-gpe";
    wait_until(LIMIT, "the annotations", published).unwrap();
    assert_eq!(annotation("culvert.dev/port"), "4790");
    assert_eq!(server.node("node1")["spec"]["taints"].as_array().unwrap().len(), 2);
    let condition = || {
        let node = server.node("node1");
        let conditions = node["status"]["conditions"].as_array().unwrap();
        let found = conditions.iter().find(|known| known["type"] == "NetworkUnavailable");
        found.map(|found| found["status"].as_str().unwrap().to_owned())
    };
    assert_eq!(condition(), None, "one that is not ready yet says nothing");
    listener.ready(true);
    let done = || {
        let taints = server.node("node1")["spec"]["taints"].clone();
        condition().as_deref() == Some("False")
            && taints == json!([{"key": "other", "effect": "NoExecute"}])
    };
    wait_until(LIMIT, "condition and taint", done).unwrap();
    listener.ready(false);
    wait_until(LIMIT, "the condition", || condition().as_deref() == Some("True")).unwrap();
    assert_eq!(listener.heard().losses, 0);
}

#[test]
fn a_node_tells_people_by_events_of_its_node_one_a_minute_of_each_kind() {
    let server = cluster();
    let (listener, _directory) = listen(&server);
    listener.until_names(&["node1", "node2"]);
    listener.note(Reason::PeerUnreachable, "no answer from node2");
    wait_until(LIMIT, "an event", || server.events().len() == 1).unwrap();
    let event = server.events().remove(0);
    assert_eq!(event["reason"], "PeerUnreachable");
    assert_eq!(event["message"], "no answer from node2");
    assert_eq!(
        (&event["type"], &event["involvedObject"]["kind"]),
        (&json!("Warning"), &json!("Node"))
    );
    assert_eq!(event["involvedObject"]["name"], "node1");

    // More of the same wait; what is another thing does not, and comes later than those would have.
    for number in 0..20 {
        listener.note(Reason::PeerUnreachable, &format!("no answer from {number} nodes"));
    }
    listener.note(Reason::TableRefused, "a cycle");
    wait_until(LIMIT, "another event", || server.events().len() > 1).unwrap();
    listener.note(Reason::PathMtu, "less fits");
    wait_until(LIMIT, "a third event", || server.events().len() > 2).unwrap();
    let reasons: Vec<_> =
        server.events().into_iter().map(|event| event["reason"].clone()).collect();
    assert_eq!(reasons, ["PeerUnreachable", "TableRefused", "PathMTU"]);
}
