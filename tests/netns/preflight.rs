//! A daemon refuses to start where the cluster network would take somebody else's addresses.

use culvert_lab::{Lab, NODE_INTERFACE};

use crate::harness::{lab, refused_start};

#[test]
fn a_service_network_inside_the_cluster_network_is_refused() {
    let lab = bare("nt-service", "[network]\nservice_cidrs = [\"10.244.96.0/20\"]");
    assert_refused(&lab, &["10.244.0.0/16", "10.244.96.0/20", "service", "choose"]);
}

#[test]
fn underlay_addresses_inside_the_cluster_network_are_refused() {
    let lab = bare("nt-under", "[network]\ncidrs = [\"192.168.0.0/16\", \"fd00:10:244::/48\"]");
    assert_refused(&lab, &["192.168.0.0/16", "192.168.1.11", "choose"]);
}

#[test]
fn an_interface_inside_the_cluster_network_is_refused() {
    let lab = bare("nt-iface", "");
    let netns = lab.node(1).netns();
    netns.ip(&format!("address add 10.244.77.1/24 dev {NODE_INTERFACE}\n")).unwrap();
    assert_refused(&lab, &["10.244.0.0/16", "10.244.77.1/24", NODE_INTERFACE, "choose"]);
}

#[test]
fn a_route_inside_the_cluster_network_is_refused() {
    let lab = bare("nt-oldroute", "");
    lab.node(1).netns().ip("route add 10.244.7.0/24 via 192.168.1.1\n").unwrap();
    let said = assert_refused(&lab, &["10.244.0.0/16", "10.244.7.0/24", "ip route del"]);
    assert!(said.contains(NODE_INTERFACE), "{said}");

    lab.node(1).netns().ip("route del 10.244.7.0/24\n").unwrap();
    lab.node(1).start().unwrap();
}

#[test]
fn an_address_that_the_node_lacks_is_refused() {
    let lab = bare("nt-noaddr", "[underlay]\naddress = \"192.168.1.99\"");
    assert_refused(&lab, &["192.168.1.99", "underlay.address"]);
}

#[test]
fn an_underlay_without_room_for_the_overlay_is_refused() {
    let lab = bare("nt-noroom", "");
    for mtu in ["500", "611"] {
        let command = format!("link set {NODE_INTERFACE} mtu {mtu}\n");
        lab.node(1).netns().ip(&command).unwrap();
        let peer = lab.node(2).address().to_string();
        assert_refused(&lab, &[mtu, "612", &peer, "raise"]);
    }
}

#[test]
fn a_key_that_does_not_exist_is_refused_with_its_line() {
    let lab = bare("nt-key", "[egress]\nmasqerade = true");
    assert_refused(&lab, &["config.toml:", "masqerade", "masquerade"]);
}

fn bare(name: &str, config: &str) -> Lab {
    lab(name).nodes(2).pods(0).without_daemons().config(config).up().unwrap()
}

/// Demands that the first node's daemon refuses to start, names `parts`, and leaves nothing behind.
#[track_caller]
fn assert_refused(lab: &Lab, parts: &[&str]) -> String {
    let node = lab.node(1);
    let (code, said) = refused_start(node);
    assert_eq!(code, Some(1), "{said}");
    // The line with the configuration has every value; the complaint is the last line.
    let complaint = said.lines().last().unwrap_or_default().to_owned();
    for part in parts {
        assert!(complaint.contains(part), "{part:?} is not in {complaint:?}");
    }
    let links = node.netns().ip_output(&["-oneline", "link"]).unwrap();
    assert!(!links.contains("culvert0") && !links.contains("v-net-0"), "{links}");
    complaint
}
