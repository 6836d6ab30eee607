//! One node that talks with 1 to 64 peers at once, a TCP stream to each.
//!
//! The peers must cost little, or their daemons would compete with the one that is measured. They
//! are one namespace with an underlay address for each, where the kernel's own VXLAN-GPE device
//! speaks for all of them: it takes the packets of any, and answers from the address of the peer
//! that the pod belongs to.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context as _, Result, bail};
use culvert_lab::{Lab, TableFile, TableNode, UNDERLAY_PORT};

use super::{Point, memory_mib};
use crate::mixed::Crowd;
use crate::networks::{PREFIX, bypass_filters, program};
use crate::programs::Programs;
use crate::progress::Progress;
use crate::settings::Effort;
use crate::traffic::Pod;
use crate::traffic::tcp::{self, Stream};

/// Peer K's number in addresses is this plus K: 192.168.1.(100+K), and 10.244.(100+K).0/24.
const FIRST: u8 = 100;

/// The inner packets' MTU: 1500 less the outer IPv4, UDP and VXLAN-GPE headers.
const MTU: u16 = 1500 - 36;

/// The virtual network, as the lab configures it.
const VNI: u32 = 1;

pub(super) fn measure(
    programs: &Programs,
    settings: &Effort,
    progress: &mut Progress,
) -> Result<Vec<Point>> {
    let most = settings.peers.iter().copied().max().unwrap_or(1);
    progress.say(&format!("building a network of {most} peers"));
    let setup = build(&format!("{PREFIX}peers"), programs, most)?;
    let daemon = setup.lab.node(1).pid().context("the daemon has ended")?;
    let mut points: Vec<Point> =
        settings.peers.iter().map(|count| Point::new(u32::from(*count))).collect();
    for round in 0..settings.growth_rounds {
        for turn in 0..points.len() {
            let place = (turn + round) % points.len();
            let point = &mut points[place];
            let what = format!("round {}: {} peers at once", round + 1, point.size);
            progress.step(&what, settings.tcp.warm_up + settings.tcp.window);
            let streams: Vec<Stream<'_>> = setup
                .peers
                .iter()
                .take(point.size as usize)
                .map(|to| Stream { from: &setup.pod, to })
                .collect();
            let moved = tcp::bulk(&streams, settings.tcp, &[])?;
            point.gbits.push(Some(moved.gbits()));
            point.memory_mib = Some(memory_mib(daemon)?);
        }
    }
    Ok(points)
}

/// Builds the lab `name`: a node with a daemon and a pod, and `count` peers.
pub(crate) fn build(name: &str, programs: &Programs, count: u8) -> Result<Crowd> {
    if let Some(missing) = program::missing(&["ethtool"], "apt-get install ethtool") {
        bail!(missing);
    }
    // The second node's namespace is that of all peers; no daemon runs there.
    let lab = Lab::builder(name)
        .nodes(2)
        .pods(0)
        .without_daemons()
        .culvert(&programs.culvert)
        .plugin(&programs.plugin)
        .replace()
        .up()?;
    bypass_filters(&lab)?;
    let mut table = TableFile { nodes: lab.table().nodes.into_iter().take(1).collect() };
    table.nodes.extend((1..=count).map(peer));
    lab.write_table(&table.to_toml())?;
    let node = lab.node(1);
    node.start()?;
    let pod = Pod::from(&lab.add_pod(1)?);

    let namespace = lab.node(2).netns();
    for device in ["all", "default"] {
        // Packets come in by a device that no route back to the pod leads to.
        namespace.set_sysctl(&format!("ipv4/conf/{device}/rp_filter"), "0")?;
    }
    namespace.ip(&script(node.address(), count))?;
    // kernel: between a tunnel device and a veth nobody finishes inner checksums (6.18), which a
    // network card would; the daemon delivers them as they are, and the pod drops the packets.
    program::run(namespace.command("ethtool").args(["-K", "gpe0", "tx", "off"]))?;
    let peers: Vec<Pod> = (1..=count)
        .map(|peer| Pod { netns: namespace.clone(), address: pod_address(peer).into() })
        .collect();
    let says = format!("{} says", node.name());
    let crowd = Crowd { pod, peers, lab };
    crowd.wait_reachable().with_context(|| format!("{says} {}", crowd.lab.node(1).log_tail()))?;
    Ok(crowd)
}

fn peer(peer: u8) -> TableNode {
    TableNode {
        name: format!("peer{peer}"),
        address: underlay_address(peer).into(),
        subnets: format!("10.244.{}.0/24", FIRST + peer).parse().into_iter().collect(),
        public_keys: Vec::new(),
    }
}

fn underlay_address(peer: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 1, FIRST + peer)
}

fn pod_address(peer: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, FIRST + peer, 2)
}

/// The devices, addresses and routes of `count` peers of the node at `node`.
fn script(node: IpAddr, count: u8) -> String {
    let mut script = String::new();
    let _ =
        writeln!(script, "link add gpe0 mtu {MTU} type vxlan dstport {UNDERLAY_PORT} external gpe");
    script += "link set gpe0 up\n";
    for peer in 1..=count {
        let (own, pod, number) = (underlay_address(peer), pod_address(peer), FIRST + peer);
        let _ = writeln!(script, "address add {own}/24 dev eth0");
        let _ = writeln!(script, "address add {pod}/32 dev lo");
        let _ = writeln!(
            script,
            "route add 10.244.1.0/24 table {number} mtu {MTU} \
             encap ip id {VNI} src {own} dst {node} ttl 64 dev gpe0"
        );
        let _ = writeln!(script, "rule add from {pod} lookup {number}");
    }
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixty_four_peers_have_addresses() {
        let last = peer(64);
        assert_eq!(last.address.to_string(), "192.168.1.164");
        assert_eq!(last.subnets[0].to_string(), "10.244.164.0/24");
    }
}
