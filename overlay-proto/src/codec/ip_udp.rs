//! Bare IP in UDP: no header at all (`docs/wire-format.md`, "Bare IP in UDP").
//!
//! What flannel's `udp` backend sends, and Linux's FOU with protocol 4 or 41. Nothing tells one
//! overlay from another but the port; the family is the inner packet's own version field.

use crate::Family;
use crate::codec::{DecodeError, Decoded};

/// There is none.
pub(super) const HEADER_LEN: usize = 0;

/// The UDP port of flannel's `udp` backend.
pub(super) const PORT: u16 = 8285;

#[inline]
pub(super) fn decode(datagram: &[u8]) -> Result<Decoded<'_>, DecodeError> {
    let Some(first) = datagram.first() else {
        return Err(DecodeError::TooShort);
    };
    let family = match first >> 4 {
        4 => Family::V4,
        6 => Family::V6,
        _ => return Err(DecodeError::NextProtocol),
    };
    Ok(Decoded { family, inner: datagram })
}
