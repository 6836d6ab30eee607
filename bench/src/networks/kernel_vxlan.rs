//! The kernel's VXLAN, as flannel's backend of that name sets it up: a device on each node, a route
//! to the peer's pod subnet through it, and static neighbour and forwarding entries.

use std::fmt::Write as _;

use anyhow::Result;
use culvert_lab::Lab;

use super::{BASELINE, Network, Recipe, bypass_filters, routed};
use crate::mixed::Crowd;
use crate::traffic::Pod;

/// Outer IPv4 and UDP header, VXLAN header, inner Ethernet header (RFC 7348 §5).
const OVERHEAD: u16 = 20 + 8 + 8 + 14;

/// Inner packets' MTU.
const MTU: u16 = routed::UNDERLAY_MTU - OVERHEAD;

pub(crate) struct KernelVxlan;

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
            add_device(&lab, node)?;
            add_peer(&lab, node, peer)?;
        }
        Ok(Network::new(lab, pods))
    }
}

impl KernelVxlan {
    /// Builds a node with a pod, and `count` nodes that have a pod's address themselves.
    pub(crate) fn crowd(lab: String, count: u8) -> Result<Crowd> {
        let count = u16::from(count);
        let lab = Lab::builder(lab).nodes(1 + count).pods(0).without_daemons().replace().up()?;
        bypass_filters(&lab)?;
        let pod = routed::attach(&lab, 1, MTU)?;
        add_device(&lab, 1)?;
        let mut peers = Vec::new();
        for peer in 2..=1 + count {
            add_device(&lab, peer)?;
            add_peer(&lab, 1, peer)?;
            add_peer(&lab, peer, 1)?;
            let netns = lab.node(peer).netns().clone();
            let address = routed::pod_address(peer);
            netns.ip(&format!("address add {address}/32 dev lo\n"))?;
            peers.push(Pod { netns, address });
        }
        let crowd = Crowd { pod, peers, lab };
        crowd.wait_reachable()?;
        Ok(crowd)
    }
}

/// Makes the device of `node`.
fn add_device(lab: &Lab, node: u16) -> Result<()> {
    let own = lab.node(node).address();
    let mut script = String::new();
    let _ = writeln!(
        script,
        "link add vxlan1 address {} mtu {MTU} type vxlan id 1 local {own} dev eth0 dstport 4789 \
         nolearning",
        hardware_address(node)
    );
    let _ = writeln!(script, "address add 10.244.{node}.0/32 dev vxlan1");
    script += "link set vxlan1 up\n";
    lab.node(node).netns().ip(&script)
}

/// Tells `node` the way to `peer`.
fn add_peer(lab: &Lab, node: u16, peer: u16) -> Result<()> {
    let mac = hardware_address(peer);
    let mut script = String::new();
    let _ = writeln!(script, "neighbour add 10.244.{peer}.0 lladdr {mac} dev vxlan1");
    let subnet = routed::subnet(peer);
    let _ = writeln!(script, "route add {subnet} via 10.244.{peer}.0 dev vxlan1 onlink");
    let netns = lab.node(node).netns();
    netns.ip(&script)?;
    // `ip -batch` knows only what `ip` does.
    let mut bridge = netns.command("bridge");
    let remote = lab.node(peer).address().to_string();
    bridge.args(["fdb", "add", &mac, "dev", "vxlan1", "dst", &remote]);
    super::program::run(&mut bridge)?;
    Ok(())
}

/// The address of `node`'s device, of the range for private use.
fn hardware_address(node: u16) -> String {
    format!("02:00:0a:f4:{node:02x}:00")
}
