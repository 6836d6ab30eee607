//! MTUs, and the arithmetic between an underlay's MTU and the MTU of the overlay upon it.
//!
//! It never asks a device for its MTU and never decides which one to use.

use core::error::Error;
use core::fmt;

use crate::Family;

/// The longest IP packet, in bytes and with its IP header, that a network carries whole.
///
/// One type serves the underlay and the overlay; [`shrink`](Self::shrink) leads from the first to
/// the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mtu(u16); // INVARIANT: >= Mtu::MIN

impl Mtu {
    /// The smallest MTU accepted: 576, what every IPv4 host can receive (RFC 1122 §3.3.2).
    ///
    /// RFC 791 lets a link go down to 68, but no network that carries pods does, and an ICMP error
    /// (at most 576 bytes, see [`icmp`](crate::icmp)) must fit too. IPv6 needs 1280; ask
    /// [`carries`](Self::carries).
    pub const MIN: u16 = Family::V4.min_mtu();

    /// What every network that carries IPv6 carries: 1280 (RFC 8200 §5).
    pub const IPV6_MIN: Self = Self(Family::V6.min_mtu());

    /// The largest MTU: an IPv4 total length has 16 bits.
    pub const MAX: u16 = u16::MAX;

    /// Takes `bytes` as an MTU.
    ///
    /// # Errors
    ///
    /// [`MtuError`] if `bytes` is outside [`MIN`](Self::MIN)`..=`[`MAX`](Self::MAX).
    #[inline]
    pub const fn new(bytes: u32) -> Result<Self, MtuError> {
        if bytes < Self::MIN as u32 {
            return Err(MtuError::TooSmall);
        }
        if bytes > Self::MAX as u32 {
            return Err(MtuError::TooLarge);
        }
        Ok(Self((bytes & 0xffff) as u16))
    }

    /// Returns the MTU in bytes.
    #[inline]
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }

    /// Returns the MTU left for inner packets after `overhead`: overlay from underlay.
    ///
    /// `None` if less than [`MIN`](Self::MIN) is left.
    #[inline]
    #[must_use]
    pub const fn shrink(self, overhead: Overhead) -> Option<Self> {
        match self.0.checked_sub(overhead.0) {
            Some(bytes) if bytes >= Self::MIN => Some(Self(bytes)),
            Some(_) | None => None,
        }
    }

    /// Says whether a network of this MTU may carry `family` at all: IPv6 needs 1280 (RFC 8200 §5).
    #[inline]
    #[must_use]
    pub const fn carries(self, family: Family) -> bool {
        self.0 >= family.min_mtu()
    }

    /// Says whether an IP packet of `len_bytes` fits.
    #[inline]
    #[must_use]
    pub const fn fits(self, len_bytes: usize) -> bool {
        len_bytes <= self.0 as usize
    }
}

impl fmt::Display for Mtu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// The bytes a codec adds to an inner packet, outer IP and UDP headers included.
///
/// Only [`Codec::overhead`](crate::Codec::overhead) makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Overhead(u16);

impl Overhead {
    /// Takes a number of bytes as overhead.
    pub(crate) const fn from_bytes(bytes: u16) -> Self {
        Self(bytes)
    }

    /// Returns the overhead in bytes.
    #[inline]
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for Overhead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Why a number is not an [`Mtu`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MtuError {
    /// It is less than [`Mtu::MIN`].
    TooSmall,
    /// It is more than [`Mtu::MAX`].
    TooLarge,
}

impl fmt::Display for MtuError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooSmall => write!(f, "an MTU is at least {} bytes", Mtu::MIN),
            Self::TooLarge => write!(f, "an MTU is at most {} bytes", Mtu::MAX),
        }
    }
}

impl Error for MtuError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Codec;

    fn mtu(bytes: u32) -> Mtu {
        Mtu::new(bytes).unwrap()
    }

    #[test]
    fn bounds_are_enforced() {
        assert_eq!(Mtu::new(575), Err(MtuError::TooSmall));
        assert_eq!(Mtu::new(65_536), Err(MtuError::TooLarge));
        assert_eq!(mtu(576).get(), 576);
        assert_eq!(mtu(65_535).get(), 65_535);
    }

    #[test]
    fn ethernet_underlay_leaves_1464_or_1444() {
        let gpe = Codec::VxlanGpe;
        assert_eq!(mtu(1500).shrink(gpe.overhead(Family::V4)), Some(mtu(1464)));
        assert_eq!(mtu(1500).shrink(gpe.overhead(Family::V6)), Some(mtu(1444)));
    }

    #[test]
    fn arithmetic_stops_at_the_bounds() {
        let overhead = Codec::VxlanGpe.overhead(Family::V4);
        assert_eq!(mtu(576 + 35).shrink(overhead), None);
        assert_eq!(mtu(576 + 36).shrink(overhead), Some(mtu(576)));
    }

    #[test]
    fn ipv6_needs_1280() {
        assert!(mtu(1279).carries(Family::V4));
        assert!(!mtu(1279).carries(Family::V6));
        assert!(mtu(1280).carries(Family::V6));
    }
}
