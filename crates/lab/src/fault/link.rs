//! Faults of a node's cable, made where it ends in the switch.

use std::time::Duration;

use anyhow::Result;

use super::command::nft;
use crate::network::Lab;
use crate::node::Node;
use crate::relay;
use crate::topology::{NODE_INTERFACE, SWITCH_BRIDGE};
use crate::wait_for;

/// What `ip` says of a bridge's port that frames pass.
const FORWARDING: &str = " state forwarding ";

/// How long a port may take for that.
const SOON: Duration = Duration::from_secs(2);

/// Segments that a device takes at once, of whoever cuts them.
const SEGMENTS: u32 = 65_535;

pub(super) fn cut(lab: &Lab, node: &Node) -> Result<()> {
    lab.switch().ip(&format!("link set dev {} down", node.name()))
}

pub(super) fn plug(lab: &Lab, node: &Node) -> Result<()> {
    lab.switch().ip(&format!("link set dev {} up", node.name()))?;
    // The other end may be down, which is not this fault's.
    let _ = forwarding(lab, node.name());
    Ok(())
}

/// Waits until frames pass a port of the switch that has just come up.
///
/// kernel: a bridge hears of a port's carrier a moment later and drops frames until then (6.18).
fn forwarding(lab: &Lab, port: &str) -> Result<()> {
    wait_for(SOON, &format!("the port {port} to forward"), || {
        let shown = lab.switch().ip_output(&["-d", "link", "show", "dev", port])?;
        Ok(shown.contains(FORWARDING).then_some(()))
    })
}

/// kernel: a bridge drops what is longer than its port's MTU, without a word, except what is to be
/// cut later (6.18). So the nodes cut what they send themselves.
pub(super) fn narrow(lab: &Lab, node: &Node, mtu: u16) -> Result<()> {
    for each in lab.nodes() {
        each.netns().ip(&format!("link set dev {NODE_INTERFACE} gso_max_segs 1"))?;
    }
    lab.switch().ip(&format!("link set dev {} mtu {mtu}", node.name()))
}

pub(super) fn widen(lab: &Lab, node: &Node) -> Result<()> {
    let mtu = lab.plan().underlay_mtu;
    lab.switch().ip(&format!("link set dev {} mtu {mtu}", node.name()))?;
    for each in lab.nodes() {
        each.netns().ip(&format!("link set dev {NODE_INTERFACE} gso_max_segs {SEGMENTS}"))?;
    }
    Ok(())
}

pub(super) fn lose(lab: &Lab, node: &Node, percent: u8, source_port: Option<u16>) -> Result<()> {
    let port = source_port.map_or_else(String::new, |port| format!(" udp sport {port}"));
    // A random number for all of them would be the same, and not every kernel has it.
    let chance = match percent {
        100.. => String::new(),
        percent => format!(" numgen random mod 100 < {percent}"),
    };
    police(lab, node, &format!("meta l4proto udp{port}{chance} drop"))
}

pub(super) fn slow(lab: &Lab, node: &Node, rate: u32) -> Result<()> {
    police(lab, node, &format!("limit rate over {rate} kbytes/second burst {rate} kbytes drop"))
}

/// Puts a rule where the switch forwards frames of the node, whether or not they come by a relay.
fn police(lab: &Lab, node: &Node, rule: &str) -> Result<()> {
    let table = table(node);
    let (name, [_, late]) = (node.name(), relay::ends(node.name()));
    let rule = format!("iifname {{ \"{name}\", \"{late}\" }} {rule}");
    let script = format!(
        "add table bridge {table}\n\
         add chain bridge {table} frames {{ type filter hook forward priority 0; }}\n\
         add rule bridge {table} frames {rule}\n"
    );
    nft(lab.switch(), &script)
}

pub(super) fn let_through(lab: &Lab, node: &Node) -> Result<()> {
    let table = table(node);
    // Adding one that there is does nothing, deleting one that there is not would fail.
    nft(lab.switch(), &format!("add table bridge {table}\ndelete table bridge {table}\n"))
}

fn table(node: &Node) -> String {
    format!("lab-{}", node.name())
}

/// Takes the node's cable out of the switch and puts a relay between.
pub(super) fn delay(lab: &Lab, node: &Node, ms: u32) -> Result<()> {
    undelay(lab, node)?;
    let ([held, late], own) = (relay::ends(node.name()), own_bridge(node));
    let mtu = lab.plan().underlay_mtu;
    // kernel: a device that is up answers ARP for addresses of other devices, too (6.18).
    let quiet = "addrgenmode none arp off";
    let script = format!(
        "tuntap add dev {held} mode tap\n\
         tuntap add dev {late} mode tap\n\
         link add {own} type bridge stp_state 0 forward_delay 0 mcast_snooping 0\n\
         link set dev {own} {quiet} up\n\
         link set dev {held} mtu {mtu} {quiet} master {own} up\n\
         link set dev {late} mtu {mtu} {quiet} master {SWITCH_BRIDGE} up\n"
    );
    lab.switch().ip(&script)?;
    relay::start(lab, node, ms)?;
    for end in [&held, &late] {
        forwarding(lab, end)?;
    }
    lab.switch().ip(&format!("link set dev {} master {own}", node.name()))
}

pub(super) fn undelay(lab: &Lab, node: &Node) -> Result<()> {
    relay::stop(lab, node)?;
    let [held, late] = relay::ends(node.name());
    for device in [held, late, own_bridge(node)] {
        // It may not be there.
        let _ = lab.switch().ip(&format!("link del {device}"));
    }
    lab.switch().ip(&format!("link set dev {} master {SWITCH_BRIDGE}", node.name()))
}

/// The bridge between a node's cable and its relay.
fn own_bridge(node: &Node) -> String {
    format!("{}-own", node.name())
}
