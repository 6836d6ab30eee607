//! Cutting an IPv4 packet into fragments that a path carries (RFC 791 §3.2).
//!
//! It owns the fragments' headers: length, offset, flags, options and checksum. It never moves a
//! payload byte: each header is written right before its payload, over what was taken before. It
//! never puts fragments together.

use crate::checksum::checksum;
use crate::{InnerPacket, Mtu};

/// Longest IPv4 header: IHL has four bits and counts 32-bit words (RFC 791 §3.1).
const MAX_HEADER_LEN: usize = 15 * 4;

/// Where options begin.
const OPTIONS: usize = 20;

/// Flags and fragment offset, one word.
const MORE_FRAGMENTS: u16 = 0x2000;
const OFFSET: u16 = 0x1fff;

/// The unit of fragment offsets.
const UNIT: usize = 8;

/// Options of one byte; all others say their length in the second.
const END_OF_OPTIONS: u8 = 0;
const NO_OPERATION: u8 = 1;

/// The bit of an option's type that says that each fragment has the option.
const COPIED: u8 = 0x80;

const _: () = assert!(Mtu::MIN as usize >= MAX_HEADER_LEN + UNIT, "each fragment has a payload");

/// The fragments of one packet, which are taken in their order.
///
/// All have headers of one length, as those of Linux do (`ip_do_fragment`): where the first has an
/// option that is not copied, the others have no-operations.
#[derive(Clone, Debug)]
pub struct Fragments {
    header: [u8; MAX_HEADER_LEN],
    header_len: usize,
    packet_len: usize,
    /// Longest payload of a fragment.
    room: usize,
    taken: usize,
}

impl Fragments {
    /// Plans to cut `packet`, which may be a fragment itself, into fragments of at most `mtu`
    /// bytes. One that fits is the only fragment of itself.
    ///
    /// `None` if nobody may fragment the packet, or if it says that it ends beyond the longest that
    /// IP has.
    #[must_use]
    pub fn new(packet: &InnerPacket<'_>, mtu: Mtu) -> Option<Self> {
        if packet.dont_fragment() {
            return None;
        }
        let (bytes, header_len) = (packet.bytes(), packet.header_len());
        let mut header = [0; MAX_HEADER_LEN];
        header.get_mut(..header_len)?.copy_from_slice(bytes.get(..header_len)?);
        let offset = usize::from(word(&header) & OFFSET) * UNIT;
        if offset + bytes.len() > usize::from(u16::MAX) {
            return None;
        }
        let room = usize::from(mtu.get()) - header_len;
        Some(Self { header, header_len, packet_len: bytes.len(), room, taken: 0 })
    }

    /// How many fragments a packet of `packet_len` bytes with a header as long as this one's is.
    #[must_use]
    pub const fn count_of(&self, packet_len: usize) -> usize {
        let payload_len = packet_len.saturating_sub(self.header_len);
        payload_len.saturating_sub(self.room).div_ceil(self.step()) + 1
    }

    /// Payload of each fragment but the last.
    const fn step(&self) -> usize {
        self.room / UNIT * UNIT
    }

    /// Makes the next fragment, in `packet`, which is the one that was planned for. What lies
    /// before the fragment's payload is no longer what it was. `None` behind the last.
    pub fn next_in<'b>(&mut self, packet: &'b mut [u8]) -> Option<&'b mut [u8]> {
        let count = self.count_of(self.packet_len);
        if self.taken >= count {
            return None;
        }
        let start = self.taken * self.step();
        self.taken += 1;
        let is_last = self.taken == count;
        let end = if is_last { self.packet_len } else { start + self.header_len + self.step() };
        let fragment = packet.get_mut(start..end)?;
        let total_len = u16::try_from(fragment.len()).ok()?;
        let moved = u16::try_from(start / UNIT).ok()?;

        let header = fragment.get_mut(..self.header_len)?;
        header.copy_from_slice(self.header.get(..self.header_len)?);
        let more = if is_last { 0 } else { MORE_FRAGMENTS };
        let word = (word(&self.header) + moved) | more;
        header.get_mut(2..4)?.copy_from_slice(&total_len.to_be_bytes());
        header.get_mut(6..8)?.copy_from_slice(&word.to_be_bytes());
        header.get_mut(10..12)?.fill(0);
        let sum = checksum(header);
        header.get_mut(10..12)?.copy_from_slice(&sum.to_be_bytes());
        if self.taken == 1 {
            blank_uncopied(self.header.get_mut(OPTIONS..self.header_len)?);
        }
        Some(fragment)
    }
}

/// Flags and offset of a header. Adding to it moves the offset: [`Fragments::new`] has seen to it
/// that no offset within the packet is too large for its field.
const fn word(header: &[u8; MAX_HEADER_LEN]) -> u16 {
    u16::from_be_bytes([header[6], header[7]])
}

/// Makes no-operations of the options that only a first fragment has. What follows something that
/// is no option stays; the receiver will judge it.
fn blank_uncopied(options: &mut [u8]) {
    let mut at = 0;
    while let Some(&kind) = options.get(at) {
        let len = match kind {
            END_OF_OPTIONS => return,
            NO_OPERATION => 1,
            _ => match options.get(at + 1) {
                Some(len @ 2..) => usize::from(*len),
                Some(_) | None => return,
            },
        };
        let Some(option) = options.get_mut(at..at + len) else { return };
        if kind & COPIED == 0 {
            option.fill(NO_OPERATION);
        }
        at += len;
    }
}
