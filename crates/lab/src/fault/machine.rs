//! Faults of a node itself: firewalls, routes, rules, addresses.

use anyhow::{Context as _, Result};
use overlay_proto::Family;

use super::command::{nft, run};
use crate::network::Lab;
use crate::node::Node;
use crate::plan;
use crate::topology::{NODE_INTERFACE, SWITCH_BRIDGE};

/// The tables of firewalls.
pub(super) const FORWARD: &str = "inet lab-forward";
pub(super) const INPUT: &str = "inet lab-input";

/// The ports of every wire format, and that of what is sealed.
const TUNNEL_PORTS: &str = "{ 4500, 4790, 8285, 8472 }";

/// The routing table and rank of the rule.
const TABLE: u32 = 77;
const RANK: u32 = 100;

pub(super) fn forward(node: &Node) -> Result<()> {
    remove_table(node, FORWARD)?;
    let chain = "chain forward { type filter hook forward priority 0; policy drop; }";
    nft(node.netns(), &format!("table {FORWARD} {{\n{chain}\n}}\n"))
}

pub(super) fn input(node: &Node) -> Result<()> {
    remove_table(node, INPUT)?;
    let rule = format!("udp dport {TUNNEL_PORTS} drop");
    let chain = format!("chain input {{ type filter hook input priority 0; {rule}; }}");
    nft(node.netns(), &format!("table {INPUT} {{\n{chain}\n}}\n"))
}

pub(super) fn remove_table(node: &Node, table: &str) -> Result<()> {
    nft(node.netns(), &format!("add table {table}\ndelete table {table}\n"))
}

/// What Docker does to the chain of what is forwarded.
pub(super) fn docker(node: &Node) -> Result<()> {
    undocker(node)?;
    let commands: [&[&str]; 6] = [
        &["-P", "FORWARD", "DROP"],
        &["-N", "DOCKER-USER"],
        &["-N", "DOCKER-FORWARD"],
        &["-A", "FORWARD", "-j", "DOCKER-USER"],
        &["-A", "FORWARD", "-j", "DOCKER-FORWARD"],
        &["-A", "DOCKER-FORWARD", "-i", "docker0", "-j", "ACCEPT"],
    ];
    commands.iter().try_for_each(|words| run(node.netns(), "iptables", words))
}

pub(super) fn undocker(node: &Node) -> Result<()> {
    remove_table(node, "ip filter")
}

/// Leads the subnets of `to` to a router that there is none of.
pub(super) fn route(node: &Node, to: &Node) -> Result<()> {
    unroute(node, to);
    for subnet in to.subnets() {
        let family = Family::of(subnet.addr());
        let router = plan::nobody(family);
        let words = format!("route add {subnet} via {router} dev {NODE_INTERFACE}");
        node.netns().ip(&words)?;
    }
    Ok(())
}

pub(super) fn unroute(node: &Node, to: &Node) {
    for subnet in to.subnets() {
        // There may be none.
        let _ = node.netns().ip(&format!("route del {subnet} dev {NODE_INTERFACE}"));
    }
}

pub(super) fn rule(node: &Node) -> Result<()> {
    unrule(node);
    for subnet in node.subnets() {
        let family = if subnet.addr().is_ipv4() { "-4" } else { "-6" };
        let words: Vec<String> = [
            format!("{family} route add unreachable default table {TABLE}"),
            format!("{family} rule add from {subnet} lookup {TABLE} priority {RANK}"),
        ]
        .into();
        for line in words {
            let words: Vec<&str> = line.split(' ').collect();
            node.netns().ip_output(&words).context("add a rule")?;
        }
    }
    Ok(())
}

pub(super) fn unrule(node: &Node) {
    for family in ["-4", "-6"] {
        for what in ["rule del priority 100", "route flush table 77"] {
            let words: Vec<&str> = std::iter::once(family).chain(what.split(' ')).collect();
            // There may be none.
            let _ = node.netns().ip_output(&words);
        }
    }
}

/// Gives the switch the node's address.
pub(super) fn address(lab: &Lab, node: &Node) -> Result<()> {
    unaddress(lab, node);
    let words = format!("address add {} dev {SWITCH_BRIDGE} nodad", its_address(node));
    let words = if node.address().is_ipv4() { words.replace(" nodad", "") } else { words };
    lab.switch().ip(&words)
}

pub(super) fn unaddress(lab: &Lab, node: &Node) {
    // It may not be there.
    let _ = lab.switch().ip(&format!("address del {} dev {SWITCH_BRIDGE}", its_address(node)));
}

fn its_address(node: &Node) -> String {
    let family = Family::of(node.address());
    format!("{}/{}", node.address(), plan::switch_address(family).prefix_len())
}
