//! From packets of one flow to the super-packet that stands for them.
//!
//! A [`Group`] takes packets as long as the kernel's segmentation of the result would give back
//! exactly those packets; the first that would not fit ends it. Only headers are touched and only
//! when the group is finished; payloads stay where they lie.

use overlay_proto::checksum::{self, Sum};
use overlay_proto::{Family, Fragment, InnerPacket};

use super::{
    Gso, PartialChecksum, TCP, TCP_CHECKSUM_OFFSET, TCP_MIN_HEADER_LEN, UDP, UDP_CHECKSUM_OFFSET,
    UDP_HEADER_LEN, VnetHeader, flag, read_u16, read_u32, write_u16,
};

/// Longest super-packet: the most that an IPv4 total length says.
const MAX_LEN: usize = u16::MAX as usize;

/// Longest IP and transport header of a packet that takes part: no IPv4 options, no IPv6 extension
/// headers, and TCP options of the most that the data offset allows.
pub const MAX_HEADER_LEN: usize = Family::V6.header_len() + 60;

/// What of a packet decides whether it can take part.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    transport: Transport,
    family: Family,
    ip_len: usize,
    header_len: usize,
    payload_len: usize,
    /// IPv4 identification, TCP sequence number and flags: what differs between members.
    identification: u16,
    sequence: u32,
    flags: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transport {
    Tcp,
    Udp,
}

impl Candidate {
    /// Looks at a packet; `None` if it can be no part of a super-packet, a wrong checksum being one
    /// of the reasons.
    pub fn new(packet: &InnerPacket<'_>) -> Option<Self> {
        let bytes = packet.bytes();
        let family = packet.family();
        let upper = packet.upper_layer();
        if upper.offset != family.header_len() || upper.fragment != Fragment::Whole {
            return None;
        }
        let (transport, transport_len) = match upper.protocol {
            TCP => (Transport::Tcp, usize::from(bytes.get(upper.offset + 12)? >> 4) * 4),
            UDP => (Transport::Udp, UDP_HEADER_LEN),
            _ => return None,
        };
        let header_len = upper.offset + transport_len;
        let payload_len = bytes.len().checked_sub(header_len).filter(|len| *len > 0)?;
        let segment = &bytes[upper.offset..];
        let (sequence, flags) = match transport {
            Transport::Tcp => {
                let mergeable = transport_len >= TCP_MIN_HEADER_LEN
                    && segment[13] & !(flag::ACK | flag::PSH | flag::FIN) == 0
                    && segment[12] & 0x0f == 0
                    && segment[13] & flag::ACK != 0;
                if !mergeable {
                    return None;
                }
                (read_u32(segment, 4), segment[13])
            }
            Transport::Udp => {
                let whole = usize::from(read_u16(segment, 4)) == segment.len();
                if !whole || read_u16(segment, UDP_CHECKSUM_OFFSET) == 0 {
                    return None;
                }
                (0, 0)
            }
        };
        let identification = match family {
            Family::V4 if Sum::of(&bytes[..upper.offset]).finish() != 0 => return None,
            Family::V4 => read_u16(bytes, 4),
            Family::V6 => 0,
        };
        let pseudo = pseudo_header(packet, upper.protocol, segment.len());
        if pseudo.push(segment).finish() != 0 {
            return None;
        }
        Some(Self {
            transport,
            family,
            ip_len: upper.offset,
            header_len,
            payload_len,
            identification,
            sequence,
            flags,
        })
    }

    /// Whether it is a UDP packet.
    pub fn is_udp(&self) -> bool {
        self.transport == Transport::Udp
    }
}

/// A super-packet in the making. Knows lengths and the next member's numbers; the bytes are the
/// caller's.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    first: Candidate,
    count: u16,
    payload_len: usize,
    /// What the next member has: IPv4 identification, TCP sequence number.
    identification: u16,
    sequence: u32,
    /// The last member's.
    flags: u8,
    /// Whether one more member would break the inverse: the last was short, or pushed.
    closed: bool,
}

impl Group {
    /// Starts with one packet.
    pub fn new(first: Candidate) -> Self {
        let Candidate { payload_len, flags, .. } = first;
        let (identification, sequence) = after(&first);
        let closed = ends(&first);
        Self { first, count: 1, payload_len, identification, sequence, flags, closed }
    }

    /// How many packets it stands for.
    pub fn count(&self) -> u16 {
        self.count
    }

    /// Where the payload of a packet that was looked at begins.
    pub fn header_len(&self) -> usize {
        self.first.header_len
    }

    /// Takes `next`, whose bytes are `next_bytes`, if it continues the group that begins with the
    /// packet `first_bytes`; says whether it did.
    #[inline]
    pub fn push(&mut self, first_bytes: &[u8], next: &Candidate, next_bytes: &[u8]) -> bool {
        let first = &self.first;
        let header = &first_bytes[..first.header_len];
        let fits = !self.closed
            && next.transport == first.transport
            && next.family == first.family
            && next.header_len == first.header_len
            && next.payload_len <= first.payload_len
            && first.header_len + self.payload_len + next.payload_len <= MAX_LEN
            && next.identification == self.identification
            && match first.transport {
                Transport::Tcp => next.sequence == self.sequence,
                Transport::Udp => true,
            }
            && same_flow(first, header, &next_bytes[..next.header_len]);
        if fits {
            self.count += 1;
            self.payload_len += next.payload_len;
            self.closed = ends(next) || next.payload_len < first.payload_len;
            (self.identification, self.sequence) = after(next);
            self.flags = next.flags;
        }
        fits
    }

    /// Whether `packet` may be of the flow of the group that begins with the packet `first_bytes`:
    /// by its addresses, protocol and ports, of which fragments show only the addresses.
    pub fn may_share_flow(&self, first_bytes: &[u8], packet: &InnerPacket<'_>) -> bool {
        let first = &self.first;
        if packet.family() != first.family
            || addresses(first.family, packet.bytes()) != addresses(first.family, first_bytes)
        {
            return false;
        }
        let upper = packet.upper_layer();
        let transport = match (upper.fragment, upper.protocol) {
            (Fragment::Whole, TCP) => Transport::Tcp,
            (Fragment::Whole, UDP) => Transport::Udp,
            // Behind more extension headers than are walked there may be anything.
            (Fragment::Whole, _) => return upper.offset != packet.family().header_len(),
            (Fragment::First | Fragment::Later, _) => return true,
        };
        let ports = packet.bytes().get(upper.offset..upper.offset + 4);
        transport == first.transport
            && ports.is_none_or(|ports| *ports == first_bytes[first.ip_len..first.ip_len + 4])
    }

    /// Turns the header of the first packet into that of the super-packet, and says what to tell
    /// the kernel about it. `header` is the first packet's, [`header_len`](Self::header_len) bytes
    /// long.
    pub fn finish(&self, header: &mut [u8]) -> VnetHeader {
        let first = &self.first;
        if self.count == 1 {
            // As it came; we have verified its checksum.
            return VnetHeader { verified: true, ..VnetHeader::default() };
        }
        let total_len = first.header_len + self.payload_len;
        let segment_len = total_len - first.ip_len;
        match first.family {
            Family::V4 => {
                write_u16(header, 2, wire_len(total_len));
                write_u16(header, 10, 0);
                let sum = checksum::checksum(&header[..first.ip_len]);
                write_u16(header, 10, sum);
            }
            Family::V6 => write_u16(header, 4, wire_len(segment_len)),
        }
        let (protocol, checksum_offset, gso) = match (first.transport, first.family) {
            (Transport::Tcp, Family::V4) => (TCP, TCP_CHECKSUM_OFFSET, Gso::Tcp4),
            (Transport::Tcp, Family::V6) => (TCP, TCP_CHECKSUM_OFFSET, Gso::Tcp6),
            (Transport::Udp, Family::V4 | Family::V6) => (UDP, UDP_CHECKSUM_OFFSET, Gso::Udp),
        };
        let pseudo = pseudo_header_of(first.family, header, protocol, segment_len);
        let transport = &mut header[first.ip_len..];
        match first.transport {
            Transport::Tcp => transport[13] |= self.flags & (flag::PSH | flag::FIN),
            Transport::Udp => write_u16(transport, 4, wire_len(segment_len)),
        }
        write_u16(transport, checksum_offset, pseudo.fold());
        VnetHeader {
            partial: Some(PartialChecksum {
                start: wire_len(first.ip_len),
                offset: wire_len(checksum_offset),
            }),
            verified: false,
            gso,
            cwr: false,
            header_len: wire_len(first.header_len),
            gso_size: wire_len(first.payload_len),
        }
    }
}

/// Whether nothing may follow a packet: the kernel leaves these flags to the last of a split.
fn ends(candidate: &Candidate) -> bool {
    candidate.flags & (flag::PSH | flag::FIN) != 0
}

/// Identification and sequence number of what continues a packet: IPv4 identifications of a split
/// count up by one.
fn after(candidate: &Candidate) -> (u16, u32) {
    let step = match candidate.family {
        Family::V4 => 1,
        Family::V6 => 0,
    };
    let len = u32::try_from(candidate.payload_len).unwrap_or_default();
    (candidate.identification.wrapping_add(step), candidate.sequence.wrapping_add(len))
}

/// Whether all is equal that a split copies: everything but lengths, checksums, identification,
/// sequence number and the flags that [`Candidate::new`] let through.
fn same_flow(first: &Candidate, a: &[u8], b: &[u8]) -> bool {
    let (ip_a, transport_a) = a.split_at(first.ip_len);
    let (ip_b, transport_b) = b.split_at(first.ip_len);
    let same_ip = match first.family {
        // Version, length, class; then flags, time to live, protocol; then the addresses.
        Family::V4 => {
            ip_a[..2] == ip_b[..2] && ip_a[6..10] == ip_b[6..10] && ip_a[12..] == ip_b[12..]
        }
        // Version, class, flow label; then next header, hop limit, addresses.
        Family::V6 => ip_a[..4] == ip_b[..4] && ip_a[6..] == ip_b[6..],
    };
    same_ip
        && match first.transport {
            // Ports; acknowledgement; window; urgent pointer and options.
            Transport::Tcp => {
                transport_a[..4] == transport_b[..4]
                    && transport_a[8..12] == transport_b[8..12]
                    && transport_a[14..16] == transport_b[14..16]
                    && transport_a[18..] == transport_b[18..]
            }
            Transport::Udp => transport_a[..4] == transport_b[..4],
        }
}

fn pseudo_header(packet: &InnerPacket<'_>, protocol: u8, len: usize) -> Sum {
    pseudo_header_of(packet.family(), packet.bytes(), protocol, len)
}

/// Sums the pseudo-header straight from the IP header.
fn pseudo_header_of(family: Family, bytes: &[u8], protocol: u8, len: usize) -> Sum {
    let [high, low] = wire_len(len).to_be_bytes();
    Sum::of(addresses(family, bytes)).push(&[high, low, 0, protocol])
}

/// The addresses in the IP header, end to end.
fn addresses(family: Family, bytes: &[u8]) -> &[u8] {
    match family {
        Family::V4 => &bytes[12..20],
        Family::V6 => &bytes[8..40],
    }
}

/// A length as a header field holds it; nothing here is longer than [`MAX_LEN`].
fn wire_len(len: usize) -> u16 {
    u16::try_from(len).unwrap_or(u16::MAX)
}
