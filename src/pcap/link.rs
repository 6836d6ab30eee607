//! From a captured frame to the IP packet in it.

use std::fmt;

/// What kind of frames an interface was captured with: a LINKTYPE number of the registry that pcap
/// and pcapng share (draft-ietf-opsawg-pcaplinktype).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkType {
    /// LINKTYPE_ETHERNET.
    Ethernet,
    /// LINKTYPE_RAW, LINKTYPE_IPV4 and LINKTYPE_IPV6: the packet without anything before it.
    Raw,
    /// LINKTYPE_LINUX_SLL: what `tcpdump -i any` wrote before 2019.
    Cooked,
    /// LINKTYPE_LINUX_SLL2: what it writes now.
    Cooked2,
    /// One that cannot be read.
    Other(u16),
}

impl LinkType {
    /// The link type of this number. `DLT_RAW` has two more numbers in old files.
    pub(crate) fn from_number(number: u16) -> Self {
        match number {
            1 => Self::Ethernet,
            12 | 14 | 101 | 228 | 229 => Self::Raw,
            113 => Self::Cooked,
            276 => Self::Cooked2,
            other => Self::Other(other),
        }
    }
}

/// Why a frame has no IP packet to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoPacket {
    /// It carries something else, such as ARP.
    NotIp,
    /// It ends within its link header.
    TooShort,
    /// Frames of this link type cannot be read.
    Link(u16),
}

impl fmt::Display for NoPacket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotIp => f.write_str("not_ip"),
            Self::TooShort => f.write_str("frame_too_short"),
            Self::Link(number) => write!(f, "link_type_{number}"),
        }
    }
}

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
/// 802.1Q, 802.1ad, and what QinQ used before there was a number for it.
const VLAN_TAGS: [u16; 3] = [0x8100, 0x88a8, 0x9100];

/// Where an Ethernet header has its type (IEEE 802.3).
const ETHERNET_TYPE: usize = 12;
/// Where the two cooked headers have theirs, and how long they are.
const COOKED_TYPE: usize = 14;
const COOKED_LEN: usize = 16;
const COOKED2_TYPE: usize = 0;
const COOKED2_LEN: usize = 20;

/// Returns what follows the link header of `frame`, VLAN tags left out. It begins with an IP
/// header, which is not looked at.
///
/// # Errors
///
/// There is no IP packet.
pub fn network_layer(link: LinkType, frame: &[u8]) -> Result<&[u8], NoPacket> {
    match link {
        LinkType::Raw => Ok(frame),
        LinkType::Ethernet => behind(frame, ETHERNET_TYPE, ETHERNET_TYPE + 2),
        LinkType::Cooked => behind(frame, COOKED_TYPE, COOKED_LEN),
        LinkType::Cooked2 => behind(frame, COOKED2_TYPE, COOKED2_LEN),
        LinkType::Other(number) => Err(NoPacket::Link(number)),
    }
}

/// Follows VLAN tags from the type field at `kind` and the payload at `start` on.
fn behind(frame: &[u8], mut kind: usize, mut start: usize) -> Result<&[u8], NoPacket> {
    loop {
        let field = frame.get(kind..kind + 2).ok_or(NoPacket::TooShort)?;
        let value = u16::from_be_bytes([field[0], field[1]]);
        if VLAN_TAGS.contains(&value) {
            // A tag is two bytes of VLAN and two of the next type.
            kind = start + 2;
            start += 4;
            continue;
        }
        let payload = frame.get(start..).ok_or(NoPacket::TooShort)?;
        return match value {
            ETHERTYPE_IPV4 | ETHERTYPE_IPV6 => Ok(payload),
            _ => Err(NoPacket::NotIp),
        };
    }
}
