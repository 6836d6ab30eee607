//! Policies that come, change and go while connections are open, and rules that somebody breaks.

use std::io::Write as _;
use std::net::{TcpStream, UdpSocket};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use culvert_lab::{Lab, Netns, wait_until};

use super::directory::Directory;
use super::talk::{Server, connect, echoes, eventually_connects, eventually_refuses};
use super::{bridge_calls, rules, set_bridge_calls, wait_for_rules};
use crate::harness::{FAMILIES, REPAIR_LIMIT, run};

/// How soon a connection that is no longer allowed is cut.
const CUT: Duration = Duration::from_secs(1);

/// Room for a machine that is busy with other tests.
const SLACK: Duration = Duration::from_secs(3);

/// What lets everybody in.
const EVERYBODY: &str = "[{}]";

/// A connection of which both ends are here.
struct Pair {
    client: TcpStream,
    server: TcpStream,
}

impl Pair {
    #[track_caller]
    fn open(from: &Netns, to: &Netns, address: std::net::IpAddr) -> Self {
        let listener = to.run(|| std::net::TcpListener::bind((address, 0))).unwrap().unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = connect(from, address, port).unwrap();
        let (server, _) = listener.accept().unwrap();
        for stream in [&client, &server] {
            stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            stream.set_nodelay(true).unwrap();
        }
        Self { client, server }
    }

    /// Whether a byte that one end sends gets to the other.
    fn passes(from: &mut TcpStream, to: &mut TcpStream) -> bool {
        use std::io::Read as _;
        let mut buffer = [0; 4096];
        // What was sent before and is repeated now counts too.
        from.write_all(b"x").is_ok() && matches!(to.read(&mut buffer), Ok(1..))
    }

    fn passes_up(&mut self) -> bool {
        Self::passes(&mut self.client, &mut self.server)
    }

    fn passes_down(&mut self) -> bool {
        Self::passes(&mut self.server, &mut self.client)
    }
}

#[test]
fn connection_that_is_no_longer_allowed_is_cut_whoever_sends() {
    let directory = Directory::new();
    let lab = directory.lab("nt-policycut").pods(2).up().unwrap();
    let (server, near, far) = (lab.pod(1, 1), lab.pod(1, 2), lab.pod(2, 1));
    for calls in bridge_calls(lab.node(1).netns()) {
        set_bridge_calls(lab.node(1).netns(), calls);
        directory.isolate("node1-pod1", EVERYBODY);
        wait_for_rules(&lab, "default/node1-pod1 ingress[0]");
        for family in FAMILIES {
            let mut pairs: Vec<_> = [&near, &far]
                .map(|from| Pair::open(from.netns(), server.netns(), server.address(family)))
                .into();
            assert!(pairs.iter_mut().all(|pair| pair.passes_up() && pair.passes_down()));
            directory.isolate("node1-pod1", "[]");
            for pair in &mut pairs {
                // The server sends first, which begins no connection of its own.
                wait_until(CUT + SLACK, "the server to be cut", || !pair.passes_down()).unwrap();
                wait_until(CUT + SLACK, "the client to be cut", || !pair.passes_up()).unwrap();
            }
            for _again in 0..5 {
                assert!(!pairs.iter_mut().any(Pair::passes_down), "picked up again");
                assert!(!pairs.iter_mut().any(Pair::passes_up), "picked up again");
            }
            directory.isolate("node1-pod1", EVERYBODY);
            wait_for_rules(&lab, "default/node1-pod1 ingress[0]");
        }
    }
}

#[test]
fn connection_survives_rules_that_still_allow_it() {
    let directory = Directory::new();
    let lab = directory.lab("nt-policylive").pods(2).up().unwrap();
    let (server, near, far) = (lab.pod(1, 1), lab.pod(1, 2), lab.pod(2, 1));
    let _server = Server::start(server.netns(), 80);
    directory.isolate("node1-pod1", "[{ ports: [{ port: 80 }] }]");
    wait_for_rules(&lab, "default/node1-pod1 ingress[0]");
    for family in FAMILIES {
        let mut streams: Vec<_> = [&near, &far]
            .map(|from| connect(from.netns(), server.address(family), 80).unwrap())
            .into();
        assert!(streams.iter_mut().all(echoes));
        let changes = ["[{ ports: [{ port: 80 }, { port: 81 }] }]", EVERYBODY];
        for (change, after) in changes.into_iter().zip(["port-", "default/node1-pod1"]) {
            directory.isolate("node1-pod1", change);
            wait_for_rules(&lab, after);
            assert!(streams.iter_mut().all(echoes), "after {change}");
        }
        directory.release("node1-pod1");
        let is_gone = || !rules(&lab, 1).contains("default/node1-pod1");
        wait_until(REPAIR_LIMIT, "the policy to be gone", is_gone).unwrap();
        assert!(streams.iter_mut().all(echoes), "after the last policy");
        directory.isolate("node1-pod1", "[{ ports: [{ port: 80 }] }]");
        wait_for_rules(&lab, "default/node1-pod1 ingress[0]");
        assert!(streams.iter_mut().all(echoes), "after the first policy");
    }
}

#[test]
fn rules_outlive_a_killed_daemon_and_the_next_one_takes_them_over() {
    let directory = Directory::new();
    let lab = directory.lab("nt-policykill").pods(2).up().unwrap();
    let (server, near, far) = (lab.pod(1, 1), lab.pod(1, 2), lab.pod(2, 1));
    let _server = Server::start(server.netns(), 80);
    directory.isolate(
        "node1-pod1",
        "[{ from: [{ podSelector: { matchLabels: { pod: node2-pod1 } } }] }]",
    );
    let address = server.ipv4();
    eventually_refuses(near.netns(), address, 80);
    eventually_connects(far.netns(), address, 80);
    let mut stream = connect(far.netns(), address, 80).unwrap();
    assert!(echoes(&mut stream));
    lab.node(1).kill9().unwrap();
    eventually_refuses(near.netns(), address, 80);
    // Meanwhile the policy has become another.
    directory.isolate(
        "node1-pod1",
        "[{ from: [{ podSelector: { matchLabels: { pod: node1-pod2 } } }] }]",
    );
    lab.node(1).start().unwrap();
    eventually_connects(near.netns(), address, 80);
    eventually_refuses(far.netns(), address, 80);
    directory.isolate("node1-pod1", EVERYBODY);
    eventually_connects(far.netns(), address, 80);
}

#[test]
fn rules_that_somebody_removes_or_changes_come_back() {
    let directory = Directory::new();
    survives_damage(&directory, &directory.lab("nt-policyrep").pods(2).up().unwrap());
}

#[test]
fn rules_that_somebody_removes_or_changes_come_back_where_tables_have_no_owner() {
    let directory = Directory::new();
    let lab = directory.lab("nt-policyshr").pods(2);
    // As on kernels before 6.9.
    let lab = lab.daemon_env("CULVERT_TEST_SHARED_TABLES", "1").up().unwrap();
    survives_damage(&directory, &lab);
    assert!(!rules(&lab, 1).contains("owner"));
    assert!(lab.node(1).status().unwrap()["policy"]["repairs"].as_u64().unwrap() > 0);
}

fn survives_damage(directory: &Directory, lab: &Lab) {
    let (node, server, near) = (lab.node(1), lab.pod(1, 1), lab.pod(1, 2));
    let _server = Server::start(server.netns(), 80);
    directory.isolate("node1-pod1", "[]");
    eventually_refuses(near.netns(), server.ipv4(), 80);
    let whole = without_counters(&rules(lab, 1));
    for damage in [
        "flush ruleset",
        "delete table inet culvert-policy",
        "delete table bridge culvert-policy",
        "flush chain inet culvert-policy check",
        "flush chain bridge culvert-policy steer",
        "flush set inet culvert-policy isolated-4",
        "add table inet culvert-policy { flags dormant; }",
    ] {
        // Refused where the tables belong to the daemon.
        let words: Vec<_> = damage.split(' ').collect();
        let _refused = node.netns().command("nft").args(words).output().unwrap();
        let is_whole = || without_counters(&rules(lab, 1)) == whole;
        wait_until(REPAIR_LIMIT, &format!("the rules after `nft {damage}`"), is_whole).unwrap();
        eventually_refuses(near.netns(), server.ipv4(), 80);
    }
}

#[test]
fn without_policies_there_is_nothing_of_them() {
    let directory = Directory::new();
    let lab = directory.lab("nt-policyoff").pods(2).up().unwrap();
    let (node, server, near) = (lab.node(1), lab.pod(1, 1), lab.pod(1, 2));
    let _server = Server::start(server.netns(), 80);
    directory.isolate("node1-pod1", "[]");
    eventually_refuses(near.netns(), server.ipv4(), 80);
    assert!(rules(&lab, 1).contains("culvert-policy"));
    node.stop().unwrap();
    eventually_refuses(near.netns(), server.ipv4(), 80);
    node.write_config(&["[policy]\nmode = \"off\""]).unwrap();
    let others = || {
        let all = run(node.netns(), "nft", &["list", "ruleset"]);
        // The claim goes with the daemon.
        let is_other = |table: &&str| {
            !["culvert-policy", "culvert-claim"].iter().any(|name| table.contains(name))
        };
        let tables = all.split("\n}").filter(is_other).map(without_counters);
        tables.filter(|table| !table.is_empty()).collect::<Vec<_>>()
    };
    let before = others();
    node.start().unwrap();
    eventually_connects(near.netns(), server.ipv4(), 80);
    assert_eq!(rules(&lab, 1), "");
    assert_eq!(others(), before);
    let file = std::fs::read_to_string(node.run_dir().join("node.json")).unwrap();
    assert!(!file.contains("policy"), "{file}");
}

#[test]
fn datagrams_of_a_client_are_cut_and_a_reply_is_let_through() {
    let directory = Directory::new();
    let lab = directory.lab("nt-policyudp").up().unwrap();
    let (server, client) = (lab.pod(1, 1), lab.pod(2, 1));
    directory.isolate("node1-pod1", "[{ ports: [{ port: 53, protocol: UDP }] }]");
    wait_for_rules(&lab, "default/node1-pod1 ingress[0]");
    for family in FAMILIES {
        let bind = |netns: &Netns, port| {
            let address = if family == overlay_proto::Family::V4 { "0.0.0.0" } else { "::" };
            let socket = netns.run(|| UdpSocket::bind((address, port))).unwrap().unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            socket
        };
        let (serving, asking) = (bind(server.netns(), 53), bind(client.netns(), 0));
        let asks = || {
            let mut buffer = [0; 16];
            asking.send_to(b"?", (server.address(family), 53)).unwrap();
            let Ok((_, from)) = serving.recv_from(&mut buffer) else { return false };
            serving.send_to(b"!", from).unwrap();
            asking.recv_from(&mut buffer).is_ok()
        };
        wait_until(REPAIR_LIMIT, "an answer", asks).unwrap();
        directory.isolate("node1-pod1", "[{ ports: [{ port: 54, protocol: UDP }] }]");
        wait_until(CUT + SLACK, "the client to be cut", || !asks()).unwrap();
        for _again in 0..3 {
            assert!(!asks());
        }
        directory.isolate("node1-pod1", "[{ ports: [{ port: 53, protocol: UDP }] }]");
        wait_until(REPAIR_LIMIT, "an answer", asks).unwrap();
    }
}

/// A server that only answers, and takes its time: when its client is cut, an answer is under way.
#[test]
fn datagrams_are_cut_although_an_answer_is_under_way() {
    let directory = Directory::new();
    let lab = directory.lab("nt-policyudp2").up().unwrap();
    let (server, client) = (lab.pod(1, 1), lab.pod(2, 1));
    directory.isolate("node1-pod1", "[{ ports: [{ port: 53, protocol: UDP }] }]");
    wait_for_rules(&lab, "default/node1-pod1 ingress[0]");
    let bind = |netns: &Netns, port| {
        let socket = netns.run(|| UdpSocket::bind(("0.0.0.0", port))).unwrap().unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        socket
    };
    let serving = bind(server.netns(), 53);
    let clients: Vec<UdpSocket> = (0..20).map(|_| bind(client.netns(), 0)).collect();
    let stop = AtomicBool::new(false);
    let answered: Vec<AtomicU64> = clients.iter().map(|_| AtomicU64::new(0)).collect();
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = [0; 16];
            while !stop.load(Ordering::Relaxed) {
                let Ok((_, from)) = serving.recv_from(&mut buffer) else { continue };
                thread::sleep(Duration::from_millis(1));
                let _gone = serving.send_to(b"!", from);
            }
        });
        for (socket, answered) in clients.iter().zip(&answered) {
            let (stop, to) = (&stop, server.ipv4());
            scope.spawn(move || {
                let mut buffer = [0; 16];
                while !stop.load(Ordering::Relaxed) {
                    let _cut = socket.send_to(b"?", (to, 53));
                    let is_answered = socket.recv_from(&mut buffer).is_ok();
                    answered.fetch_add(is_answered.into(), Ordering::Relaxed);
                }
            });
        }
        let counts = || answered.iter().map(|it| it.load(Ordering::Relaxed)).collect::<Vec<_>>();
        // Whether each client has been answered, or any, since they were looked at last.
        let hears = |all: bool| {
            let before = counts();
            thread::sleep(Duration::from_millis(500));
            let mut heard = before.iter().zip(counts()).map(|(before, now)| now > *before);
            if all { heard.all(|heard| heard) } else { heard.any(|heard| heard) }
        };
        let tried = catch_unwind(AssertUnwindSafe(|| {
            wait_until(REPAIR_LIMIT, "answers", || hears(true)).unwrap();
            directory.isolate("node1-pod1", "[{ ports: [{ port: 54, protocol: UDP }] }]");
            wait_until(CUT + SLACK, "the clients to be cut", || !hears(false)).unwrap();
            assert!(!hears(false));
            directory.isolate("node1-pod1", "[{ ports: [{ port: 53, protocol: UDP }] }]");
            wait_until(REPAIR_LIMIT, "answers again", || hears(true)).unwrap();
        }));
        stop.store(true, Ordering::Relaxed);
        if let Err(panic) = tried {
            resume_unwind(panic);
        }
    });
}

/// A listing without what counters say.
fn without_counters(listed: &str) -> String {
    let mut words = Vec::new();
    let mut skip = 0;
    for word in listed.split_whitespace() {
        if skip > 0 {
            skip -= 1;
        } else if word == "counter" {
            skip = 4;
            words.push(word);
        } else {
            words.push(word);
        }
    }
    words.join(" ")
}
