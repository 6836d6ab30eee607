//! A hundred changes of policies a second: what every version forbids is never open, and what every
//! version allows always is.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use culvert_lab::{Pod, clock, wait_until};

use super::directory::Directory;
use super::talk::{Server, can_connect, eventually_refuses};
use super::wait_for_rules;
use crate::harness::{FAMILIES, SOON};

const CHANGES_PER_SECOND: u32 = 100;
const SECONDS: u32 = 10;

/// Always forbidden, and always allowed.
const CLOSED: u16 = 9081;
const OPEN: u16 = 80;

/// One of many versions: other ports, other peers, other rules, another number of policies.
fn version(number: u32) -> String {
    let policy = |name: u32, ports: &str| {
        format!(
            "
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{ name: storm{name}, namespace: default }}
spec:
  podSelector: {{ matchLabels: {{ pod: node1-pod1 }} }}
  policyTypes: [Ingress]
  ingress:
  - ports: [{{ port: {OPEN} }}]
  - from: [{{ ipBlock: {{ cidr: 10.{}.0.0/16 }} }}, {{ podSelector: {{ matchLabels: {{ pod: node2-pod{} }} }} }}]
    ports: [{ports}]
",
            number % 200,
            1 + number % 3
        )
    };
    let ports = format!(
        "{{ port: {} }}, {{ port: {}, protocol: UDP }}",
        100 + number % 700,
        number % 900 + 1
    );
    (0..1 + number % 4).map(|name| policy(name, &ports)).collect()
}

/// Sends to the pod's closed port from new sockets all the time, and counts what is sent.
fn knock(from: &Pod, to: &Pod, stop: &AtomicBool) -> u64 {
    let mut count = 0;
    from.netns()
        .run(|| {
            while !stop.load(Ordering::Relaxed) {
                for family in FAMILIES {
                    let any = SocketAddr::new(from.address(family), 0);
                    let to = SocketAddr::new(to.address(family), CLOSED);
                    let sent = UdpSocket::bind(any).and_then(|socket| socket.send_to(b"in?", to));
                    count += u64::from(sent.is_ok());
                }
                thread::sleep(Duration::from_millis(1));
            }
        })
        .unwrap();
    count
}

#[test]
fn hundred_changes_a_second_open_nothing_and_close_nothing() {
    let directory = Directory::new();
    let lab = directory.lab("nt-policystorm").pods(2).up().unwrap();
    let (server, near, far) = (lab.pod(1, 1), lab.pod(1, 2), lab.pod(2, 1));
    let _server = Server::start(server.netns(), OPEN);
    let bind = || UdpSocket::bind(("::", CLOSED));
    let closed = server.netns().run(bind).unwrap().unwrap();
    closed.set_nonblocking(true).unwrap();
    directory.write("storm.yaml", &version(0));
    wait_for_rules(&lab, "default/storm0 ingress[1]");
    eventually_refuses(near.netns(), server.ipv4(), CLOSED);
    let updates = || lab.node(1).status().unwrap()["policy"]["updates"].as_u64().unwrap();
    let before = updates();
    let stop = AtomicBool::new(false);
    let (refused, connected) = (AtomicU64::new(0), AtomicU64::new(0));
    let knocks: u64 = thread::scope(|scope| {
        let knocking: Vec<_> =
            [&near, &far].map(|from| scope.spawn(|| knock(from, &server, &stop))).into();
        for (from, family) in [(&near, FAMILIES[0]), (&far, FAMILIES[1])] {
            let (server, stop, refused, connected) = (&server, &stop, &refused, &connected);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    // One repetition of TCP's comes after a second, beyond what an attempt waits.
                    let is_open = can_connect(from.netns(), server.address(family), OPEN);
                    (if is_open { connected } else { refused }).fetch_add(1, Ordering::Relaxed);
                    thread::sleep(Duration::from_millis(2));
                }
            });
        }
        let start = clock::now();
        for number in 1..=CHANGES_PER_SECOND * SECONDS {
            directory.write("storm.yaml", &version(number));
            let due = Duration::from_secs(1) * number / CHANGES_PER_SECOND;
            thread::sleep(due.saturating_sub(start.elapsed()));
        }
        stop.store(true, Ordering::Relaxed);
        knocking.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    let changed = updates() - before;
    let mut buffer = [0; 16];
    let leaked = std::iter::from_fn(|| closed.recv_from(&mut buffer).ok()).count();
    let (refused, connected) = (refused.into_inner(), connected.into_inner());
    println!(
        "{changed} updates; {knocks} datagrams, {leaked} leaked; {connected} connections, {refused} not"
    );
    assert_eq!(leaked, 0, "of {knocks}");
    assert_eq!(refused, 0, "of {connected} that every version allows");
    assert!(knocks > 1_000 && connected > 100, "{knocks}, {connected}");
    assert!(changed >= 10, "only {changed} updates");
    // The last version is what is in force, and what passes it passes.
    let last = version(CHANGES_PER_SECOND * SECONDS);
    let count = last.matches("kind: NetworkPolicy").count();
    let is_last = || lab.node(1).status().unwrap()["policy"]["policies"] == count;
    wait_until(SOON, "the last version", is_last).unwrap();
    directory.remove("storm.yaml");
    let arrives = || {
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let knocking = scope.spawn(|| knock(&near, &server, &stop));
            thread::sleep(Duration::from_millis(20));
            stop.store(true, Ordering::Relaxed);
            knocking.join().unwrap();
        });
        closed.recv_from(&mut [0; 16]).is_ok()
    };
    wait_until(SOON, "the datagrams without any policy", arrives).unwrap();
}
