//! The flow hash: one number per inner flow, the same on every node and after every restart.
//!
//! It owns which fields make a flow. It never keeps state and never uses what changes while a flow
//! lives: lengths, TTL, ECN, and the IPv6 flow label, which RFC 6438 lets a sender change.

use crate::InnerPacket;
use crate::inner::upper::port_bits;
use crate::inner::{Fixed, Fragment};

// Digits of the fraction of pi: odd, without structure, and nobody chose them to fit.
const KEY: [u64; 3] = [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7345, 0xa409_3822_299f_31d1];

/// Stands for the protocol of IPv6 fragments: the fragment header's own number.
const FRAGMENT: u8 = 0x2c;

impl InnerPacket<'_> {
    /// Returns a hash of the flow, well spread in its high and its low bits.
    ///
    /// The flow is addresses, protocol and ports; without ports (fragments, other protocols) it is
    /// addresses and protocol, so all fragments of a packet have one hash. For IPv6 fragments the
    /// protocol is left out too, because only a first fragment shows it (RFC 8200 §4.5).
    /// The two directions of a connection hash differently. It is no defence against someone who
    /// looks for collisions; they meet on one underlay path and nothing else.
    #[inline]
    #[must_use]
    pub fn flow_hash(&self) -> u32 {
        let upper = self.upper_layer();
        let whole = upper.fragment == Fragment::Whole;
        let ports = if whole { port_bits(self.bytes(), upper).unwrap_or(0) } else { 0 };
        match self.fixed {
            Fixed::V4(h) => {
                let addresses =
                    u64::from_be_bytes([h[12], h[13], h[14], h[15], h[16], h[17], h[18], h[19]]);
                finish(mix(addresses ^ KEY[0], tail(ports, upper.protocol) ^ KEY[1]))
            }
            Fixed::V6(_) => {
                let protocol = if whole { upper.protocol } else { FRAGMENT };
                let source = halves(self.source_bits());
                let destination = halves(self.destination_bits());
                let addresses = mix(source.0 ^ KEY[0], source.1 ^ KEY[1])
                    ^ mix(destination.0 ^ KEY[1], destination.1 ^ KEY[2]);
                finish(mix(addresses ^ KEY[0], tail(ports, protocol) ^ KEY[1]))
            }
        }
    }
}

#[inline]
fn tail(ports: u32, protocol: u8) -> u64 {
    (u64::from(ports) << 8) | u64::from(protocol)
}

#[inline]
#[expect(clippy::cast_possible_truncation, reason = "the low half is what is wanted")]
const fn halves(bits: u128) -> (u64, u64) {
    ((bits >> 64) as u64, bits as u64)
}

/// Multiplies to 128 bits and folds: each input bit reaches most output bits.
#[inline]
fn mix(a: u64, b: u64) -> u64 {
    let (high, low) = halves(u128::from(a) * u128::from(b));
    high ^ low
}

/// Spreads what is left of the structure of `hash` over 32 bits.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "both halves have been folded together")]
fn finish(hash: u64) -> u32 {
    let spread = mix(hash, KEY[2]);
    (spread ^ (spread >> 32)) as u32
}
