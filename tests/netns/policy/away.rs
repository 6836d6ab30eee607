//! A source that is away, also when the daemon starts: what was closed stays closed.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use culvert_lab::{Lab, Node, wait_until};
use culvert_nft::{
    Base, Batch, Chain, ChainKind, Expression, Field, Hook, Socket, Table, TableFamily, TableFlags,
    Verdict,
};

use super::directory::Directory;
use super::talk::{
    Server, assert_never, can_connect, connect, echoes, eventually_connects, eventually_refuses,
};
use super::{rules, wait_for_rules};
use crate::harness::{REPAIR_LIMIT, SOON, run};

/// What a daemon keeps of what the source has told.
fn memory(node: &Node) -> PathBuf {
    node.state_dir().join("policies.jsonl")
}

/// Waits until the copy on disk has, or lacks, a text.
fn wait_for_memory(node: &Node, text: &str, is_there: bool) {
    let has = || fs::read_to_string(memory(node)).is_ok_and(|kept| kept.contains(text));
    wait_until(SOON, &format!("the copy on disk, {text}: {is_there}"), || has() == is_there)
        .unwrap();
}

/// Takes the directory away from its daemons, until this is dropped.
struct Away(PathBuf, PathBuf);

impl Away {
    fn take(directory: &Directory) -> Self {
        let path = directory.path("");
        let place =
            path.with_file_name(format!("{}-away", path.file_name().unwrap().to_string_lossy()));
        fs::rename(&path, &place).unwrap();
        Self(path, place)
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        fs::rename(&self.1, &self.0).unwrap();
    }
}

/// What `nft` does, whoever owns the table.
fn remove_tables(lab: &Lab) {
    for table in ["inet culvert-policy", "bridge culvert-policy"] {
        let words: Vec<&str> = table.split(' ').collect();
        run(lab.node(1).netns(), "nft", &[&["delete", "table"], &words[..]].concat());
    }
}

fn policy(lab: &Lab) -> serde_json::Value {
    lab.node(1).status().unwrap()["policy"].clone()
}

/// Lets node2-pod1 alone in to node1-pod1.
const FAR_ALONE: &str = "[{ from: [{ podSelector: { matchLabels: { pod: node2-pod1 } } }] }]";

#[test]
fn what_was_known_is_enforced_after_a_restart_without_the_source() {
    let directory = Directory::new();
    let lab = directory.lab("nt-policyaway").pods(2).up().unwrap();
    let (node, server) = (lab.node(1), lab.pod(1, 1));
    let (near, far) = (lab.pod(1, 2), lab.pod(2, 1));
    let _server = Server::start(server.netns(), 80);
    directory.isolate("node1-pod1", FAR_ALONE);
    eventually_refuses(near.netns(), server.ipv4(), 80);
    wait_for_memory(node, "node2-pod1", true);
    let whole = rules(&lab, 1);
    assert!(whole.contains("default/node1-pod1 ingress[0]"), "{whole}");
    let is_so = || {
        eventually_refuses(near.netns(), server.ipv4(), 80);
        eventually_connects(far.netns(), server.ipv4(), 80);
    };

    let away = Away::take(&directory);
    // While the daemon runs; and the kernel has the rules when the next one starts.
    wait_until(SOON, "the source to be missed", || !policy(&lab)["source_error"].is_null())
        .unwrap();
    is_so();
    node.kill9().unwrap();
    node.start().unwrap();
    is_so();
    assert!(!policy(&lab)["source_error"].is_null());
    // Neither the kernel nor anybody else has them but the disk, as after a reboot.
    node.kill9().unwrap();
    remove_tables(&lab);
    eventually_connects(near.netns(), server.ipv4(), 80);
    node.start().unwrap();
    is_so();
    // A pod that was known starts with its rules; one that nobody has told of does not.
    let known = near;
    node.cni("DEL", &known).unwrap();
    node.cni("ADD", &known).unwrap();
    eventually_refuses(known.netns(), server.ipv4(), 80);
    let explained =
        node.culvert(&["explain", &far.ipv4().to_string(), &server.ipv4().to_string(), "--json"]);
    assert!(explained.unwrap().contains("default/node1-pod1"), "what is known is known to all");
    drop(away);
    wait_until(SOON, "the source to be followed", || policy(&lab)["source_error"].is_null())
        .unwrap();
    directory.isolate("node1-pod1", "[{}]");
    eventually_connects(known.netns(), server.ipv4(), 80);
}

#[test]
fn daemon_that_waits_for_a_source_says_so_and_is_not_in_error() {
    let directory = Directory::new();
    let lab = directory.lab("nt-policywait").pods(1).up().unwrap();
    let node = lab.node(1);
    node.stop().unwrap();
    fs::remove_file(memory(node)).unwrap();
    let away = Away::take(&directory);
    let before = node.log().len();
    node.spawn().unwrap();
    let said = || node.log()[before..].to_owned();
    wait_until(SOON, "the daemon to say that it waits", || {
        said().contains("waiting for the source of policies")
    })
    .unwrap();
    let is_missing =
        |(code, body): (u16, String)| code == 503 && body.contains("no policies are known yet");
    wait_until(SOON, "the policies to be missing", || node.http("/readyz").is_ok_and(is_missing))
        .unwrap();
    assert!(!said().contains("ERROR"), "{}", said());
    drop(away);
    node.wait_ready().unwrap();
    assert!(policy(&lab)["error"].is_null());
}

#[test]
fn rules_that_are_newer_than_the_copy_on_disk_stay() {
    let directory = Directory::new();
    let lab = directory.lab("nt-policyolder").pods(2).up().unwrap();
    let (node, server, near) = (lab.node(1), lab.pod(1, 1), lab.pod(1, 2));
    let _server = Server::start(server.netns(), 80);
    directory.isolate("node1-pod1", "[{}]");
    wait_for_rules(&lab, "default/node1-pod1 ingress[0]");
    wait_for_memory(node, "\"ingress\":[{}]", true);
    let older = fs::read(memory(node)).unwrap();
    directory.isolate("node1-pod1", "[]");
    eventually_refuses(near.netns(), server.ipv4(), 80);
    wait_for_memory(node, "\"ingress\":[{}]", false);
    // The copy of before the change, as after a daemon that died between the rules and the copy.
    node.kill9().unwrap();
    fs::write(memory(node), older).unwrap();
    let away = Away::take(&directory);
    node.spawn().unwrap();
    let said = || {
        let error = policy_error(node);
        error.contains("the rules of before stay").then_some(error)
    };
    wait_until(SOON, "the daemon to say so", || said().is_some()).unwrap();
    assert_never(|| can_connect(near.netns(), server.ipv4(), 80));
    let (code, body) = node.http("/readyz").unwrap();
    assert_eq!(code, 503, "{body}");
    // A pod does not start by what is known of so little.
    let refusal = format!("{:#}", node.cni("ADD", &near).unwrap_err());
    assert!(!refusal.is_empty());
    // The source is there again.
    drop(away);
    node.wait_ready().unwrap();
    assert_never(|| can_connect(near.netns(), server.ipv4(), 80));
}

fn policy_error(node: &Node) -> String {
    let status = node.status();
    let error = status.ok().map(|status| status["policy"]["error"].clone());
    error.and_then(|error| error.as_str().map(str::to_owned)).unwrap_or_default()
}

#[test]
fn damaged_copy_opens_nothing() {
    let directory = Directory::new();
    let lab = directory.lab("nt-policydmg").pods(2).up().unwrap();
    let (node, server, near) = (lab.node(1), lab.pod(1, 1), lab.pod(1, 2));
    let _server = Server::start(server.netns(), 80);
    directory.isolate("node1-pod1", FAR_ALONE);
    eventually_refuses(near.netns(), server.ipv4(), 80);
    wait_for_memory(node, "node2-pod1", true);
    let whole = fs::read(memory(node)).unwrap();
    let away = Away::take(&directory);
    node.kill9().unwrap();
    for damage in [&whole[..whole.len() / 2], b"", b"\xff\xfe"] {
        damage_memory(node, damage);
        // The kernel has the rules: they stay.
        node.spawn().unwrap();
        wait_until(SOON, "the daemon to look", || !policy_error(node).is_empty()).unwrap();
        assert_never(|| can_connect(near.netns(), server.ipv4(), 80));
        node.kill9().unwrap();
    }
    // And without them every pod is closed, but for its own node.
    remove_tables(&lab);
    node.spawn().unwrap();
    eventually_refuses(near.netns(), server.ipv4(), 80);
    let address = near.ipv4();
    let _near = Server::start(near.netns(), 81);
    assert_never(|| can_connect(server.netns(), address, 81));
    wait_until(SOON, "the node to reach its pod", || can_connect(node.netns(), address, 81))
        .unwrap();
    assert!(policy_error(node).contains("closed until the source tells"), "{}", policy_error(node));
    drop(away);
    node.wait_ready().unwrap();
    eventually_connects(server.netns(), address, 81);
    eventually_refuses(near.netns(), server.ipv4(), 80);
}

fn damage_memory(node: &Node, bytes: &[u8]) {
    let path: &Path = &memory(node);
    fs::write(path, bytes).unwrap();
}

/// Has a daemon of which `order` begins the names of files do something.
fn order_to(node: &Node, order: &Path, what: &str) {
    let path = format!("{}-{}", order.display(), node.pid().unwrap());
    fs::write(path, what).unwrap();
}

/// Between which steps of enforcement a daemon dies, and the next one goes on.
#[test]
fn daemon_that_dies_in_any_step_leaves_nothing_open_that_was_closed() {
    let orders = tempfile::tempdir().unwrap();
    let order = orders.path().join("order");
    let directory = Directory::new();
    let lab = directory.lab("nt-policysteps").pods(2);
    let lab = lab.daemon_env("CULVERT_TEST_POLICY_ORDER", order.to_str().unwrap()).up().unwrap();
    let (node, server, near) = (lab.node(1), lab.pod(1, 1), lab.pod(1, 2));
    let far = lab.pod(2, 1);
    let _servers = [80, 81].map(|port| Server::start(server.netns(), port));
    let dies = |step: &str| {
        order_to(node, &order, &format!("die {step}"));
        move || node.pid().is_none()
    };
    let goes_on = || node.start().unwrap();
    directory.isolate("node1-pod1", "[{ ports: [{ port: 80 }] }]");
    eventually_refuses(near.netns(), server.ipv4(), 81);
    let steps = ["begin", "transaction", "rules", "steering", "cut", "memory"];
    for (round, step) in steps.into_iter().enumerate() {
        let is_dead = dies(step);
        // Port 81 is closed before and after.
        let allowed = if round % 2 == 0 { "node2-pod1" } else { "node1-pod2" };
        directory.isolate(
            "node1-pod1",
            &format!(
                "[{{ from: [{{ podSelector: {{ matchLabels: {{ pod: {allowed} }} }} }}], \
                 ports: [{{ port: 80 }}] }}]"
            ),
        );
        wait_until(REPAIR_LIMIT, &format!("the daemon to die at {step}"), is_dead).unwrap();
        for from in [&near, &far] {
            assert_never(|| can_connect(from.netns(), server.ipv4(), 81));
        }
        goes_on();
        let (in_, out) = if round % 2 == 0 { (&far, &near) } else { (&near, &far) };
        eventually_connects(in_.netns(), server.ipv4(), 80);
        eventually_refuses(out.netns(), server.ipv4(), 80);
        for from in [&near, &far] {
            assert_never(|| can_connect(from.netns(), server.ipv4(), 81));
        }
    }
    // A pod that starts, and one that goes.
    directory.isolate("node1-pod2", "[]");
    let _port = Server::start(near.netns(), 82);
    for (step, verb) in [("leaving", "DEL"), ("attached", "ADD"), ("forgotten", "ADD")] {
        if verb == "ADD" && node.cni("DEL", &near).is_err() {
            panic!("a pod that did not start can be removed");
        }
        let is_dead = dies(step);
        let _told = node.cni(verb, &near);
        wait_until(REPAIR_LIMIT, &format!("the daemon to die at {step}"), is_dead).unwrap();
        goes_on();
        if verb == "ADD" {
            node.cni("DEL", &near).unwrap();
        }
        let added = node.cni("ADD", &near).unwrap();
        let address = added["ips"][0]["address"].as_str().unwrap();
        let address = address.parse::<ipnet::IpNet>().unwrap().addr();
        assert_never(|| can_connect(server.netns(), address, 82));
        wait_until(SOON, "the node to reach it", || can_connect(node.netns(), address, 82))
            .unwrap();
    }
}

#[test]
fn what_the_kernel_refuses_leaves_closed_what_was_closed() {
    let orders = tempfile::tempdir().unwrap();
    let order = orders.path().join("order");
    let directory = Directory::new();
    let lab = directory.lab("nt-policyref").pods(3);
    let lab = lab.daemon_env("CULVERT_TEST_POLICY_ORDER", order.to_str().unwrap()).up().unwrap();
    let (node, server, near, other) = (lab.node(1), lab.pod(1, 1), lab.pod(1, 2), lab.pod(1, 3));
    let _servers = [&server, &other].map(|pod| Server::start(pod.netns(), 80));
    directory.isolate("node1-pod1", "[{ ports: [{ port: 80 }] }]");
    directory.isolate("node1-pod3", "[]");
    wait_for_rules(&lab, "default/node1-pod1 ingress[0]");
    eventually_refuses(near.netns(), other.ipv4(), 80);
    eventually_connects(near.netns(), server.ipv4(), 80);
    // One policy of which the kernel takes no rule: its pod is closed, and no other.
    order_to(node, &order, "refuse i-default/node1-pod1");
    directory.isolate("node1-pod1", "[{ ports: [{ port: 80 }, { port: 81 }] }]");
    eventually_refuses(near.netns(), server.ipv4(), 80);
    let refused = || policy(&lab)["refused"].as_array().map_or(0, Vec::len);
    wait_until(SOON, "the policy to be said to be refused", || refused() == 1).unwrap();
    let said = policy(&lab)["refused"][0].as_str().unwrap().to_owned();
    for part in ["default/node1-pod1", &server.ipv4().to_string()] {
        assert!(said.contains(part), "{said}");
    }
    let (code, body) = node.http("/readyz").unwrap();
    assert!(code == 503 && body.contains("refuses the rules"), "{code}: {body}");
    let (_, metrics) = node.http("/metrics").unwrap();
    assert!(metrics.contains("culvert_policy_refused 1"), "{metrics}");
    assert!(can_connect(node.netns(), server.ipv4(), 80), "its own node");
    assert_never(|| can_connect(near.netns(), other.ipv4(), 80));
    // It is tried again with the next change, and taken.
    order_to(node, &order, "");
    directory.isolate("node1-pod1", "[{ ports: [{ port: 80 }] }]");
    eventually_connects(near.netns(), server.ipv4(), 80);
    node.wait_ready().unwrap();
    assert_eq!(refused(), 0);

    // Somebody else has the table: all is refused, what was closed stays so, and it is tried again.
    node.kill9().unwrap();
    let IpAddr::V4(closed) = other.ipv4() else { panic!("of IPv4") };
    let owner = owner_of_the_table(&lab, closed);
    directory.isolate("node1-pod3", "[{}]");
    node.spawn().unwrap();
    wait_until(SOON, "the daemon to say so", || {
        policy_error(node).contains("putting the rules of policies in place")
    })
    .unwrap();
    for _again in 0..2 {
        assert_never(|| can_connect(near.netns(), other.ipv4(), 80));
    }
    drop(owner);
    node.wait_ready().unwrap();
    eventually_connects(near.netns(), other.ipv4(), 80);
    assert!(policy(&lab)["error"].is_null());
}

/// A socket that owns the table of rules, which is one that drops what goes to `closed`, until it
/// is closed.
fn owner_of_the_table(lab: &Lab, closed: Ipv4Addr) -> Socket {
    let to_pod = Field { base: Base::Network, offset: 16, len: 4 };
    let drops = [
        &Expression::is_ipv4()[..],
        &Expression::field_is(to_pod, &closed.octets()),
        &[Expression::Verdict(Verdict::Drop)],
    ];
    let table = Table {
        family: TableFamily::Inet,
        name: "culvert-policy",
        sets: Vec::new(),
        chains: vec![Chain {
            name: "check",
            kind: ChainKind::Filter,
            hook: Hook::Postrouting,
            priority: 99,
            rules: vec![drops.concat()],
        }],
        led_to: Vec::new(),
    };
    let own = || {
        let mut socket = Socket::open().unwrap();
        let mut batch = Batch::new(table.family);
        batch.replace_flagged(&table, TableFlags::OwnedAndLasting);
        socket.commit(&batch).unwrap();
        socket
    };
    lab.node(1).netns().run(own).unwrap()
}

/// The longest that a copy may be behind: a second after the rules, and the time to write it.
#[test]
fn copy_on_disk_follows_within_seconds() {
    let directory = Directory::new();
    let lab = directory.lab("nt-policycopy").up().unwrap();
    for round in 0..3 {
        directory.isolate("node1-pod1", &format!("[{{ ports: [{{ port: {} }}] }}]", 100 + round));
        let text = format!("\"port\":{}", 100 + round);
        let has = || fs::read_to_string(memory(lab.node(1))).is_ok_and(|kept| kept.contains(&text));
        wait_until(Duration::from_secs(5), &text, has).unwrap();
    }
}

/// The daemon does not wait for ever for the rules of a change, which come into force all the same.
#[test]
fn what_a_change_forbids_that_takes_too_long_is_cut_all_the_same() {
    const LATE: Duration = Duration::from_secs(40);
    let orders = tempfile::tempdir().unwrap();
    let order = orders.path().join("order");
    let directory = Directory::new();
    let lab = directory.lab("nt-policylate").pods(2);
    let lab = lab.daemon_env("CULVERT_TEST_POLICY_ORDER", order.to_str().unwrap()).up().unwrap();
    let (node, server, near) = (lab.node(1), lab.pod(1, 1), lab.pod(1, 2));
    let _server = Server::start(server.netns(), 80);
    directory.isolate("node1-pod1", "[{}]");
    wait_for_rules(&lab, "default/node1-pod1 ingress[0]");
    let mut stream = connect(near.netns(), server.ipv4(), 80).unwrap();
    assert!(echoes(&mut stream));
    order_to(node, &order, "stall rules");
    directory.isolate("node1-pod1", "[]");
    wait_until(LATE, "the daemon to stop waiting", || {
        policy_error(node).contains("waiting for the rules")
    })
    .unwrap();
    assert!(echoes(&mut stream), "nobody has gone through connections yet");
    order_to(node, &order, "");
    wait_until(SOON, "the connection to be cut", || !echoes(&mut stream)).unwrap();
}
