//! The tunnel's datagrams leave no trace in connection tracking.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use culvert_lab::{Netns, UNDERLAY_PORT, wait_until};
use overlay_proto::Family;

use crate::harness::{SOON, lab, sysctl};
use crate::packets::mark_as_daemon;

/// Each from a port of its own: as many flows.
const FLOWS: u64 = 200;

#[test]
fn tunnel_datagrams_are_not_tracked() {
    for (name, underlay) in [("nt-track", Family::V4), ("nt-track6", Family::V6)] {
        let lab = lab(name).underlay(underlay).pods(0).up().unwrap();
        let (node, peer) = (lab.node(1), lab.node(2));
        let before = [tracked(node.netns()), tracked(peer.netns())];

        let drops = node.drops("too_short").unwrap();
        send(peer.netns(), node.address(), UNDERLAY_PORT);
        let arrived = || node.drops("too_short").unwrap() == drops + FLOWS;
        wait_until(SOON, "the datagrams to arrive", arrived).unwrap();
        let after = [tracked(node.netns()), tracked(peer.netns())];
        for (before, after) in before.iter().zip(after) {
            // A handful for what else happens on a node.
            assert!(after < before + FLOWS / 10, "{before} entries became {after}");
        }

        // The same to another port is tracked: the count above was able to grow.
        send(peer.netns(), node.address(), UNDERLAY_PORT + 1);
        let control = tracked(peer.netns());
        assert!(control >= before[1] + FLOWS / 2, "{} entries became {control}", before[1]);
    }
}

fn tracked(netns: &Netns) -> u64 {
    sysctl(netns, "netfilter/nf_conntrack_count").parse().unwrap()
}

fn send(from: &Netns, to: IpAddr, port: u16) {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { [0; 16].into() };
    let send = || {
        for _ in 0..FLOWS {
            let socket = UdpSocket::bind(SocketAddr::new(any, 0)).unwrap();
            mark_as_daemon(&socket);
            // A port that is closed answers, and later sends may report it.
            socket.send_to(b"flow", SocketAddr::new(to, port)).unwrap();
        }
    };
    from.run(send).unwrap();
}
