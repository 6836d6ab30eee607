//! Packets made by hand.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, bail};
use socket2::{Domain, Protocol, Socket, Type};

use super::super::netns::Netns;

/// `IPPROTO_RAW`: a socket that takes whole packets.
const WHOLE_PACKETS: i32 = 255;

/// Sends `packet`, from its IP header on, out of the namespace `from`. The kernel routes it by its
/// destination and fills in what IPv4 leaves it: length, header checksum.
///
/// # Errors
///
/// It is no IP packet, or the kernel refused it.
pub fn send_packet(from: &Netns, packet: &[u8]) -> Result<()> {
    send_packet_with_mark(from, packet, 0)
}

/// The same by a socket that has `mark`, for rules that ask for one.
///
/// # Errors
///
/// As [`send_packet`].
pub fn send_packet_with_mark(from: &Netns, packet: &[u8], mark: u32) -> Result<()> {
    let to = destination(packet).context("read the packet's destination")?;
    let domain = if to.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = from
        .run(|| Socket::new(domain, Type::RAW, Some(Protocol::from(WHOLE_PACKETS))))?
        .context("open a raw socket")?;
    socket.set_mark(mark).context("mark a raw socket")?;
    let sent = socket
        .send_to(packet, &SocketAddr::new(to, 0).into())
        .with_context(|| format!("send a packet to {to} from {}", from.name()))?;
    if sent != packet.len() {
        bail!("{sent} of {} bytes were sent", packet.len());
    }
    Ok(())
}

fn destination(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(packet.get(16..20)?).ok()?)),
        6 => Some(IpAddr::from(<[u8; 16]>::try_from(packet.get(24..40)?).ok()?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_destination_is_read_from_either_header() {
        let mut v4 = [0; 20];
        v4[0] = 0x45;
        v4[16..].copy_from_slice(&[10, 244, 2, 2]);
        assert_eq!(destination(&v4), Some([10, 244, 2, 2].into()));
        let mut v6 = [0; 40];
        v6[0] = 0x60;
        v6[39] = 1;
        assert_eq!(destination(&v6), Some("::1".parse().unwrap()));
        assert_eq!(destination(&v4[..19]), None);
        assert_eq!(destination(&[]), None);
    }
}
