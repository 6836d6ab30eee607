//! A packet that is followed, as far as it is known.

use std::net::IpAddr;

/// A device that a packet comes or leaves by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
}

/// An end of a packet: an address, or any of a subnet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    address: IpAddr,
    /// How many of its first bits are known.
    bits: u8,
}

impl End {
    /// Any of the addresses that have the first `bits` in common with this one.
    #[must_use]
    pub const fn within(address: IpAddr, bits: u8) -> Self {
        Self { address, bits }
    }

    /// Whether it is one of IPv4.
    #[must_use]
    pub const fn is_ipv4(&self) -> bool {
        self.address.is_ipv4()
    }

    /// The byte at `offset` of the address, if all of it is known.
    fn byte(&self, offset: usize) -> Option<u8> {
        if 8 * (offset + 1) > usize::from(self.bits) {
            return None;
        }
        match self.address {
            IpAddr::V4(address) => address.octets().get(offset).copied(),
            IpAddr::V6(address) => address.octets().get(offset).copied(),
        }
    }
}

impl From<IpAddr> for End {
    fn from(address: IpAddr) -> Self {
        Self { address, bits: if address.is_ipv4() { 32 } else { 128 } }
    }
}

/// What a packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Anything: rules about protocols and ports are not known to match.
    Any,
    /// TCP.
    Tcp {
        /// The source port.
        source: u16,
        /// The destination port.
        destination: u16,
    },
    /// An ICMP echo request of the packet's family.
    Icmp,
    /// UDP.
    Udp {
        /// The source port, if that is known.
        source: Option<u16>,
        /// The destination port.
        destination: u16,
    },
}

/// A packet that opens a connection, or belongs to none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Where it comes from.
    pub source: End,
    /// Where it goes.
    pub destination: End,
    /// What it carries.
    pub transport: Transport,
    /// The device that it came by; none if this machine sends it.
    pub input: Option<Device>,
    /// The device that it leaves by; none if it ends here.
    pub output: Option<Device>,
    /// Its mark.
    pub mark: u32,
    /// Whether connections are tracked for it.
    pub is_tracked: bool,
}

/// `IPPROTO_ICMP`, `IPPROTO_TCP`, `IPPROTO_UDP`, `IPPROTO_ICMPV6`.
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

impl Packet {
    /// Whether it is of IPv4.
    pub(super) const fn is_ipv4(&self) -> bool {
        self.source.is_ipv4()
    }

    /// Its upper protocol, if that is known.
    pub(super) const fn protocol(&self) -> Option<u8> {
        match self.transport {
            Transport::Any => None,
            Transport::Tcp { .. } => Some(TCP),
            Transport::Icmp => Some(if self.is_ipv4() { ICMP } else { ICMPV6 }),
            Transport::Udp { .. } => Some(UDP),
        }
    }

    /// Its type as a frame's (`ETH_P_IP`, `ETH_P_IPV6`).
    pub(super) const fn ether_type(&self) -> [u8; 2] {
        if self.is_ipv4() { [0x08, 0x00] } else { [0x86, 0xdd] }
    }

    /// The byte at `offset` of its IP header, if that is known.
    pub(super) fn network(&self, offset: usize) -> Option<u8> {
        let (source, destination, protocol_at) =
            if self.is_ipv4() { (12..16, 16..20, 9) } else { (8..24, 24..40, 6) };
        if source.contains(&offset) {
            self.source.byte(offset - source.start)
        } else if destination.contains(&offset) {
            self.destination.byte(offset - destination.start)
        } else if offset == protocol_at {
            self.protocol()
        } else {
            None
        }
    }

    /// The byte at `offset` of its upper header, if that is known.
    pub(super) fn upper(&self, offset: usize) -> Option<u8> {
        let (source, destination) = match self.transport {
            Transport::Any => return None,
            // ICMP of the two families calls it by different numbers.
            Transport::Icmp => {
                return (offset == 0).then_some(if self.is_ipv4() { 8 } else { 128 });
            }
            Transport::Tcp { source, destination } => (Some(source), destination),
            Transport::Udp { source, destination } => (source, destination),
        };
        match offset {
            0 | 1 => source.map(|port| port.to_be_bytes()[offset]),
            2 | 3 => Some(destination.to_be_bytes()[offset - 2]),
            _ => None,
        }
    }
}
