//! The MAC address of a pod: the one that was asked for, or one that follows from its addresses.

use std::net::{IpAddr, Ipv4Addr};

use overlay_proto::Mac;

use crate::attachment::Fnv1a;
use crate::ipam::Allocation;

/// How a pod's MAC address begins: locally administered, unicast. With the first, an IPv4 address
/// follows; with the second, a hash.
const PREFIX_V4: [u8; 2] = [0x0a, 0x58];
const PREFIX_HASHED: u8 = 0x0e;

/// Reads an address that a device may have: six bytes in hexadecimal, with `:` or `-` between, not
/// of a group and not zero.
#[must_use]
pub fn parse(text: &str) -> Option<Mac> {
    text.replace('-', ":").parse().ok().filter(|mac: &Mac| mac.is_unicast())
}

/// The addresses that a pod may get, in the order in which they are tried.
///
/// The first follows from the pod's first IPv4 address, or else from its first address. So an
/// address that goes to another pod keeps its MAC, and no neighbour's cache of it can be wrong,
/// whether or not the announcement arrives. IPv4 addresses are unique on the bridge and go in
/// whole. Of an IPv6 address 40 bits of a hash go in, which two pods may share; then, and when
/// somebody asked for the MAC of an address that was no pod's yet, the next one is taken.
pub fn candidates(allocations: &[Allocation]) -> impl Iterator<Item = Mac> {
    let v4 = allocations.iter().find_map(|allocation| {
        if let IpAddr::V4(address) = allocation.address { Some(address) } else { None }
    });
    let first = allocations.first().map(|allocation| allocation.address);
    v4.map(of_ipv4).into_iter().chain((0..).map(move |attempt| hashed(first, attempt)))
}

fn of_ipv4(address: Ipv4Addr) -> Mac {
    let ([first, second], [a, b, c, d]) = (PREFIX_V4, address.octets());
    Mac::new([first, second, a, b, c, d])
}

fn hashed(address: Option<IpAddr>, attempt: u32) -> Mac {
    let mut hash = Fnv1a::new();
    hash.write(address.map(|address| address.to_string()).unwrap_or_default().as_bytes());
    if attempt > 0 {
        hash.write(&attempt.to_be_bytes());
    }
    let [a, b, c, d, e, ..] = hash.finish().to_be_bytes();
    Mac::new([PREFIX_HASHED, a, b, c, d, e])
}

/// The IPv4 address whose pod gets the MAC address `mac`, unless that pod asks for another.
#[must_use]
pub fn ipv4_of(mac: Mac) -> Option<Ipv4Addr> {
    let [first, second, address @ ..] = mac.octets();
    ([first, second] == PREFIX_V4).then(|| Ipv4Addr::from(address))
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
        candidates(&allocations).next().unwrap().to_string()
    }

    #[test]
    fn next_candidates_differ_and_are_of_one_device() {
        let address: IpAddr = "10.244.1.2".parse().unwrap();
        let allocation = Allocation { address, subnet: address.into(), gateway: address };
        let found: HashSet<_> =
            candidates(&[allocation]).take(100).map(|mac| mac.to_string()).collect();
        assert_eq!(found.len(), 100);
        assert!(found.iter().all(|mac| parse(mac).is_some()));
    }

    #[test]
    fn mac_of_an_ipv4_address_tells_it() {
        let of = |text: &str| parse(text).and_then(ipv4_of);
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
        let read = Mac::new([0x0a, 0x58, 0, 1, 0xfe, 0xff]);
        assert_eq!(read.to_string(), "0a:58:00:01:fe:ff");
        for text in ["0a:58:00:01:fe:ff", "0A-58-00-01-FE-FF"] {
            assert_eq!(parse(text), Some(read), "{text}");
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
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
