//! From a super-packet to the packets that it stands for.
//!
//! Headers are made anew for each packet; payload bytes are never moved, the caller sends them from
//! where they lie. The result is what the kernel's own segmentation would have made
//! (`tcp_gso_segment`, `__udp_gso_segment`).

use std::ops::Range;

use overlay_proto::checksum::{self, Sum};
use overlay_proto::{Family, InnerPacket, UpperLayer};

use super::{
    Gso, PartialChecksum, TCP, TCP_CHECKSUM_OFFSET, TCP_MIN_HEADER_LEN, UDP, UDP_CHECKSUM_OFFSET,
    UDP_HEADER_LEN, VnetError, VnetHeader, flag, read_u16, read_u32, write_u16, write_u32,
};

/// Longest IP and transport header that a super-packet may have: the longest IPv4 and TCP headers
/// take 120 bytes; the rest is room for IPv6 extension headers.
pub const MAX_HEADER_LEN: usize = 256;

/// How to cut one super-packet apart.
#[derive(Clone, Debug)]
pub struct SplitPlan {
    transport: Transport,
    family: Family,
    ip_len: usize,
    header_len: usize,
    total_len: usize,
    gso_size: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transport {
    Tcp,
    Udp,
}

impl SplitPlan {
    /// Plans the split of `packet`, about which the kernel said `header`.
    ///
    /// # Errors
    ///
    /// The header contradicts the packet. Pods influence both.
    pub fn new(header: &VnetHeader, packet: &InnerPacket<'_>) -> Result<Self, VnetError> {
        let upper = packet.upper_layer();
        let (transport, transport_len) = match (header.gso, packet.family(), upper.protocol) {
            (Gso::Tcp4, Family::V4, TCP) | (Gso::Tcp6, Family::V6, TCP) => {
                (Transport::Tcp, tcp_header_len(packet, upper)?)
            }
            (Gso::Udp, Family::V4 | Family::V6, UDP) => (Transport::Udp, UDP_HEADER_LEN),
            _ => return Err(VnetError),
        };
        let checksum_offset = match transport {
            Transport::Tcp => TCP_CHECKSUM_OFFSET,
            Transport::Udp => UDP_CHECKSUM_OFFSET,
        };
        let partial = header.partial.ok_or(VnetError)?;
        let header_len = upper.offset + transport_len;
        let fits = usize::from(partial.start) == upper.offset
            && usize::from(partial.offset) == checksum_offset
            && upper.fragment == overlay_proto::Fragment::Whole
            && header_len <= MAX_HEADER_LEN
            && header_len < packet.len();
        if !fits {
            return Err(VnetError);
        }
        Ok(Self {
            transport,
            family: packet.family(),
            ip_len: upper.offset,
            header_len,
            total_len: packet.len(),
            gso_size: usize::from(header.gso_size),
        })
    }

    /// How many packets the super-packet stands for.
    pub fn count(&self) -> usize {
        (self.total_len - self.header_len).div_ceil(self.gso_size)
    }

    /// Length of the longest of them.
    pub fn packet_len(&self) -> usize {
        self.header_len + self.gso_size.min(self.total_len - self.header_len)
    }

    /// Length of the header of each.
    pub fn header_len(&self) -> usize {
        self.header_len
    }

    /// Where the payload of packet `index` lies in the super-packet.
    pub fn payload(&self, index: usize) -> Range<usize> {
        let start = self.header_len + index * self.gso_size;
        start..(start + self.gso_size).min(self.total_len)
    }

    /// Makes the header of packet `index` out of that of the super-packet `bytes`. `out` is
    /// [`header_len`](Self::header_len) bytes long.
    pub fn write_header(&self, bytes: &[u8], index: usize, out: &mut [u8]) {
        out.copy_from_slice(&bytes[..self.header_len]);
        self.finish_header(&bytes[self.payload(index)], index, out);
    }

    /// Makes the packets in the super-packet `bytes`, each header right before its payload, over
    /// what is there, and lets `take` have one after the other.
    pub fn for_each_in_place(&self, bytes: &mut [u8], mut take: impl FnMut(&mut [u8])) {
        let mut space = [0; MAX_HEADER_LEN];
        let header = &mut space[..self.header_len];
        header.copy_from_slice(&bytes[..self.header_len]);
        for index in 0..self.count() {
            let payload = self.payload(index);
            let packet = &mut bytes[payload.start - self.header_len..payload.end];
            let (out, payload) = packet.split_at_mut(self.header_len);
            out.copy_from_slice(header);
            self.finish_header(payload, index, out);
            take(packet);
        }
    }

    /// Makes the header of packet `index`, which has this payload, out of that of the super-packet.
    fn finish_header(&self, payload: &[u8], index: usize, out: &mut [u8]) {
        self.write_ip_header(index, payload.len(), out);
        let whole = self.total_len - self.ip_len;
        let own = self.header_len - self.ip_len + payload.len();
        let is_last = index + 1 == self.count();
        let transport = &mut out[self.ip_len..];
        // The field holds the sum of the pseudo-header with the length of the whole; that length is
        // swapped for ours, and the rest of the sum is still to be added.
        let at = match self.transport {
            Transport::Tcp => {
                let step = u32::try_from(index * self.gso_size).unwrap_or_default();
                let sequence = read_u32(transport, 4).wrapping_add(step);
                write_u32(transport, 4, sequence);
                if !is_last {
                    transport[13] &= !(flag::FIN | flag::PSH);
                }
                if index > 0 {
                    transport[13] &= !flag::CWR;
                }
                TCP_CHECKSUM_OFFSET
            }
            Transport::Udp => {
                write_u16(transport, 4, wire_len(own));
                UDP_CHECKSUM_OFFSET
            }
        };
        let pseudo = Sum::from_field(read_u16(transport, at))
            .push(&(!wire_len(whole)).to_be_bytes())
            .push(&wire_len(own).to_be_bytes());
        write_u16(transport, at, pseudo.fold());
        let sum = Sum::of(transport).push(payload).finish();
        let sum = if self.transport == Transport::Udp { nonzero(sum) } else { sum };
        write_u16(&mut out[self.ip_len..], at, sum);
    }

    fn write_ip_header(&self, index: usize, payload_len: usize, out: &mut [u8]) {
        let total = self.header_len + payload_len;
        match self.family {
            Family::V4 => {
                write_u16(out, 2, wire_len(total));
                let step = u16::try_from(index).unwrap_or_default();
                write_u16(out, 4, read_u16(out, 4).wrapping_add(step));
                write_u16(out, 10, 0);
                let sum = checksum::checksum(&out[..usize::from(out[0] & 0x0f) * 4]);
                write_u16(out, 10, sum);
            }
            Family::V6 => write_u16(out, 4, wire_len(total - Family::V6.header_len())),
        }
    }
}

/// Finishes the checksum of a packet that is none of several.
///
/// # Errors
///
/// The place lies outside the packet.
pub fn finish_checksum(partial: PartialChecksum, packet: &mut [u8]) -> Result<(), VnetError> {
    let start = usize::from(partial.start);
    let at = start + usize::from(partial.offset);
    if at + 2 > packet.len() {
        return Err(VnetError);
    }
    // The field takes part: it holds the sum of the pseudo-header.
    let sum = Sum::of(&packet[start..]).finish();
    // Zero would mean "no checksum" in UDP; for others both forms of zero are one (RFC 768).
    let sum = if usize::from(partial.offset) == UDP_CHECKSUM_OFFSET { nonzero(sum) } else { sum };
    write_u16(packet, at, sum);
    Ok(())
}

fn nonzero(sum: u16) -> u16 {
    if sum == 0 { 0xffff } else { sum }
}

fn tcp_header_len(packet: &InnerPacket<'_>, upper: UpperLayer) -> Result<usize, VnetError> {
    let transport = packet.bytes().get(upper.offset..).unwrap_or_default();
    let words = transport.get(12).ok_or(VnetError)? >> 4;
    let len = usize::from(words) * 4;
    if len < TCP_MIN_HEADER_LEN || len > transport.len() {
        return Err(VnetError);
    }
    Ok(len)
}

/// A length as a header field holds it; an inner packet has at most 65,575 bytes, of which 40 are
/// an IPv6 header that the field does not count.
fn wire_len(len: usize) -> u16 {
    u16::try_from(len).unwrap_or(u16::MAX)
}
