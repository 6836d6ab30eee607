//! Packets for a prefix that nobody owns: their sender is told, within limits.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use culvert_lab::clock;
use culvert_lab::probe::Answer;
use culvert_lab::wait_until;
use overlay_proto::Family;

use crate::harness::{FAMILIES, SOON, lab, ping};

/// More than the workers' budgets of replies hold together.
const FLOOD: u64 = 4_000;

#[test]
fn destinations_that_nobody_owns_are_answered() {
    let lab = lab("nt-noowner").up().unwrap();
    for family in FAMILIES {
        let router = router(family);
        let pod = lab.pod(1, 1);
        for from in [pod.netns(), lab.node(1).netns()] {
            let answer = ping(from, nobody(family));
            let unreachable = matches!(answer, Answer::Unreachable { from, .. } if from == router);
            assert!(unreachable, "{}, {family}: {answer:?}", from.name());
        }
    }
}

#[test]
fn a_flood_to_nobody_is_answered_within_limits() {
    let lab = lab("nt-noflood").up().unwrap();
    let (node, pod) = (lab.node(1), lab.pod(1, 1));
    for family in FAMILIES {
        let status = node.status().unwrap();
        let replies_before = status["icmp_replies"].as_u64().unwrap();
        let drops_before = status["drops"]["no_owner"].as_u64().unwrap();
        let start = clock::now();
        let any: IpAddr = match family {
            Family::V4 => [0; 4].into(),
            Family::V6 => [0; 16].into(),
        };
        let socket = pod.netns().run(|| UdpSocket::bind(SocketAddr::new(any, 0))).unwrap().unwrap();
        for _ in 0..FLOOD {
            socket.send_to(b"hello", SocketAddr::new(nobody(family), 9)).unwrap();
        }
        let dropped = || node.drops("no_owner").unwrap() - drops_before;
        wait_until(SOON, "the flood to be dropped", || dropped() == FLOOD).unwrap();
        let milliseconds = u64::try_from(start.elapsed().as_millis()).unwrap();

        let status = node.status().unwrap();
        let replies = status["icmp_replies"].as_u64().unwrap() - replies_before;
        let workers = status["workers"].as_u64().unwrap();
        let allowed = workers * (50 + milliseconds);
        assert!((1..=allowed).contains(&replies), "{replies} replies in {milliseconds} ms");
    }
}

/// An address of the cluster network in no node's subnet.
fn nobody(family: Family) -> IpAddr {
    match family {
        Family::V4 => [10, 244, 200, 5].into(),
        Family::V6 => "fd00:10:244:200::5".parse().unwrap(),
    }
}

/// The address by which the first node's pods know their node.
fn router(family: Family) -> IpAddr {
    match family {
        Family::V4 => [10, 244, 1, 1].into(),
        Family::V6 => "fd00:10:244:1::1".parse().unwrap(),
    }
}
