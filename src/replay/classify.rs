//! Which way a captured packet goes, and which part of it the data path would see.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

use overlay_proto::esp::{Slot, Spi};
use overlay_proto::{Ecn, Fragment, InnerPacket};

use super::row::{Direction, Skip};

const UDP: u8 = 0x11;
const UDP_LEN: usize = 8;

/// Where this node's tunnel is.
#[derive(Clone, Debug)]
pub(super) struct Tunnel {
    pub(super) address: IpAddr,
    /// Ports that the node or one of its peers receives on.
    pub(super) ports: Vec<u16>,
    /// The port of what is sealed, on a node that seals.
    pub(super) sealed_port: Option<u16>,
    /// The sessions that somebody has given the keys of, by their slots.
    pub(super) opens: HashSet<Slot>,
}

/// What the data path would see.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Seen<'a> {
    /// A packet of a pod.
    Egress(&'a [u8]),
    /// The payload of a datagram.
    Ingress {
        source: SocketAddr,
        port: u16,
        /// Whether it is to be opened first.
        sealed: bool,
        ecn: Ecn,
        datagram: &'a [u8],
        packet_len: usize,
    },
}

/// Looks at `packet`, which begins with an IP header.
pub(super) fn classify<'a>(
    tunnel: &Tunnel,
    packet: &'a [u8],
    forced: Option<Direction>,
) -> Result<Seen<'a>, Skip> {
    if forced == Some(Direction::Egress) {
        return Ok(Seen::Egress(whole(packet)));
    }
    let parsed = match InnerPacket::parse(packet) {
        Ok(parsed) => parsed,
        Err(_) if forced == Some(Direction::Ingress) => return Err(Skip::NotUdp),
        Err(_) => return Ok(Seen::Egress(packet)),
    };
    let upper = parsed.upper_layer();
    let is_udp = upper.protocol == UDP;
    let port = parsed.ports().filter(|_| is_udp).map(|(_, to)| to);
    let is_sealed = port.is_some() && port == tunnel.sealed_port;
    let tunneled = is_sealed || port.is_some_and(|to| tunnel.ports.contains(&to));
    if forced.is_none() {
        let ours = tunnel.address == parsed.destination();
        if tunneled && tunnel.address == parsed.source() {
            return Err(Skip::OwnDatagram);
        }
        if is_udp && ours && upper.fragment == Fragment::Later {
            return Err(Skip::OuterFragment);
        }
        if !(tunneled && ours) {
            return Ok(Seen::Egress(parsed.bytes()));
        }
    }
    if is_sealed && tunnel.opens.is_empty() {
        return Err(Skip::Sealed);
    }
    if !is_udp {
        return Err(Skip::NotUdp);
    }
    if upper.fragment != Fragment::Whole {
        return Err(Skip::OuterFragment);
    }
    let udp = &parsed.bytes()[upper.offset..];
    let Some((header, _)) = udp.split_first_chunk::<UDP_LEN>() else {
        return Err(Skip::UdpLength);
    };
    let len = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let datagram = udp.get(UDP_LEN..len).ok_or(Skip::UdpLength)?;
    let opens = || slot_of(datagram).is_some_and(|slot| tunnel.opens.contains(&slot));
    if is_sealed && !opens() {
        return Err(Skip::Sealed);
    }
    Ok(Seen::Ingress {
        source: SocketAddr::new(parsed.source(), u16::from_be_bytes([header[0], header[1]])),
        port: u16::from_be_bytes([header[2], header[3]]),
        sealed: is_sealed,
        ecn: parsed.ecn(),
        datagram,
        packet_len: parsed.len(),
    })
}

/// The session that a sealed datagram says it is of; none if it is a handshake.
fn slot_of(datagram: &[u8]) -> Option<Slot> {
    let (spi, _) = datagram.split_first_chunk::<4>()?;
    Some(Spi::from_bits(u32::from_be_bytes(*spi))?.slot())
}

/// The packet without what pads it on its link.
fn whole(packet: &[u8]) -> &[u8] {
    InnerPacket::parse(packet).map_or(packet, |parsed| parsed.bytes())
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;

    fn tunnel() -> Tunnel {
        Tunnel {
            address: IpAddr::from([192, 168, 1, 11]),
            ports: vec![4790],
            sealed_port: Some(4500),
            opens: HashSet::new(),
        }
    }

    fn datagram(from: [u8; 4], to: [u8; 4], port: u16) -> Vec<u8> {
        let mut bytes = Vec::new();
        PacketBuilder::ipv4(from, to, 64).udp(5555, port).write(&mut bytes, b"payload").unwrap();
        bytes
    }

    #[test]
    fn what_is_sealed_is_told_from_what_pods_send() {
        let (node1, node2) = ([192, 168, 1, 11], [192, 168, 1, 12]);
        let arriving = datagram(node2, node1, 4500);
        for forced in [None, Some(Direction::Ingress)] {
            assert_eq!(classify(&tunnel(), &arriving, forced), Err(Skip::Sealed));
        }
        let leaving = datagram(node1, node2, 4500);
        assert_eq!(classify(&tunnel(), &leaving, None), Err(Skip::OwnDatagram));
        let off = Tunnel { sealed_port: None, ..tunnel() };
        assert_eq!(classify(&off, &arriving, None), Ok(Seen::Egress(&arriving)));
        let of_pods = datagram([10, 244, 1, 2], [10, 244, 2, 2], 4500);
        assert_eq!(classify(&tunnel(), &of_pods, None), Ok(Seen::Egress(&of_pods)));
    }

    #[test]
    fn what_is_sealed_is_seen_where_there_is_a_key_of_its_session() {
        let (node1, node2) = ([192, 168, 1, 11], [192, 168, 1, 12]);
        let mut arriving = datagram(node2, node1, 4500);
        let slot = Slot::new(0x12345).unwrap();
        let with_key = Tunnel { opens: [slot].into(), ..tunnel() };
        assert_eq!(classify(&with_key, &arriving, None), Err(Skip::Sealed), "of another session");
        arriving[28..32].copy_from_slice(&[0x12, 0x34, 0x50, 3]);
        let seen = classify(&with_key, &arriving, None);
        assert!(matches!(seen, Ok(Seen::Ingress { sealed: true, port: 4500, .. })), "{seen:?}");
        arriving[28..32].copy_from_slice(&[0; 4]);
        assert_eq!(classify(&with_key, &arriving, None), Err(Skip::Sealed), "a handshake");
    }

    #[test]
    fn only_datagrams_to_this_nodes_tunnel_are_ingress() {
        let (node1, node2) = ([192, 168, 1, 11], [192, 168, 1, 12]);
        let arriving = datagram(node2, node1, 4790);
        let seen = classify(&tunnel(), &arriving, None);
        let Ok(Seen::Ingress { source, datagram: payload, packet_len: 35, .. }) = seen else {
            panic!("{seen:?}");
        };
        assert_eq!((source, payload), (SocketAddr::from((node2, 5555)), &b"payload"[..]));

        let leaving = datagram(node1, node2, 4790);
        assert_eq!(classify(&tunnel(), &leaving, None), Err(Skip::OwnDatagram));
        for other in [datagram(node2, node1, 53), datagram(node2, [192, 168, 1, 13], 4790)] {
            assert_eq!(classify(&tunnel(), &other, None), Ok(Seen::Egress(&other)));
        }
        let forced = classify(&tunnel(), &arriving, Some(Direction::Egress));
        assert_eq!(forced, Ok(Seen::Egress(&arriving)));
    }

    #[test]
    fn padding_of_the_link_is_left_out() {
        let packet = datagram([10, 244, 1, 2], [10, 244, 2, 2], 53);
        let padded = [&packet[..], &[0; 11]].concat();
        assert_eq!(classify(&tunnel(), &padded, None), Ok(Seen::Egress(&packet)));
    }

    #[test]
    fn what_the_kernel_would_not_hand_over_is_skipped_and_said_so() {
        let (node1, node2) = ([192, 168, 1, 11], [192, 168, 1, 12]);
        let mut fragment = datagram(node2, node1, 4790);
        fragment[6] = 0x20;
        assert_eq!(classify(&tunnel(), &fragment, None), Err(Skip::OuterFragment));
        let mut later = datagram(node2, node1, 4790);
        later[7] = 3;
        assert_eq!(classify(&tunnel(), &later, None), Err(Skip::OuterFragment));
        for len in [0_u16, 7, 16, 9999] {
            let mut bad = datagram(node2, node1, 4790);
            bad[24..26].copy_from_slice(&len.to_be_bytes());
            assert_eq!(classify(&tunnel(), &bad, None), Err(Skip::UdpLength), "{len}");
        }
        let forced = Some(Direction::Ingress);
        assert_eq!(classify(&tunnel(), b"rubbish", forced), Err(Skip::NotUdp));
    }
}
