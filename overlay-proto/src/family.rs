//! The IP version of a packet or of an underlay, and what follows from the version alone.
//!
//! It never looks at packet bytes.

use core::fmt;
use core::net::IpAddr;

/// The IP version of an inner packet or of the underlay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4 (RFC 791).
    V4,
    /// IPv6 (RFC 8200).
    V6,
}

impl Family {
    /// Both, IPv4 first.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// Returns the family that `address` belongs to.
    ///
    /// An IPv4-mapped IPv6 address (`::ffff:10.0.0.1`) is IPv6 here, as it would be on the wire.
    #[inline]
    #[must_use]
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// Returns the length in bytes of the IP header without options or extension headers.
    #[inline]
    #[must_use]
    pub const fn header_len(self) -> usize {
        match self {
            Self::V4 => 20, // RFC 791 §3.1: five 32-bit words
            Self::V6 => 40, // RFC 8200 §3: two words and two 16-byte addresses
        }
    }

    /// Returns the smallest MTU, in bytes, a link must have to carry this family here.
    ///
    /// IPv6 demands 1280 of every link (RFC 8200 §5). IPv4 has no such rule for links; 576 is what
    /// every host must be able to receive (RFC 1122 §3.3.2) and the floor of [`Mtu`](crate::Mtu).
    #[inline]
    #[must_use]
    pub const fn min_mtu(self) -> u16 {
        match self {
            Self::V4 => 576,
            Self::V6 => 1280,
        }
    }

    /// Returns the name, as it is written in a sentence.
    #[inline]
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
