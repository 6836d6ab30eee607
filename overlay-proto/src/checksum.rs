//! The internet checksum (RFC 1071), whole, in parts and incrementally.
//!
//! It owns the arithmetic. It never finds checksum fields in packets and never turns 0 into 0xffff
//! for UDP (RFC 768); its callers know which field they write.
//!
//! Sums are taken over native-endian words and turned round once at the end, which RFC 1071 §2(B)
//! shows to be the same.

use core::net::IpAddr;

/// Bytes summed per round: eight lanes of four bytes, which fill four 128-bit registers of 64-bit
/// sums, so that no addition waits for the one before it.
const BLOCK: usize = 32;
const LANES: usize = BLOCK / 4;

/// Returns the checksum of `bytes`: the complemented sum, as it stands in a header.
///
/// Over data that contains its own right checksum the result is 0.
#[inline]
#[must_use]
pub fn checksum(bytes: &[u8]) -> u16 {
    Sum::of(bytes).finish()
}

/// A one's complement sum of the bytes pushed so far, which may be split anywhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    words: u16, // native-endian words
    odd: bool,  // an odd number of bytes so far: the next byte is the second of its word
}

impl Sum {
    /// The sum of no bytes.
    pub const ZERO: Self = Self { words: 0, odd: false };

    /// Returns the sum of `bytes`.
    #[inline]
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self { words: sum_words(bytes), odd: bytes.len() % 2 == 1 }
    }

    /// Continues a sum that a header field holds, such as the pseudo-header sum that a kernel
    /// leaves in the checksum field of a packet to be finished.
    #[inline]
    #[must_use]
    pub const fn from_field(field: u16) -> Self {
        Self { words: field.to_be(), odd: false }
    }

    /// Returns the sum with `bytes` behind what it already covers.
    #[inline]
    #[must_use]
    pub fn push(self, bytes: &[u8]) -> Self {
        self.join(Self::of(bytes))
    }

    /// Returns the sum of what `self` covers followed by what `next` covers.
    #[inline]
    #[must_use]
    pub const fn join(self, next: Self) -> Self {
        // RFC 1071 §2(B): bytes that start in the middle of a word have the swapped sum.
        let words = if self.odd { next.words.swap_bytes() } else { next.words };
        Self { words: add(self.words, words), odd: self.odd != next.odd }
    }

    /// Returns the sum as a header field holds it, not complemented.
    #[inline]
    #[must_use]
    pub const fn fold(self) -> u16 {
        u16::from_be(self.words)
    }

    /// Returns the checksum: the sum's complement, as a header field holds it.
    #[inline]
    #[must_use]
    pub const fn finish(self) -> u16 {
        !self.fold()
    }
}

/// Returns the sum of the pseudo-header that TCP, UDP and ICMPv6 put before their own bytes.
///
/// RFC 9293 §3.1 for IPv4, RFC 8200 §8.1 for IPv6. `len` is that of the transport header and its
/// payload. Both addresses are of one family in any packet; this is not checked.
#[inline]
#[must_use]
pub fn pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, len: u32) -> Sum {
    // Both families sum the same words but for the width of len, whose upper half is 0 in IPv4.
    let [l0, l1, l2, l3] = len.to_be_bytes();
    address(source).join(address(destination)).join(Sum::of(&[l0, l1, l2, l3, 0, protocol]))
}

#[inline]
fn address(address: IpAddr) -> Sum {
    match address {
        IpAddr::V4(address) => Sum::of(&address.octets()),
        IpAddr::V6(address) => Sum::of(&address.octets()),
    }
}

/// Returns the checksum after one 16-bit field changed from `old` to `new` (RFC 1624 §3, eqn. 3).
#[inline]
#[must_use]
pub const fn update_u16(checksum: u16, old: u16, new: u16) -> u16 {
    !add(add(!checksum, !old), new)
}

/// Adds with end-around carry.
#[inline]
const fn add(a: u16, b: u16) -> u16 {
    let (sum, carry) = a.overflowing_add(b);
    sum.wrapping_add(carry as u16)
}

/// Folds four words to one; what is not 0 does not become 0.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "each cast takes a half and leaves the other")]
const fn fold_u64(sum: u64) -> u16 {
    let (half, carry) = (sum as u32).overflowing_add((sum >> 32) as u32);
    let half = half.wrapping_add(carry as u32);
    add(half as u16, (half >> 16) as u16)
}

/// Sums `bytes` as native-endian words, a last odd byte as the first of its word.
#[inline]
fn sum_words(bytes: &[u8]) -> u16 {
    // A lane overflows after 2^32 blocks, 128 GiB; packets end long before.
    let mut lanes = [0_u64; LANES];
    let (blocks, rest) = bytes.as_chunks::<BLOCK>();
    for block in blocks {
        let (words, _) = block.as_chunks::<4>();
        for (lane, word) in lanes.iter_mut().zip(words) {
            *lane += u64::from(u32::from_ne_bytes(*word));
        }
    }
    let (words, rest) = rest.as_chunks::<4>();
    let mut sum: u64 = lanes.iter().sum();
    for word in words {
        sum += u64::from(u32::from_ne_bytes(*word));
    }
    let mut last = [0; 4];
    for (to, from) in last.iter_mut().zip(rest) {
        *to = *from;
    }
    fold_u64(sum + u64::from(u32::from_ne_bytes(last)))
}
