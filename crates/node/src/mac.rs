//! The MAC address of a pod: the one that was asked for, or one that follows from its addresses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use crate::attachment::Fnv1a;
use crate::ipam::Allocation;

/// How a pod's MAC address begins: locally administered, unicast. With the first, an IPv4 address
/// follows; with the second, a hash.
const PREFIX_V4: [u8; 2] = [0x0a, 0x58];
const PREFIX_HASHED: u8 = 0x0e;

/// The bit of the first byte that makes an address one of a group.
const GROUP_BIT: u8 = 0x01;

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    /// Reads an address that a device may have: six bytes in hexadecimal, with `:` or `-` between,
    /// not of a group and not zero.
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            let is_byte = |part: &&str| {
                part.len() == 2 && part.bytes().all(|digit| digit.is_ascii_hexdigit())
            };
            let part = parts.next().filter(is_byte)?;
            *byte = u8::from_str_radix(part, 16).ok()?;
        }
        let fits = parts.next().is_none() && bytes[0] & GROUP_BIT == 0 && bytes != [0; 6];
        fits.then_some(Self(bytes))
    }

    /// The addresses that a pod may get, in the order in which they are tried.
    ///
    /// The first follows from the pod's first IPv4 address, or else from its first address. So an
    /// address that goes to another pod keeps its MAC, and no neighbour's cache of it can be wrong,
    /// whether or not the announcement arrives. IPv4 addresses are unique on the bridge and go in
    /// whole. Of an IPv6 address 40 bits of a hash go in, which two pods may share; then, and when
    /// somebody asked for the MAC of an address that was no pod's yet, the next one is taken.
    pub fn candidates(allocations: &[Allocation]) -> impl Iterator<Item = Self> {
        let v4 = allocations.iter().find_map(|allocation| {
            if let IpAddr::V4(address) = allocation.address { Some(address) } else { None }
        });
        let first = allocations.first().map(|allocation| allocation.address);
        let hashed = (0u32..).map(move |attempt| Self::hashed(first, attempt));
        v4.map(Self::of_ipv4).into_iter().chain(hashed)
    }

    fn of_ipv4(address: Ipv4Addr) -> Self {
        let mut mac = [0; 6];
        mac[..2].copy_from_slice(&PREFIX_V4);
        mac[2..].copy_from_slice(&address.octets());
        Self(mac)
    }

    fn hashed(address: Option<IpAddr>, attempt: u32) -> Self {
        let mut hash = Fnv1a::new();
        hash.write(address.map(|address| address.to_string()).unwrap_or_default().as_bytes());
        if attempt > 0 {
            hash.write(&attempt.to_be_bytes());
        }
        let mut mac = [0; 6];
        mac[0] = PREFIX_HASHED;
        mac[1..].copy_from_slice(&hash.finish().to_be_bytes()[..5]);
        Self(mac)
    }

    /// The IPv4 address whose pod gets this MAC address, unless that pod asks for another.
    pub fn ipv4(self) -> Option<Ipv4Addr> {
        let [a, b, address @ ..] = self.0;
        ([a, b] == PREFIX_V4).then(|| Ipv4Addr::from(address))
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(formatter, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn mac(addresses: &[&str]) -> String {
        let allocations: Vec<_> = addresses
            .iter()
            .map(|address| {
                let address: IpAddr = address.parse().unwrap();
                Allocation { address, subnet: address.into(), gateway: address }
            })
            .collect();
        MacAddress::candidates(&allocations).next().unwrap().to_string()
    }

    #[test]
    fn next_candidates_differ_and_are_of_one_device() {
        let address: IpAddr = "10.244.1.2".parse().unwrap();
        let allocation = Allocation { address, subnet: address.into(), gateway: address };
        let found: HashSet<_> =
            MacAddress::candidates(&[allocation]).take(100).map(|mac| mac.to_string()).collect();
        assert_eq!(found.len(), 100);
        assert!(found.iter().all(|mac| MacAddress::parse(mac).is_some()));
    }

    #[test]
    fn mac_of_an_ipv4_address_tells_it() {
        let of = |text: &str| MacAddress::parse(text).unwrap().ipv4();
        assert_eq!(of("0a:58:0a:f4:01:02"), Some(Ipv4Addr::new(10, 244, 1, 2)));
        assert_eq!(of("02:58:0a:f4:01:02"), None);
    }

    #[test]
    fn mac_spells_the_ipv4_address() {
        assert_eq!(mac(&["10.244.1.2"]), "0a:58:0a:f4:01:02");
        assert_eq!(mac(&["fd00::2", "10.244.1.2"]), "0a:58:0a:f4:01:02");
    }

    #[test]
    fn macs_of_neighbouring_ipv6_addresses_differ() {
        assert_ne!(mac(&["fd00::2"]), mac(&["fd00::3"]));
        assert!(mac(&["fd00::2"]).starts_with("0e:"));
    }

    #[test]
    fn addresses_that_a_device_may_have_are_read_and_written_alike() {
        let mac = MacAddress([0x0a, 0x58, 0, 1, 0xfe, 0xff]);
        assert_eq!(mac.to_string(), "0a:58:00:01:fe:ff");
        for text in ["0a:58:00:01:fe:ff", "0A-58-00-01-FE-FF"] {
            assert_eq!(MacAddress::parse(text), Some(mac), "{text}");
        }
        for text in [
            "",
            "0a:58:00:01:fe",
            "0a:58:00:01:fe:ff:00",
            "0a58.0001.feff",
            "00:00:00:00:00:00",
            "01:00:5e:00:00:01",
            "ff:ff:ff:ff:ff:ff",
            "+a:58:00:01:fe:ff",
            "0g:58:00:01:fe:ff",
        ] {
            assert_eq!(MacAddress::parse(text), None, "{text}");
        }
    }
}
