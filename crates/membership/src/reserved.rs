//! Addresses that no machine and no pod has for its own.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Blocks of IPv4 whose addresses name no single machine (RFC 6890).
const IPV4: [Ipv4Net; 3] = [
    // "This network", the unspecified address among it.
    Ipv4Net::new_assert(Ipv4Addr::new(0, 0, 0, 0), 8),
    // Loopback.
    Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8),
    // Multicast, and what follows it: reserved, with the broadcast address.
    Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 3),
];

/// The same of IPv6, and those whose addresses name a machine on one link only.
const IPV6: [Ipv6Net; 5] = [
    // Unspecified and loopback.
    Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 127),
    // IPv4 addresses as IPv6: one would never equal the source that an IPv6 socket reports.
    Ipv6Net::new_assert(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96),
    // Discard only (RFC 6666).
    Ipv6Net::new_assert(Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0), 64),
    // Link-local: no datagram can be sent to one without the name of a device.
    Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10),
    // Multicast.
    Ipv6Net::new_assert(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8),
];

/// The block that `net`, maybe a single address, has addresses of.
pub fn reserved(net: &IpNet) -> Option<IpNet> {
    match net {
        IpNet::V4(net) => {
            let block = IPV4.iter().find(|block| block.contains(net) || net.contains(*block))?;
            Some((*block).into())
        }
        IpNet::V6(net) => {
            let block = IPV6.iter().find(|block| block.contains(net) || net.contains(*block))?;
            Some((*block).into())
        }
    }
}
