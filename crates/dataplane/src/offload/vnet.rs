//! The virtio-net header in front of every packet on a TUN queue.
//!
//! Layout and values are those of `include/uapi/linux/virtio_net.h`; fields are in native byte
//! order unless `TUNSETVNETLE` says otherwise, which we leave alone.
//!
//! ```text
//!  0      1         2        4         6           8            10
//!  flags  gso_type  hdr_len  gso_size  csum_start  csum_offset
//! ```

use crate::platform::tun::VNET_HEADER_LEN;

const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;

const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
/// A bit beside the type: the TCP super-packet has CWR set, which only its first segment may have.
const GSO_ECN: u8 = 0x80;

/// What kind of super-packet a packet is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gso {
    /// None: a packet as it stands.
    #[default]
    None,
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP over either.
    Udp,
}

/// Where a checksum is to be finished: its field holds the sum of the pseudo-header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartialChecksum {
    /// First byte that the checksum covers.
    pub start: u16,
    /// Place of the field, counted from `start`.
    pub offset: u16,
}

/// A virtio-net header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VnetHeader {
    /// The checksum that is to be finished, if any.
    pub partial: Option<PartialChecksum>,
    /// Whether somebody has verified the transport checksum.
    pub verified: bool,
    /// The kind of super-packet.
    pub gso: Gso,
    /// Whether a TCP super-packet has CWR set.
    pub cwr: bool,
    /// Bytes of IP and transport header of a super-packet; a hint that may be wrong.
    pub header_len: u16,
    /// Payload bytes of each packet but the last that the super-packet stands for.
    pub gso_size: u16,
}

/// A virtio-net header that means nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VnetError;

impl VnetHeader {
    /// Reads a header.
    ///
    /// # Errors
    ///
    /// A kind of super-packet that was not asked for, or a super-packet without a segment size.
    pub fn decode(bytes: &[u8; VNET_HEADER_LEN]) -> Result<Self, VnetError> {
        let field = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        let gso = match bytes[1] & !GSO_ECN {
            GSO_NONE => Gso::None,
            GSO_TCPV4 => Gso::Tcp4,
            GSO_TCPV6 => Gso::Tcp6,
            GSO_UDP_L4 => Gso::Udp,
            _ => return Err(VnetError),
        };
        if gso != Gso::None && field(4) == 0 {
            return Err(VnetError);
        }
        Ok(Self {
            partial: (bytes[0] & NEEDS_CSUM != 0)
                .then(|| PartialChecksum { start: field(6), offset: field(8) }),
            verified: bytes[0] & DATA_VALID != 0,
            gso,
            cwr: bytes[1] & GSO_ECN != 0,
            header_len: field(2),
            gso_size: field(4),
        })
    }

    /// Writes the header.
    pub fn encode(&self) -> [u8; VNET_HEADER_LEN] {
        let kind = match self.gso {
            Gso::None => GSO_NONE,
            Gso::Tcp4 => GSO_TCPV4,
            Gso::Tcp6 => GSO_TCPV6,
            Gso::Udp => GSO_UDP_L4,
        };
        let mut bytes = [0; VNET_HEADER_LEN];
        bytes[0] = if self.verified { DATA_VALID } else { 0 };
        bytes[1] = kind | if self.cwr { GSO_ECN } else { 0 };
        bytes[2..4].copy_from_slice(&self.header_len.to_ne_bytes());
        bytes[4..6].copy_from_slice(&self.gso_size.to_ne_bytes());
        if let Some(partial) = self.partial {
            bytes[0] = NEEDS_CSUM;
            bytes[6..8].copy_from_slice(&partial.start.to_ne_bytes());
            bytes[8..10].copy_from_slice(&partial.offset.to_ne_bytes());
        }
        bytes
    }
}
