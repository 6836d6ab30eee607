//! The devices of a lab, from a plan.
//!
//! Owns what a machine has before Culvert comes: the underlay switch, and on each node an
//! interface, an address and a default route. Nothing here knows of a pod; the switch forwards
//! frames between nodes and routes nothing, so a pod's address on the wire would reach nobody.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;
use overlay_proto::Family;

use super::netns::Netns;
use super::plan::{self, Families, Place, Plan};

/// The switch's bridge.
pub(super) const SWITCH_BRIDGE: &str = "underlay";

/// Its hardware address.
const SWITCH_MAC: &str = "02:00:c0:a8:01:01";

/// A node's interface on the underlay.
pub const NODE_INTERFACE: &str = "eth0";

/// Builds the switch and the nodes of `plan`.
pub(super) fn build(plan: &Plan) -> Result<()> {
    let switch = Netns::named(plan.namespace(Place::Switch));
    let nodes: Vec<(u16, Netns)> = (1..=plan.nodes)
        .map(|node| (node, Netns::named(plan.namespace(Place::Node(node)))))
        .collect();

    let mut all = vec![switch.clone()];
    all.extend(nodes.iter().map(|(_, netns)| netns.clone()));
    Netns::create_all(&all)?;
    for netns in &all {
        // kernel: a new namespace starts with the machine's own settings (6.18), and on a machine
        // that runs containers that means forwarding. The nodes must be as a fresh machine is.
        netns.set_sysctl("ipv4/ip_forward", "0")?;
    }

    skip_dad(plan, &switch, "default")?;
    switch.ip(&switch_script(plan))?;
    for (node, netns) in &nodes {
        skip_dad(plan, netns, NODE_INTERFACE)?;
        netns.ip(&node_script(plan, *node))?;
    }
    Ok(())
}

fn switch_script(plan: &Plan) -> String {
    let mut script = String::from("link set lo up\n");
    for family in underlay_families(plan) {
        let _ = writeln!(script, "address add {} dev lo{}", plan::outside(family), at_once(family));
    }
    // Ports forward at once, and multicast (neighbour discovery) goes to all. An address of its own
    // does not change with the ports, as `culvert lab break` changes them.
    let _ = writeln!(
        script,
        "link add {SWITCH_BRIDGE} address {SWITCH_MAC} type bridge stp_state 0 forward_delay 0 mcast_snooping 0"
    );
    for node in 1..=plan.nodes {
        let name = Place::Node(node);
        let mtu = plan.underlay_mtu;
        let _ = writeln!(
            script,
            "link add name {name} mtu {mtu} type veth \
             peer name {NODE_INTERFACE} mtu {mtu} netns {}",
            plan.namespace(name)
        );
        let _ = writeln!(script, "link set {name} master {SWITCH_BRIDGE} up");
    }
    for family in underlay_families(plan) {
        let _ = writeln!(
            script,
            "address add {} dev {SWITCH_BRIDGE}{}",
            plan::switch_address(family),
            at_once(family)
        );
    }
    let _ = writeln!(script, "link set {SWITCH_BRIDGE} up");
    script
}

fn node_script(plan: &Plan, node: u16) -> String {
    let mut script = format!("link set lo up\nlink set {NODE_INTERFACE} up\n");
    for family in underlay_families(plan) {
        let switch = plan::switch_address(family);
        let _ = writeln!(
            script,
            "address add {}/{} dev {NODE_INTERFACE}{}",
            plan.node_address_in(node, family),
            switch.prefix_len(),
            at_once(family)
        );
        let _ = writeln!(script, "route add default via {} dev {NODE_INTERFACE}", switch.addr());
    }
    script
}

/// The families of the underlay: both, except on a machine whose kernel has no IPv6 and that does
/// not need it.
fn underlay_families(plan: &Plan) -> Vec<Family> {
    let needed = plan.underlay == Family::V6 || plan.families != Families::Ipv4;
    if needed || Path::new("/proc/sys/net/ipv6").exists() {
        vec![Family::V4, Family::V6]
    } else {
        vec![Family::V4]
    }
}

/// What lets an address of `family` be bound as soon as it is there. Without it a daemon may find
/// its IPv6 address tentative. kernel: even where `accept_dad` is 0, a worker confirms it later
/// (6.18).
const fn at_once(family: Family) -> &'static str {
    match family {
        Family::V4 => "",
        Family::V6 => " nodad",
    }
}

/// Lets the link-local IPv6 addresses of `interface`, which the kernel makes, be used at once:
/// there are no duplicates to detect.
///
/// kernel: while a node's is tentative, for a second or two, the node asks for no neighbour on
/// behalf of a packet that it forwards (6.18).
fn skip_dad(plan: &Plan, netns: &Netns, interface: &str) -> Result<()> {
    if !underlay_families(plan).contains(&Family::V6) {
        return Ok(());
    }
    netns.set_sysctl(&format!("ipv6/conf/{interface}/accept_dad"), "0")
}

#[cfg(test)]
mod tests {
    use super::super::plan::Families;
    use super::*;

    #[test]
    fn every_ipv6_address_is_usable_at_once() {
        let plan = Plan {
            name: "lab".into(),
            nodes: 1,
            pods: 1,
            families: Families::Dual,
            underlay: Family::V6,
            underlay_mtu: 1500,
        };
        let script = switch_script(&plan) + &node_script(&plan, 1);
        let added: Vec<&str> =
            script.lines().filter(|line| line.starts_with("address add")).collect();
        assert_eq!(added.len(), 6);
        for line in added {
            assert_eq!(line.contains("::"), line.ends_with(" nodad"), "{line}");
        }
    }
}
