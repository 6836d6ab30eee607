//! Sizes: the overlay carries the underlay's MTU minus its overhead, exactly, and says so.

use std::time::Duration;

use culvert_lab::probe::{self, Answer, Ping, Transfer};
use culvert_lab::{Families, Lab, LabBuilder, NODE_INTERFACE, POD_INTERFACE, wait_until};
use overlay_proto::Family;

use crate::harness::{
    FAMILIES, REPAIR_LIMIT, SOON, assert_reaches, assert_reaches_within, device_mtu, lab, offload,
    snmp,
};

/// The bridge between the nodes, in the switch's namespace.
const SWITCH_BRIDGE: &str = "underlay";

const TRANSFER: Transfer = Transfer::of(8 << 20);

#[test]
fn packets_of_exactly_the_mtu_cross_and_one_byte_more_is_answered() {
    carries_exactly(lab("nt-mtu"), 1500 - 36);
}

#[test]
fn packets_of_exactly_the_mtu_cross_an_ipv6_underlay_and_one_byte_more_is_answered() {
    carries_exactly(lab("nt-mtu6").underlay(Family::V6), 1500 - 56);
}

#[test]
fn packets_of_exactly_the_mtu_cross_a_jumbo_underlay_and_one_byte_more_is_answered() {
    carries_exactly(lab("nt-jumbo").underlay_mtu(9000), 9000 - 36);
}

#[test]
fn sealed_packets_of_exactly_the_mtu_cross_and_one_byte_more_is_answered() {
    carries_exactly(lab("nt-sealedmtu").sealed("require"), 1438);
    carries_exactly(lab("nt-sealedmtu").sealed("prefer"), 1438);
    carries_exactly(lab("nt-sealedmtu").sealed("require").underlay_mtu(9000), 8938);
}

#[test]
fn sealed_packets_of_exactly_the_mtu_cross_an_ipv6_underlay_and_one_byte_more_is_answered() {
    carries_exactly(lab("nt-sealedmtu6").sealed("require").underlay(Family::V6), 1418);
}

/// An INIT has 1340 bytes over IPv4 and 1360 over IPv6. It may be cut, and packets are not.
#[test]
fn sealed_packets_of_exactly_the_mtu_cross_an_underlay_that_is_too_narrow_for_handshakes() {
    for (family, underlay, mtu) in [(Family::V4, 1300, 1238), (Family::V6, 1300, 1218)] {
        let lab = lab("nt-sealnarrow").families(Families::Ipv4).sealed("require");
        let lab = lab.underlay(family).underlay_mtu(underlay).up().unwrap();
        let (from, to) = (lab.pod(1, 1), lab.pod(2, 1));
        let before = fragments(&lab);
        assert_reaches_within(SOON, from.netns(), to.ipv4());
        let after = fragments(&lab);
        assert!(after > before, "{family}: a handshake in one piece");
        from.netns().ip(&format!("link set {POD_INTERFACE} mtu {}\n", mtu + 1)).unwrap();
        let send = |len| {
            let ping = Ping::default().packet_len(len).timeout(Duration::from_secs(5));
            probe::ping(from.netns(), to.ipv4(), &ping).unwrap()
        };
        assert!(send(mtu).is_reply(), "{family}");
        let router = "10.244.1.1".parse().unwrap();
        assert_eq!(send(mtu + 1), Answer::TooBig { mtu: u32::from(mtu), from: router }, "{family}");
        assert_eq!(fragments(&lab), after, "{family}");
    }
}

#[test]
fn full_size_segments_cross_without_a_fragment_on_the_wire() {
    let lab = lab("nt-nofrag").up().unwrap();
    let (client, server) = (lab.pod(1, 1), lab.pod(2, 1));
    let before = fragments(&lab);
    for family in FAMILIES {
        let address = server.address(family);
        probe::transfer(client.netns(), server.netns(), address, &TRANSFER).unwrap();
        let full = Ping::default().packet_len(1464);
        assert!(probe::ping(client.netns(), address, &full).unwrap().is_reply());
    }
    assert_eq!(fragments(&lab), before);
    if offload() {
        let node = lab.node(1).status().unwrap();
        assert_eq!(node["offload"], "tcp+udp", "{node}");
        assert_eq!(node["offload_refusals"], 0, "{node}");
    } else {
        assert_eq!(lab.node(1).status().unwrap()["offload"], "none");
    }
}

#[test]
fn the_overlay_follows_the_underlays_mtu() {
    let lab = lab("nt-follow").up().unwrap();
    for (underlay, overlay) in [(1400, 1364), (1500, 1464), (9000, 8964)] {
        set_underlay_mtu(&lab, underlay);
        for node in lab.nodes() {
            // The bridge stays as wide as what the pods were born with.
            for (device, overlay) in [("culvert0", overlay), ("v-net-0", overlay.max(1464))] {
                let what = format!("{device} of {} to have MTU {overlay}", node.name());
                let look = || device_mtu(node.netns(), device) == overlay;
                wait_until(REPAIR_LIMIT, &what, look).unwrap();
            }
            let status = || node.status().unwrap()["mtu"].as_u64() == Some(overlay);
            wait_until(REPAIR_LIMIT, "the status to say so", status).unwrap();
        }
        // The pods keep the MTU that they were born with; path MTU discovery tells them of a
        // smaller.
        let (client, server) = (lab.pod(1, 1), lab.pod(2, 1));
        for family in FAMILIES {
            let address = server.address(family);
            assert_reaches(client.netns(), address);
            probe::transfer(client.netns(), server.netns(), address, &TRANSFER).unwrap();
        }
    }
}

#[test]
fn a_route_that_is_narrower_than_its_device_counts() {
    let lab = lab("nt-route").up().unwrap();
    let node = lab.node(1);
    let peer = lab.node(2).address();
    node.netns().ip(&format!("route add {peer} dev {NODE_INTERFACE} mtu 1420\n")).unwrap();
    let look = || device_mtu(node.netns(), "culvert0") == 1420 - 36;
    wait_until(REPAIR_LIMIT, "the TUN device to follow the route", look).unwrap();
}

#[test]
fn pods_learn_of_a_path_that_is_narrower_than_its_route() {
    learns_of_a_narrow_path(&lab("nt-narrow").up().unwrap(), 1400, 1400 - 36);
}

#[test]
fn pods_learn_of_an_ipv6_path_that_is_narrower_than_its_route() {
    let lab = lab("nt-narrow6").underlay(Family::V6);
    learns_of_a_narrow_path(&lab.up().unwrap(), 1400, 1400 - 56);
}

/// Puts a router with a narrow way between the first node and the second.
fn learns_of_a_narrow_path(lab: &Lab, underlay: u16, overlay: u16) {
    let peer = lab.node(2).address();
    let (version, router) = match Family::of(peer) {
        Family::V4 => ("ipv4", "192.168.1.1"),
        Family::V6 => ("ipv6", "fd00:192:168:1::1"),
    };
    let switch = lab.switch();
    switch.set_sysctl(&format!("{version}/conf/all/forwarding"), "1").unwrap();
    switch.ip(&format!("route add {peer} dev {SWITCH_BRIDGE} mtu {underlay}\n")).unwrap();
    let node = lab.node(1).netns();
    // A router on the same link says that there is a shorter way; the node shall not take it.
    for device in ["all", NODE_INTERFACE] {
        node.set_sysctl(&format!("{version}/conf/{device}/accept_redirects"), "0").unwrap();
    }
    node.ip(&format!("route add {peer} via {router}\n")).unwrap();

    let (from, to) = (lab.pod(1, 1), lab.pod(2, 1));
    for family in FAMILIES {
        let send = |len| {
            let ping = Ping::default().packet_len(len).timeout(Duration::from_millis(200));
            probe::ping(from.netns(), to.address(family), &ping).unwrap()
        };
        let full = 1500 - underlay + overlay;
        let told = || matches!(send(full), Answer::TooBig { mtu, .. } if mtu == u32::from(overlay));
        wait_until(REPAIR_LIMIT, "the pod to be told", told).unwrap();
        assert!(send(overlay).is_reply(), "{family}: {:?}", send(overlay));
        probe::transfer(from.netns(), to.netns(), to.address(family), &TRANSFER).unwrap();
    }
}

fn carries_exactly(builder: LabBuilder, mtu: u16) {
    let lab = builder.up().unwrap();
    let (from, to) = (lab.pod(1, 1), lab.pod(2, 1));
    for netns in [from.netns(), to.netns()] {
        assert_eq!(device_mtu(netns, POD_INTERFACE), u64::from(mtu));
    }
    for node in lab.nodes() {
        assert_eq!(device_mtu(node.netns(), "culvert0"), u64::from(mtu));
        assert_eq!(device_mtu(node.netns(), "v-net-0"), u64::from(mtu));
    }
    let before = fragments(&lab);
    // A pod whose own interface would let more pass, so that its node has to answer.
    from.netns().ip(&format!("link set {POD_INTERFACE} mtu {}\n", mtu + 1)).unwrap();
    for family in FAMILIES {
        let send = |len| {
            let ping = Ping::default().packet_len(len).timeout(Duration::from_secs(5));
            probe::ping(from.netns(), to.address(family), &ping).unwrap()
        };
        let exact = send(mtu);
        assert!(exact.is_reply(), "{family}: {exact:?}");
        let router = match family {
            Family::V4 => "10.244.1.1".parse().unwrap(),
            Family::V6 => "fd00:10:244:1::1".parse().unwrap(),
        };
        let answer = Answer::TooBig { mtu: u32::from(mtu), from: router };
        assert_eq!(send(mtu + 1), answer, "{family}");
    }
    assert_eq!(fragments(&lab), before);
}

/// IP fragments that the nodes have made or put together, on underlay and overlay.
fn fragments(lab: &Lab) -> u64 {
    let names = ["FragCreates", "ReasmReqds", "Ip6FragCreates", "Ip6ReasmReqds"];
    let of = |netns| names.iter().map(|name| snmp(netns, name)).sum::<u64>();
    lab.nodes().iter().map(|node| of(node.netns())).sum()
}

fn set_underlay_mtu(lab: &Lab, mtu: u16) {
    let ports = lab.nodes().iter().map(|node| format!("link set {} mtu {mtu}\n", node.name()));
    lab.switch().ip(&ports.collect::<String>()).unwrap();
    for node in lab.nodes() {
        node.netns().ip(&format!("link set {NODE_INTERFACE} mtu {mtu}\n")).unwrap();
    }
}
