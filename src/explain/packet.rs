//! The packet that a question is about, made up.

use std::fmt;
use std::net::IpAddr;

use overlay_proto::checksum;
use serde::{Deserialize, Serialize};

use super::Question;

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
    let (ip_len, protocol) = match (question.source, question.destination, question.protocol) {
        (IpAddr::V4(_), IpAddr::V4(_), Protocol::Icmp) => (20, 1),
        (IpAddr::V6(_), IpAddr::V6(_), Protocol::Icmp) => (40, 58),
        (IpAddr::V4(_), IpAddr::V4(_), Protocol::Tcp) => (20, 6),
        (IpAddr::V6(_), IpAddr::V6(_), Protocol::Tcp) => (40, 6),
        (IpAddr::V4(_), IpAddr::V4(_), Protocol::Udp) => (20, 17),
        (IpAddr::V6(_), IpAddr::V6(_), Protocol::Udp) => (40, 17),
        (IpAddr::V4(_), IpAddr::V6(_), _) | (IpAddr::V6(_), IpAddr::V4(_), _) => {
            return Err(Impossible::Families);
        }
    };
    let (transport_len, checksum_at) = match question.protocol {
        Protocol::Tcp => (20, 16),
        Protocol::Udp => (8, 6),
        Protocol::Icmp => (8, 2),
    };
    let (size, least) = (usize::from(question.size), ip_len + transport_len);
    if size < least {
        return Err(Impossible::Size { size: question.size, least });
    }
    let mut bytes = vec![0; size];
    let transport = &mut bytes[ip_len..];
    let len = u16::try_from(transport.len()).unwrap_or(u16::MAX);
    match question.protocol {
        Protocol::Tcp | Protocol::Udp => {
            transport[0..2].copy_from_slice(&question.source_port.to_be_bytes());
            transport[2..4].copy_from_slice(&question.destination_port.to_be_bytes());
            if question.protocol == Protocol::Udp {
                transport[4..6].copy_from_slice(&len.to_be_bytes());
            } else {
                // Five words of header; ACK.
                transport[12..14].copy_from_slice(&[0x50, 0x10]);
            }
        }
        Protocol::Icmp => transport[0] = if protocol == 1 { 8 } else { 128 },
    }
    let pseudo = if protocol == 1 {
        checksum::Sum::ZERO
    } else {
        let (source, destination) = (question.source, question.destination);
        checksum::pseudo_header(source, destination, protocol, u32::from(len))
    };
    let sum = pseudo.push(transport).finish();
    let sum = if sum == 0 && protocol == 17 { 0xffff } else { sum };
    transport[checksum_at..checksum_at + 2].copy_from_slice(&sum.to_be_bytes());
    write_ip(question, protocol, &mut bytes);
    Ok(bytes)
}

fn write_ip(question: &Question, protocol: u8, bytes: &mut [u8]) {
    const HOPS: u8 = 64;
    match (question.source, question.destination) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let header = &mut bytes[..20];
            header[0] = 0x45;
            header[2..4].copy_from_slice(&question.size.to_be_bytes());
            header[6] = if question.may_fragment { 0 } else { 0x40 };
            header[8..10].copy_from_slice(&[HOPS, protocol]);
            header[12..16].copy_from_slice(&from.octets());
            header[16..20].copy_from_slice(&to.octets());
            let sum = checksum::checksum(header);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            bytes[0] = 0x60;
            bytes[4..6].copy_from_slice(&(question.size - 40).to_be_bytes());
            bytes[6..8].copy_from_slice(&[protocol, HOPS]);
            bytes[8..24].copy_from_slice(&from.octets());
            bytes[24..40].copy_from_slice(&to.octets());
        }
        // Refused before.
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {}
    }
}
