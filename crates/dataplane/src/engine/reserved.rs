//! Addresses that no machine and no pod has for its own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Blocks whose addresses name no single machine (RFC 6890), or name one on one link only.
const BLOCKS: [IpNet; 8] = [
    // "This network", the unspecified address among it.
    v4([0, 0, 0, 0], 8),
    // Loopback.
    v4([127, 0, 0, 0], 8),
    // Multicast, and what follows it: reserved, with the broadcast address.
    v4([224, 0, 0, 0], 3),
    // Unspecified and loopback.
    v6([0; 8], 127),
    // IPv4 addresses as IPv6: one would never equal the source that an IPv6 socket reports.
    v6([0, 0, 0, 0, 0, 0xffff, 0, 0], 96),
    // Link-local: no datagram can be sent to one without the name of a device.
    v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10),
    // Multicast.
    v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8),
    // Discard only (RFC 6666).
    v6([0x100, 0, 0, 0, 0, 0, 0, 0], 64),
];

/// The block that `net`, maybe a single address, has addresses of.
pub fn reserved(net: &IpNet) -> Option<IpNet> {
    BLOCKS.into_iter().find(|block| block.contains(net) || net.contains(block))
}

const fn v4([a, b, c, d]: [u8; 4], len: u8) -> IpNet {
    IpNet::new_assert(IpAddr::V4(Ipv4Addr::new(a, b, c, d)), len)
}

const fn v6([a, b, c, d, e, f, g, h]: [u16; 8], len: u8) -> IpNet {
    IpNet::new_assert(IpAddr::V6(Ipv6Addr::new(a, b, c, d, e, f, g, h)), len)
}
