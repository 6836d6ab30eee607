//! What networks without a plugin of their own share: on each node a bridge with one pod, as a
//! bridge plugin makes it, and forwarding.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

use anyhow::Result;
use culvert_lab::{Lab, Netns, Place};

use crate::traffic::Pod;

/// The underlay's MTU.
pub(super) const UNDERLAY_MTU: u16 = 1500;

/// Builds two nodes and the switch between them, and a pod on each with interfaces of `mtu`.
pub(super) fn build(name: String, mtu: u16) -> Result<(Lab, [Pod; 2])> {
    let lab = Lab::builder(name).nodes(2).pods(0).without_daemons().replace().up()?;
    let pods = [attach(&lab, 1, mtu)?, attach(&lab, 2, mtu)?];
    Ok((lab, pods))
}

/// The address of the pod of `node`.
pub(super) fn pod_address(node: u16) -> IpAddr {
    let octet = node.to_be_bytes()[1];
    IpAddr::from(Ipv4Addr::new(10, 244, octet, 2))
}

/// The pod subnet of `node`.
pub(super) fn subnet(node: u16) -> String {
    format!("10.244.{node}.0/24")
}

/// Attaches a pod to `node`.
pub(super) fn attach(lab: &Lab, node: u16, mtu: u16) -> Result<Pod> {
    // Named as the lab names pods, so that the pod goes with the lab.
    let pod = Netns::create(lab.plan().namespace(Place::Pod(node, 1)))?;
    let pod_name = pod.name();
    let netns = lab.node(node).netns();
    netns.set_sysctl("ipv4/ip_forward", "1")?;
    let mut script = String::new();
    let _ = writeln!(script, "link add cni0 mtu {mtu} type bridge stp_state 0 forward_delay 0");
    let _ = writeln!(script, "address add 10.244.{node}.1/24 dev cni0");
    let _ = writeln!(
        script,
        "link add name veth1 mtu {mtu} type veth peer name eth0 mtu {mtu} netns {pod_name}"
    );
    script += "link set veth1 master cni0 up\nlink set cni0 up\n";
    netns.ip(&script)?;
    let mut script = String::from("link set lo up\nlink set eth0 up\n");
    let _ = writeln!(script, "address add 10.244.{node}.2/24 dev eth0");
    let _ = writeln!(script, "route add default via 10.244.{node}.1 dev eth0");
    pod.ip(&script)?;
    Ok(Pod { netns: pod, address: pod_address(node) })
}
