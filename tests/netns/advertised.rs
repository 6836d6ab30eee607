//! A node that learned its default route from a router advertisement.

use std::net::Ipv6Addr;

use culvert_lab::{NODE_INTERFACE, Netns, probe, wait_until};
use etherparse::PacketBuilder;
use overlay_proto::Family;

use crate::harness::{SOON, lab, sysctl};

#[test]
fn a_default_route_that_a_router_advertised_outlives_the_start() {
    let lab = lab("nt-advert").up().unwrap();
    let node = lab.node(1);
    node.stop().unwrap();
    let netns = node.netns();
    for (key, value) in [
        ("ipv6/conf/all/forwarding", "0"),
        ("ipv6/conf/eth0/forwarding", "0"),
        ("ipv6/conf/eth0/accept_ra", "1"),
        ("ipv6/conf/eth0/accept_ra_defrtr", "1"),
    ] {
        netns.set_sysctl(key, value).unwrap();
    }
    // The one that the lab has made would hide it.
    let _ = netns.ip_output(&["-6", "route", "del", "default"]);
    let to = node.address_in(Family::V6);
    let std::net::IpAddr::V6(to) = to else { panic!("{to} is no IPv6 address") };
    wait_until(SOON, "the advertised route", || {
        advertise(lab.switch(), to);
        has_learned_route(netns)
    })
    .unwrap();

    node.start().unwrap();
    assert_eq!(sysctl(netns, "ipv6/conf/all/forwarding"), "1");
    assert_eq!(sysctl(netns, &format!("ipv6/conf/{NODE_INTERFACE}/accept_ra")), "2");
    assert!(has_learned_route(netns), "{}", node.log_tail());
    // No pod can do the same to the node.
    assert_eq!(sysctl(netns, "ipv6/conf/v-net-0/accept_ra"), "0");
}

fn has_learned_route(netns: &Netns) -> bool {
    netns.ip_output(&["-6", "route", "show", "default"]).unwrap().contains("proto ra")
}

/// Sends `to` the advertisement of a router that wants to be everybody's.
fn advertise(from: &Netns, to: Ipv6Addr) {
    let router: Ipv6Addr = "fe80::1234".parse().unwrap();
    let lifetime = 1800_u16.to_be_bytes();
    let mut packet = Vec::new();
    // Neither a reachable time nor a retransmission timer; one option: the router's MAC.
    let rest = [&[0; 8][..], &[1, 1, 2, 0, 0, 0, 0x12, 0x34]].concat();
    PacketBuilder::ipv6(router.octets(), to.octets(), 255)
        .icmpv6_raw(134, 0, [64, 0, lifetime[0], lifetime[1]])
        .write(&mut packet, &rest)
        .unwrap();
    probe::send_packet(from, &packet).unwrap();
}
