//! Which packets may be answered with an ICMP error.
//!
//! It owns the rules of RFC 1122 §3.2.2, RFC 1812 §4.3.2.7 and RFC 4443 §2.4 (e), as far as a
//! packet alone can tell. It never sees link-layer or subnet broadcast; a TUN has neither.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::icmp::{ICMP, ICMPV6};
use crate::{Family, Fragment, InnerPacket, UpperLayer};

/// Says whether a "too big" may answer `offending`. To IPv6 multicast it may, so that path MTU
/// discovery works there (RFC 4443 §2.4 (e.3)).
pub(super) fn too_big(offending: &InnerPacket<'_>) -> bool {
    match offending.destination() {
        IpAddr::V6(destination) if destination.is_multicast() => is_answerable(offending),
        IpAddr::V6(_) | IpAddr::V4(_) => unreachable(offending),
    }
}

/// Says whether an "unreachable" may answer `offending`.
pub(super) fn unreachable(offending: &InnerPacket<'_>) -> bool {
    let is_one_host = match offending.destination() {
        IpAddr::V4(address) => is_host_v4(address),
        IpAddr::V6(address) => is_host_v6(address),
    };
    is_one_host && is_answerable(offending)
}

/// Checks all but the destination.
fn is_answerable(offending: &InnerPacket<'_>) -> bool {
    let is_one_host = match offending.source() {
        // RFC 1122 §3.2.2 counts class E among the sources that are no single host.
        IpAddr::V4(address) => is_host_v4(address) && address.octets()[0] < 240,
        IpAddr::V6(address) => is_host_v6(address),
    };
    let upper = offending.upper_layer();
    is_one_host
        && match offending.family() {
            Family::V4 => upper.fragment != Fragment::Later && !may_be_error_v4(offending, upper),
            // RFC 4443 permits answers to later fragments; they are the ones that are too big.
            Family::V6 => !may_be_error_v6(offending, upper),
        }
}

/// Martian addresses of RFC 1812 §5.3.7: not `0/8`, not loopback, not multicast, not broadcast.
fn is_host_v4(address: Ipv4Addr) -> bool {
    address.octets()[0] != 0
        && !address.is_loopback()
        && !address.is_multicast()
        && !address.is_broadcast()
}

fn is_host_v6(address: Ipv6Addr) -> bool {
    !address.is_unspecified() && !address.is_loopback() && !address.is_multicast()
}

/// Says whether the packet is an ICMP error, or ICMP of a type not known to be none.
fn may_be_error_v4(offending: &InnerPacket<'_>, upper: UpperLayer) -> bool {
    // Echo, router discovery, timestamp, information and mask requests and replies (RFC 1122
    // §3.2.2, RFC 1256), extended echo (RFC 8335).
    let is_query = |kind: u8| matches!(kind, 0 | 8..=10 | 13..=18 | 42 | 43);
    upper.protocol == ICMP && !kind(offending, upper).is_some_and(is_query)
}

/// Says whether the packet is an ICMPv6 error (types below 128, RFC 4443 §2.1) or a redirect (137),
/// or ICMPv6 whose type is not there to see.
fn may_be_error_v6(offending: &InnerPacket<'_>, upper: UpperLayer) -> bool {
    let is_informational = |kind: u8| kind >= 128 && kind != 137;
    upper.protocol == ICMPV6 && !kind(offending, upper).is_some_and(is_informational)
}

fn kind(offending: &InnerPacket<'_>, upper: UpperLayer) -> Option<u8> {
    match upper.fragment {
        Fragment::Whole | Fragment::First => offending.bytes().get(upper.offset).copied(),
        Fragment::Later => None,
    }
}
