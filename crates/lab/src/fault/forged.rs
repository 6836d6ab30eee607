//! Errors of ICMP by a stranger.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context as _, Result, bail, ensure};
use overlay_proto::Family;

use crate::network::Lab;
use crate::node::Node;
use crate::plan;
use crate::probe;
use crate::render::UNDERLAY_PORT;

/// Claims toward the node, about each of its source ports, that a datagram to the next node was too
/// long, in the name of the switch.
pub(super) fn too_big(lab: &Lab, node: &Node, mtu: u16) -> Result<()> {
    let IpAddr::V4(own) = node.address() else {
        bail!("the underlay of this lab is IPv6; only IPv4 is forged");
    };
    let peer = lab.nodes().iter().find(|peer| peer.name() != node.name());
    let Some(IpAddr::V4(peer)) = peer.map(Node::address) else {
        bail!("there is no other node that {} could have sent to", node.name());
    };
    let IpAddr::V4(switch) = plan::switch_address(Family::V4).addr() else {
        bail!("the switch has no IPv4 address");
    };
    let ports = source_ports(node, own)?;
    ensure!(!ports.is_empty(), "the daemon of {} has no sockets", node.name());
    for port in ports {
        probe::send_packet(lab.switch(), &error(switch, own, peer, port, mtu))?;
    }
    Ok(())
}

/// The ports of sockets on the node's address, but for that of the tunnel.
fn source_ports(node: &Node, own: Ipv4Addr) -> Result<Vec<u16>> {
    let text = node.netns().run(|| fs::read_to_string("/proc/thread-self/net/udp"))?;
    let text = text.context("list the node's sockets")?;
    let own = format!("{:08X}", u32::from_ne_bytes(own.octets()));
    let port = |line: &str| {
        let (address, port) = line.split_whitespace().nth(1)?.split_once(':')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        (address == own && port != UNDERLAY_PORT).then_some(port)
    };
    Ok(text.lines().filter_map(port).collect())
}

/// "Fragmentation needed" (RFC 792, RFC 1191) about a datagram of the tunnel.
fn error(from: Ipv4Addr, to: Ipv4Addr, peer: Ipv4Addr, port: u16, mtu: u16) -> Vec<u8> {
    let header = |len: u16, protocol: u8, source: Ipv4Addr, destination: Ipv4Addr| {
        let mut bytes = [0_u8; 20];
        bytes[0] = 0x45;
        bytes[2..4].copy_from_slice(&len.to_be_bytes());
        // May not be fragmented.
        bytes[6] = 0x40;
        bytes[8] = 64;
        bytes[9] = protocol;
        bytes[12..16].copy_from_slice(&source.octets());
        bytes[16..].copy_from_slice(&destination.octets());
        let sum = checksum(&bytes);
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        bytes
    };
    let mut icmp = vec![3, 4, 0, 0, 0, 0];
    icmp.extend(mtu.to_be_bytes());
    icmp.extend(header(1500, 17, to, peer));
    icmp.extend(port.to_be_bytes());
    icmp.extend(UNDERLAY_PORT.to_be_bytes());
    icmp.extend(1480_u16.to_be_bytes());
    icmp.extend([0, 0]);
    let sum = checksum(&icmp);
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    let len = u16::try_from(20 + icmp.len()).unwrap_or(u16::MAX);
    [&header(len, 1, from, to)[..], &icmp].concat()
}

/// The Internet's checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| {
            let low = pair.get(1).copied().unwrap_or_default();
            u32::from(u16::from_be_bytes([pair[0], low]))
        })
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forged_error_has_right_checksums_and_quotes_the_tunnel() {
        let own = Ipv4Addr::new(192, 168, 1, 11);
        let peer = Ipv4Addr::new(192, 168, 1, 12);
        let bytes = error(Ipv4Addr::new(192, 168, 1, 1), own, peer, 40_007, 576);
        assert_eq!(checksum(&bytes[..20]), 0);
        assert_eq!(checksum(&bytes[20..]), 0);
        assert_eq!(bytes[20..22], [3, 4]);
        assert_eq!(bytes[26..28], 576_u16.to_be_bytes());
        assert_eq!(bytes[28 + 12..28 + 16], own.octets());
        assert_eq!(bytes[28 + 20..28 + 22], 40_007_u16.to_be_bytes());
        assert_eq!(bytes[28 + 22..28 + 24], UNDERLAY_PORT.to_be_bytes());
    }
}
