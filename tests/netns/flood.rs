//! Whatever a node sends at the tunnel's port, the others go on talking.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use culvert_lab::clock;
use culvert_lab::{Node, UNDERLAY_PORT, wait_until};

use crate::harness::{FAMILIES, SOON, assert_reaches, lab, quick_ping};
use crate::packets::mark_as_daemon;

/// How long the flood lasts: hundreds of thousands of datagrams.
const FLOOD: Duration = Duration::from_secs(2);

/// What may come on top of the daemon's memory: buffers are allocated at start.
const GROWTH_LIMIT_KIB: u64 = 8 * 1024;

#[test]
fn a_flood_of_garbage_neither_stops_nor_grows_the_daemon() {
    let lab = lab("nt-flood").nodes(3).up().unwrap();
    let node = lab.node(1);
    let (pod, friend) = (lab.pod(1, 1), lab.pod(3, 1));
    for family in FAMILIES {
        assert_reaches(pod.netns(), friend.address(family));
    }
    let (pid, before) = (node.pid(), resident_kib(node));
    let drops_before = dropped(node);

    let socket = lab.node(2).netns().run(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
    mark_as_daemon(&socket);
    let target = SocketAddr::new(node.address(), UNDERLAY_PORT);
    let stop = AtomicBool::new(false);
    let (answered, asked) = thread::scope(|scope| {
        scope.spawn(|| {
            let mut garbage = Garbage(1);
            while !stop.load(Ordering::Relaxed) {
                let _ = socket.send_to(&garbage.datagram(), target);
            }
        });
        let start = clock::now();
        let (mut answered, mut asked) = (0, 0);
        while start.elapsed() < FLOOD {
            for family in FAMILIES {
                asked += 1;
                let answer = quick_ping(pod.netns(), friend.address(family));
                answered += u32::from(answer.is_reply());
            }
        }
        stop.store(true, Ordering::Relaxed);
        (answered, asked)
    });

    assert_eq!(node.pid(), pid, "{}", node.log_tail());
    let garbage = dropped(node) - drops_before;
    assert!(garbage > 10_000, "only {garbage} datagrams of garbage have come");
    // The receiving socket is shared with the flood and may lose many; enough must pass.
    assert!(answered * 4 > asked, "{answered} of {asked} were answered");
    let after = resident_kib(node);
    assert!(after < before + GROWTH_LIMIT_KIB, "{before} KiB became {after} KiB");
    let calm = || FAMILIES.iter().all(|f| quick_ping(pod.netns(), friend.address(*f)).is_reply());
    wait_until(SOON, "calm", calm).unwrap();
    assert!(node.log().lines().count() < 50, "{}", node.log());
}

fn dropped(node: &Node) -> u64 {
    let status = node.status().unwrap();
    status["drops"].as_object().unwrap().values().filter_map(serde_json::Value::as_u64).sum()
}

fn resident_kib(node: &Node) -> u64 {
    let text = fs::read_to_string(format!("/proc/{}/status", node.pid().unwrap())).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Datagrams of every length, the same in every run. Some begin as a good one does.
struct Garbage(u64);

impl Garbage {
    fn next(&mut self) -> u64 {
        // Knuth's constants for a 64-bit linear congruential generator.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        self.0 >> 33
    }

    fn datagram(&mut self) -> Vec<u8> {
        let len = usize::try_from(self.next() % 1472).unwrap();
        let mut bytes: Vec<u8> = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend(self.next().to_le_bytes());
        }
        bytes.truncate(len);
        if self.next().is_multiple_of(2) && len >= 10 {
            bytes[..8].copy_from_slice(&[0x0c, 0, 0, 1, 0, 0, 1, 0]);
            bytes[8] = 0x40 | (bytes[8] & 0x0f);
        }
        bytes
    }
}
