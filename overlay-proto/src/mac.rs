//! The Ethernet address of a tunnel's end, which the VXLAN codec has and no other.
//!
//! It never looks at frames and never asks a device for its address.

use core::error::Error;
use core::fmt;
use core::net::IpAddr;
use core::str::FromStr;

/// First bytes of a [derived](Mac::derived) address: locally administered (IEEE 802 §8.4), unicast.
const DERIVED_PREFIX: [u8; 2] = [0x02, 0xce];

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac([u8; 6]);

impl Mac {
    /// Takes `octets` as an address.
    #[inline]
    #[must_use]
    pub const fn new(octets: [u8; 6]) -> Self {
        Self(octets)
    }

    /// Returns the octets, in the order in which they are sent.
    #[inline]
    #[must_use]
    pub const fn octets(self) -> [u8; 6] {
        self.0
    }

    /// Says whether one device can have the address: it is neither a group's nor zero.
    #[inline]
    #[must_use]
    pub const fn is_unicast(self) -> bool {
        let [a, b, c, d, e, f] = self.0;
        a & 0x01 == 0 && a | b | c | d | e | f != 0
    }

    /// Returns the address of the tunnel's end on the node with the underlay address `node`, which
    /// is the same for ever and on every machine that asks.
    ///
    /// `02:ce` and the four bytes of an IPv4 address, or the four 32-bit words of an IPv6 address
    /// folded into one: each rotated by five bits more to the left than the one after it, and all
    /// of them XORed.
    #[must_use]
    pub const fn derived(node: IpAddr) -> Self {
        let bits = match node {
            IpAddr::V4(node) => node.to_bits(),
            IpAddr::V6(node) => {
                let bits = node.to_bits();
                word(bits, 96).rotate_left(15)
                    ^ word(bits, 64).rotate_left(10)
                    ^ word(bits, 32).rotate_left(5)
                    ^ word(bits, 0)
            }
        };
        let [first, second] = DERIVED_PREFIX;
        let [a, b, c, d] = bits.to_be_bytes();
        Self([first, second, a, b, c, d])
    }
}

/// Returns the 32 bits of `bits` that begin at `shift`.
const fn word(bits: u128, shift: u32) -> u32 {
    ((bits >> shift) & 0xffff_ffff) as u32
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for Mac {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part = parts.next().ok_or(MacError)?;
            let is_hex = part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
            *octet = u8::from_str_radix(part, 16).ok().filter(|_| is_hex).ok_or(MacError)?;
        }
        if parts.next().is_some() { Err(MacError) } else { Ok(Self(octets)) }
    }
}

/// The text is not a [`Mac`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MacError;

impl fmt::Display for MacError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an Ethernet address, which is six pairs of hexadecimal digits")
    }
}

impl Error for MacError {}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::collections::BTreeSet;
    use std::string::ToString;

    #[test]
    fn text_round_trips_and_nothing_else_is_taken() {
        let mac = Mac::new([0x02, 0xce, 0x00, 0x0a, 0xf0, 0xff]);
        assert_eq!(mac.to_string(), "02:ce:00:0a:f0:ff");
        assert_eq!("02:CE:00:0a:F0:ff".parse(), Ok(mac));
        for text in [
            "",
            "02:ce:00:0a:f0",
            "02:ce:00:0a:f0:ff:00",
            "2:ce:00:0a:f0:ff",
            "02-ce-00-0a-f0-ff",
            "02:ce:00:0a:f0:+f",
            "02:ce:00:0a:f0:fg",
        ] {
            assert_eq!(text.parse::<Mac>(), Err(MacError), "{text}");
        }
    }

    #[test]
    fn only_a_single_device_is_unicast() {
        assert!(Mac::new([2, 0, 0, 0, 0, 1]).is_unicast());
        for octets in [[0; 6], [0xff; 6], [1, 0, 0x5e, 0, 0, 1], [0x33, 0x33, 0, 0, 0, 1]] {
            assert!(!Mac::new(octets).is_unicast(), "{octets:?}");
        }
    }

    #[test]
    fn nodes_have_addresses_of_their_own() {
        let node = IpAddr::from([192, 168, 1, 11]);
        assert_eq!(Mac::derived(node).to_string(), "02:ce:c0:a8:01:0b");
        assert!(Mac::derived(node).is_unicast());
        let node = |net: u16, host: u16| IpAddr::from([0xfd00, 0x192, net, 1, 0, 0, 0, host]);
        let macs: BTreeSet<Mac> = (0..64)
            .flat_map(|net| (0..64).map(move |host| Mac::derived(node(net, host))))
            .collect();
        assert_eq!(macs.len(), 64 * 64);
    }
}
