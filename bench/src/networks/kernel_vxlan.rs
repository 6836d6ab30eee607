//! The kernel's VXLAN, as flannel's backend of that name sets it up: a device on each node, a route
//! to the peer's pod subnet through it, and static neighbour and forwarding entries.

use std::fmt::Write as _;

use anyhow::Result;

use super::{BASELINE, Network, Recipe, routed};

/// Outer IPv4 and UDP header, VXLAN header, inner Ethernet header (RFC 7348 §5).
const OVERHEAD: u16 = 20 + 8 + 8 + 14;

/// Inner packets' MTU.
const MTU: u16 = routed::UNDERLAY_MTU - OVERHEAD;

pub(super) struct KernelVxlan;

impl Recipe for KernelVxlan {
    fn name(&self) -> &'static str {
        BASELINE
    }

    fn about(&self) -> String {
        format!("the kernel's VXLAN devices, as flannel sets them up, MTU {MTU}")
    }

    fn build(&self, lab: String) -> Result<Network> {
        let (lab, pods) = routed::build(lab, MTU)?;
        for (node, peer) in [(1, 2), (2, 1)] {
            let (own, remote) = (lab.node(node).address(), lab.node(peer).address());
            let mut script = String::new();
            let _ = writeln!(
                script,
                "link add vxlan1 address {} mtu {MTU} type vxlan id 1 local {own} dev eth0 \
                 dstport 4789 nolearning",
                hardware_address(node)
            );
            let _ = writeln!(script, "address add 10.244.{node}.0/32 dev vxlan1");
            script += "link set vxlan1 up\n";
            let mac = hardware_address(peer);
            let _ = writeln!(script, "neighbour add 10.244.{peer}.0 lladdr {mac} dev vxlan1");
            let subnet = routed::subnet(peer);
            let _ = writeln!(script, "route add {subnet} via 10.244.{peer}.0 dev vxlan1 onlink");
            let netns = lab.node(node).netns();
            netns.ip(&script)?;
            // `ip -batch` knows only what `ip` does.
            let mut bridge = netns.command("bridge");
            bridge.args(["fdb", "add", &mac, "dev", "vxlan1", "dst", &remote.to_string()]);
            super::program::run(&mut bridge)?;
        }
        Ok(Network::new(lab, pods))
    }
}

/// The address of `node`'s device, of the range for private use.
fn hardware_address(node: u16) -> String {
    format!("02:00:0a:f4:{node:02x}:00")
}
