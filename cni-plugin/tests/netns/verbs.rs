//! Versions, and the verbs that are about a whole network.

use std::os::unix::net::UnixListener;

use culvert_cni::fault::Step;
use culvert_node::node_file::{NodeFile, SOCKET_NAME};
use serde_json::{Value, json};

use crate::harness::{BRIDGE, DUAL_STACK, Node, Pod, delete_netns};

fn listed(pods: &[&Pod<'_>]) -> Value {
    let entry = |pod: &&Pod<'_>| json!({"containerID": pod.container, "ifname": "eth0"});
    json!({"cni.dev/valid-attachments": pods.iter().map(entry).collect::<Vec<_>>()})
}

#[test]
fn every_version_plugs_in_and_unplugs() {
    let node = Node::new("versions", &DUAL_STACK);
    for version in ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let mut pod = node.pod(&format!("p{version}"));
        pod.keys = json!({"cniVersion": version});
        let result = pod.add().expect("ADD succeeds");
        assert_eq!(result["cniVersion"], version);
        let by_family = version < "0.3.0";
        assert_eq!(result["ip4"].is_object() && result["ip6"].is_object(), by_family, "{result}");
        assert_eq!(result["interfaces"].is_array(), !by_family, "{result}");
        let stated = ("0.3.0".."1.0.0").contains(&version);
        assert_eq!(result["ips"][0]["version"] == "4", stated, "{result}");
        assert_eq!(result["interfaces"][2]["mtu"] == 1400, version == "1.1.0", "{result}");
        let checked = pod.check(&result);
        if version < "0.4.0" {
            assert_eq!(checked.expect_err("there is no CHECK yet")["code"], 1);
        } else {
            checked.expect("CHECK finds nothing");
        }
        // A runtime hands the result over in the same version.
        pod.call("DEL", Some(&result)).expect("DEL succeeds");
        node.assert_clean();
    }
}

#[test]
fn result_of_a_plugin_before_this_one_passes_through_and_check_takes_what_is_after() {
    let node = Node::new("chained", &DUAL_STACK);
    let pod = node.pod("p1");
    let before = json!({
        "cniVersion": "1.0.0",
        "interfaces": [{"name": "net0", "sandbox": pod.netns_path()}],
        "ips": [{"address": "192.0.2.2/24", "interface": 0}],
        "routes": [{"dst": "192.0.2.0/24"}],
    });
    let result = pod.call("ADD", Some(&before)).expect("ADD succeeds");
    assert_eq!(result["interfaces"][0]["name"], "net0");
    assert_eq!(result["interfaces"][3]["name"], "eth0");
    assert_eq!(result["ips"][1]["interface"], 3);

    let mut after = result.clone();
    after["interfaces"].as_array_mut().expect("a list").push(json!({"name": "ifb0"}));
    pod.check(&after).expect("CHECK finds nothing of its own changed");
    pod.call("DEL", Some(&after)).expect("DEL succeeds");
    pod.call("DEL", Some(&json!("no result at all"))).expect("DEL needs no result");
    node.assert_clean();
}

#[test]
fn gc_unplugs_what_is_not_listed_and_nothing_else() {
    let node = Node::new("gc", &DUAL_STACK);
    let [kept, gone, vanished] = ["p1", "p2", "p3"].map(|name| node.pod(name));
    let mut other = node.pod("p4");
    other.keys = json!({"name": "other"});
    let result = kept.add().expect("ADD succeeds");
    for pod in [&gone, &vanished, &other] {
        pod.add().expect("ADD succeeds");
    }
    // What the runtime forgot after a crash, with its namespace and without the daemon.
    delete_netns(&vanished.netns);
    NodeFile::remove(&node.run_dir()).expect("the node file is removed");

    let error = node.call("GC", &json!({})).expect_err("no list is not an empty list");
    assert_eq!(error["code"], 7, "{error}");
    assert_eq!(node.held_addresses(), 8);
    for _ in 0..2 {
        node.call("GC", &listed(&[&kept])).expect("GC succeeds");
        assert_eq!(node.held_addresses(), 4, "of the listed pod and of the other network");
        assert_eq!(node.host_devices().len(), 2);
        assert!(!gone.has_link("eth0"));
    }
    kept.check(&result).expect("CHECK finds nothing");
    node.call("GC", &listed(&[])).expect("GC succeeds");
    assert!(!kept.has_link("eth0"));
    other.del().expect("DEL succeeds");
    node.assert_clean();
}

#[test]
fn gc_cleans_up_after_an_add_and_a_del_that_were_killed() {
    let node = Node::new("gckill", &DUAL_STACK);
    let mut adding = node.pod("p1");
    adding.killed_after("ADD", Step::PortStarted);
    let mut deleting = node.pod("p2");
    deleting.add().expect("ADD succeeds");
    deleting.killed_after("DEL", Step::DevicesRemoved);
    node.call("GC", &listed(&[])).expect("GC succeeds");
    node.assert_clean();
    adding.add().expect("ADD succeeds");
}

#[test]
fn status_follows_daemon_and_bridge() {
    let node = Node::new("status", &["10.244.1.0/24"]);
    let status = || node.call("STATUS", &json!({}));
    assert_eq!(status().expect_err("no daemon answers")["code"], 51);
    let path = node.run_dir().join(SOCKET_NAME);
    let daemon = UnixListener::bind(&path).expect("the socket is made");
    assert_eq!(status().expect("the node is ready"), Value::Null);
    node.ip(&["link", "set", BRIDGE, "down"]);
    assert_eq!(status().expect_err("the bridge is down")["code"], 51);
    node.ip(&["link", "set", BRIDGE, "up"]);
    status().expect("the node is ready");
    NodeFile::remove(&node.run_dir()).expect("the node file is removed");
    assert_eq!(status().expect_err("the daemon has withdrawn")["code"], 50);
    drop(daemon);
}
