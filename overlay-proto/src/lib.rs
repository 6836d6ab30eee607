//! Wire formats of the Culvert overlay: bytes to values and back, overhead and MTU arithmetic,
//! fragments, checksums, ECN, and the ICMP errors a node answers with.
//!
//! It never opens a socket or a file, reads a clock, logs, draws a random number or allocates, and
//! it holds no state: every function is a pure one over the bytes it is given, for any thread.
//!
//! A received datagram takes two steps, each of which names the one check that failed:
//!
//! ```
//! use overlay_proto::{Codec, Family, InnerPacket, Vni};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let codec = Codec::default();
//! let vni = Vni::new(7)?;
//! let mut datagram = codec.header(vni, Family::V4).as_slice().to_vec();
//! datagram.extend_from_slice(&[
//!     0x45, 0x00, 0x00, 0x14, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0x00, 0x00, // IPv4, UDP
//!     0x0a, 0xf4, 0x01, 0x02, 0x0a, 0xf4, 0x02, 0x03, // 10.244.1.2 → 10.244.2.3
//! ]);
//!
//! let decoded = codec.decode(vni, &datagram)?;
//! let packet = InnerPacket::parse_as(decoded.family, decoded.inner)?;
//! assert_eq!(packet.destination().to_string(), "10.244.2.3");
//! # Ok(())
//! # }
//! ```
//!
//! `docs/wire-format.md` is the same format in words; `tests/golden/` holds the two together.

#![no_std]
#![forbid(unsafe_code)]
#![deny(missing_docs)]
#![warn(clippy::cast_possible_truncation)]

pub mod checksum;
mod codec;
pub mod ecn;
mod family;
mod fragments;
pub mod icmp;
mod inner;
mod mac;
mod mtu;
pub mod oam;
mod protocol;
mod vni;

pub use codec::esp;
pub use codec::{Codec, CodecKind, CodecNameError, DecodeError, Decoded, Header};
pub use ecn::{CongestionDrop, Ecn};
pub use family::Family;
pub use fragments::Fragments;
pub use inner::{Fragment, InnerError, InnerPacket, UpperLayer};
pub use mac::{Mac, MacError};
pub use mtu::{Mtu, MtuError, Overhead};
pub use protocol::Protocol;
pub use vni::{Vni, VniError};
