//! Super-packets: reading what the kernel left undone, cutting them apart, putting them together.
//!
//! Pure functions over bytes. Cutting and joining are inverse: what [`split`] makes of a
//! super-packet, [`coalesce`] makes into it again, and what does not fit that is left as it came.

pub mod coalesce;
pub mod split;
mod vnet;

pub use vnet::{Gso, PartialChecksum, VnetError, VnetHeader};

/// Protocol numbers that super-packets have.
const TCP: u8 = 0x06;
const UDP: u8 = 0x11;

/// Place of the checksum in the TCP header (RFC 9293 §3.1).
const TCP_CHECKSUM_OFFSET: usize = 16;
/// Place of the checksum in the UDP header (RFC 768).
const UDP_CHECKSUM_OFFSET: usize = 6;
/// Length of the UDP header.
const UDP_HEADER_LEN: usize = 8;
/// Length of a TCP header without options.
const TCP_MIN_HEADER_LEN: usize = 20;

/// Flag bits in byte 13 of the TCP header (RFC 9293 §3.1, RFC 3168 §6.1).
mod flag {
    pub(super) const FIN: u8 = 0x01;
    pub(super) const PSH: u8 = 0x08;
    pub(super) const ACK: u8 = 0x10;
    pub(super) const CWR: u8 = 0x80;
}

fn read_u16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn read_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn write_u16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

fn write_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
}
