//! The ICMP errors a node answers a pod with: a packet too big, a destination out of reach.
//!
//! It owns whole packets, IP header and all, and the rules on when no error may be sent. It never
//! limits their rate (RFC 4443 §2.4 (f)); that takes a clock, and its caller has one.

mod permit;

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::checksum::{checksum, pseudo_header};
use crate::{Family, InnerPacket, Mtu};

/// The longest packet built here: an ICMPv6 error fills at most the smallest IPv6 MTU
/// (RFC 4443 §2.4 (c)), an ICMP error 576 bytes (RFC 1812 §4.3.2.3).
pub const MAX_LEN: usize = Family::V6.min_mtu() as usize;

const V4_MAX_LEN: usize = Family::V4.min_mtu() as usize;
const V4_HEADER_LEN: usize = Family::V4.header_len();
const V6_HEADER_LEN: usize = Family::V6.header_len();

/// Type, code, checksum and one word that depends on the type.
const ICMP_HEADER_LEN: usize = 8;

/// What of the offender's transport header must be quoted at least (RFC 792): ports and more.
const MIN_QUOTED_TRANSPORT: usize = 8;

const ICMP: u8 = 0x01;
const ICMPV6: u8 = 0x3a;

/// DSCP CS6 and Not-ECT. RFC 1812 §4.3.2.5 asks for precedence 6, internetwork control, in errors;
/// Linux sends 0xc0 too. Not-ECT since nothing answers an error, so nothing could slow down.
const TRAFFIC_CLASS: u8 = 0xc0;

/// The default of RFC 1700 and of Linux; the pod is one hop away.
const TTL: u8 = 64;

/// Why a destination cannot be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unreachable {
    /// No node owns a subnet with the destination.
    NoRoute,
    /// Policy forbids the traffic.
    AdminProhibited,
    /// A node owns the subnet, but it or the pod does not answer.
    Address,
}

impl Unreachable {
    /// Returns the code of ICMP type 3 (RFC 792; RFC 1812 §5.2.7.1 for 13).
    const fn code_v4(self) -> u8 {
        match self {
            Self::NoRoute => 0,
            Self::AdminProhibited => 13,
            Self::Address => 1,
        }
    }

    /// Returns the code of ICMPv6 type 1 (RFC 4443 §3.1).
    const fn code_v6(self) -> u8 {
        match self {
            Self::NoRoute => 0,
            Self::AdminProhibited => 1,
            Self::Address => 3,
        }
    }
}

/// Builds the answer to a packet longer than `mtu`: ICMP type 3 code 4 with the next-hop MTU
/// (RFC 1191 §4), or ICMPv6 type 2 (RFC 4443 §3.2). Returns its length in `out`.
///
/// The packet goes from `source`, an address of this node that the pod can see, to the offender's
/// source. [`MAX_LEN`] bytes of `out` always suffice; with less, less of the offender is quoted.
///
/// `None`, with `out` in any state, if
/// - the RFCs forbid an error: RFC 1122 §3.2.2, RFC 1812 §4.3.2.7, RFC 4443 §2.4 (e);
/// - `source` is of the other family;
/// - the offender is IPv6 and `mtu` is below 1280, which receivers discard (RFC 8201 §4);
/// - `out` has no room for the offender's IP header and eight bytes more.
///
/// Whether the IPv4 offender had DF set is for the caller to judge.
#[must_use]
pub fn too_big(
    offending: &InnerPacket<'_>,
    source: IpAddr,
    mtu: Mtu,
    out: &mut [u8],
) -> Option<usize> {
    let [high, low] = mtu.get().to_be_bytes();
    let message = Message {
        kind_v4: 3,
        code_v4: 4,
        kind_v6: 2,
        code_v6: 0,
        rest: [0, 0, high, low], // the same place and value in both families
    };
    if !mtu.carries(offending.family()) || !permit::too_big(offending) {
        return None;
    }
    message.build(offending, source, out)
}

/// Builds the answer to a packet that cannot be delivered: ICMP type 3 (RFC 792) or ICMPv6 type 1
/// (RFC 4443 §3.1). Returns its length in `out`.
///
/// `source`, `out` and `None` are as for [`too_big`].
#[must_use]
pub fn unreachable(
    offending: &InnerPacket<'_>,
    source: IpAddr,
    why: Unreachable,
    out: &mut [u8],
) -> Option<usize> {
    let message = Message {
        kind_v4: 3,
        code_v4: why.code_v4(),
        kind_v6: 1,
        code_v6: why.code_v6(),
        rest: [0; 4],
    };
    if !permit::unreachable(offending) {
        return None;
    }
    message.build(offending, source, out)
}

/// What differs between the errors, for both families.
struct Message {
    kind_v4: u8,
    code_v4: u8,
    kind_v6: u8,
    code_v6: u8,
    rest: [u8; 4],
}

impl Message {
    fn build(&self, offending: &InnerPacket<'_>, source: IpAddr, out: &mut [u8]) -> Option<usize> {
        match (source, offending.source()) {
            (IpAddr::V4(source), IpAddr::V4(pod)) => self.build_v4(offending, source, pod, out),
            (IpAddr::V6(source), IpAddr::V6(pod)) => self.build_v6(offending, source, pod, out),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => None,
        }
    }

    fn build_v4(
        &self,
        offending: &InnerPacket<'_>,
        source: Ipv4Addr,
        pod: Ipv4Addr,
        out: &mut [u8],
    ) -> Option<usize> {
        let (ip, rest) = out.split_first_chunk_mut::<V4_HEADER_LEN>()?;
        let room = rest.len().min(V4_MAX_LEN - V4_HEADER_LEN);
        let body = self.body(self.kind_v4, self.code_v4, offending, rest.get_mut(..room)?)?;
        let sum = checksum(body).to_be_bytes();
        body.get_mut(2..4)?.copy_from_slice(&sum);

        let total_len = V4_HEADER_LEN + body.len();
        *ip = [0; V4_HEADER_LEN];
        [ip[0], ip[1]] = [0x45, TRAFFIC_CLASS]; // version 4, a header of five words
        [ip[2], ip[3]] = u16::try_from(total_len).ok()?.to_be_bytes();
        // Identification 0 and DF clear: 576 bytes pass every link here whole, so nothing is ever
        // put together by identification.
        [ip[8], ip[9]] = [TTL, ICMP];
        ip[12..16].copy_from_slice(&source.octets());
        ip[16..20].copy_from_slice(&pod.octets());
        [ip[10], ip[11]] = checksum(ip).to_be_bytes();
        Some(total_len)
    }

    fn build_v6(
        &self,
        offending: &InnerPacket<'_>,
        source: Ipv6Addr,
        pod: Ipv6Addr,
        out: &mut [u8],
    ) -> Option<usize> {
        let (ip, rest) = out.split_first_chunk_mut::<V6_HEADER_LEN>()?;
        let room = rest.len().min(MAX_LEN - V6_HEADER_LEN);
        let body = self.body(self.kind_v6, self.code_v6, offending, rest.get_mut(..room)?)?;
        let body_len = u16::try_from(body.len()).ok()?;
        let sum = pseudo_header(source.into(), pod.into(), ICMPV6, u32::from(body_len))
            .push(body)
            .finish()
            .to_be_bytes();
        body.get_mut(2..4)?.copy_from_slice(&sum);

        let [len_high, len_low] = body_len.to_be_bytes();
        let first = 0x60 | (TRAFFIC_CLASS >> 4);
        let (fields, addresses) = ip.split_first_chunk_mut::<8>()?;
        *fields = [first, TRAFFIC_CLASS << 4, 0, 0, len_high, len_low, ICMPV6, TTL];
        let (from, to) = addresses.split_first_chunk_mut::<16>()?;
        *from = source.octets();
        to.copy_from_slice(&pod.octets());
        Some(V6_HEADER_LEN + usize::from(body_len))
    }

    /// Writes the ICMP header, its checksum still 0, and the quote into `room`; returns both.
    fn body<'o>(
        &self,
        kind: u8,
        code: u8,
        offending: &InnerPacket<'_>,
        room: &'o mut [u8],
    ) -> Option<&'o mut [u8]> {
        let least = offending.header_len() + MIN_QUOTED_TRANSPORT;
        let quote_len = room.len().checked_sub(ICMP_HEADER_LEN)?.min(offending.len());
        if quote_len < least.min(offending.len()) {
            return None;
        }
        let body = room.get_mut(..ICMP_HEADER_LEN + quote_len)?;
        let (header, quote) = body.split_first_chunk_mut::<ICMP_HEADER_LEN>()?;
        let [r0, r1, r2, r3] = self.rest;
        *header = [kind, code, 0, 0, r0, r1, r2, r3];
        quote.copy_from_slice(offending.bytes().get(..quote_len)?);
        Some(body)
    }
}
