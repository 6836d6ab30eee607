//! The packet that a question is about, made up.

use std::fmt;
use std::net::IpAddr;

use etherparse::err::packet::BuildWriteError;
use etherparse::{
    IpHeaders, Ipv4Extensions, Ipv4Header, Ipv6Extensions, Ipv6Header, PacketBuilder,
};
use serde::{Deserialize, Serialize};

use super::Question;

/// Routers that the packet may pass, as Linux has it.
const HOPS: u8 = 64;

/// What a packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// An ICMP echo request of the packet's family.
    Icmp,
}

/// A question about a packet that cannot be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Impossible {
    /// Source and destination are of different families.
    Families,
    /// The packet is shorter than its headers.
    Size {
        /// The size asked for.
        size: u16,
        /// The least that there is.
        least: usize,
    },
}

impl fmt::Display for Impossible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Families => {
                f.write_str("source and destination are of different families; give two of one")
            }
            Self::Size { size, least } => {
                write!(f, "no such packet has {size} bytes; its headers alone are {least}")
            }
        }
    }
}

impl std::error::Error for Impossible {}

/// Makes the packet: zeros behind its headers, checksums right.
pub(super) fn build(question: &Question) -> Result<Vec<u8>, Impossible> {
    let ip = match (question.source, question.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let header = Ipv4Header {
                dont_fragment: !question.may_fragment,
                time_to_live: HOPS,
                source: source.octets(),
                destination: destination.octets(),
                ..Ipv4Header::default()
            };
            IpHeaders::Ipv4(header, Ipv4Extensions::default())
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let header = Ipv6Header {
                hop_limit: HOPS,
                source: source.octets(),
                destination: destination.octets(),
                ..Ipv6Header::default()
            };
            IpHeaders::Ipv6(header, Ipv6Extensions::default())
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {
            return Err(Impossible::Families);
        }
    };
    let (size, from, to) = (question.size, question.source_port, question.destination_port);
    let packet = PacketBuilder::ip(ip);
    match (question.protocol, question.source) {
        (Protocol::Tcp, _) => {
            let packet = packet.tcp(from, to, 0, 0).ack(0);
            fill(size, packet.size(0), |bytes, payload| packet.write(bytes, payload))
        }
        (Protocol::Udp, _) => {
            let packet = packet.udp(from, to);
            fill(size, packet.size(0), |bytes, payload| packet.write(bytes, payload))
        }
        (Protocol::Icmp, IpAddr::V4(_)) => {
            let packet = packet.icmpv4_echo_request(0, 0);
            fill(size, packet.size(0), |bytes, payload| packet.write(bytes, payload))
        }
        (Protocol::Icmp, IpAddr::V6(_)) => {
            let packet = packet.icmpv6_echo_request(0, 0);
            fill(size, packet.size(0), |bytes, payload| packet.write(bytes, payload))
        }
    }
}

/// A packet of `size` bytes that `write` makes, with headers of `least` bytes.
fn fill(
    size: u16,
    least: usize,
    write: impl FnOnce(&mut Vec<u8>, &[u8]) -> Result<(), BuildWriteError>,
) -> Result<Vec<u8>, Impossible> {
    let Some(len) = usize::from(size).checked_sub(least) else {
        return Err(Impossible::Size { size, least });
    };
    let mut bytes = Vec::with_capacity(size.into());
    // A length of 16 bits always fits.
    write(&mut bytes, &vec![0; len]).map_err(|_| Impossible::Size { size, least })?;
    Ok(bytes)
}
