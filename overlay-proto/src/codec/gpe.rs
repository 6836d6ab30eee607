//! VXLAN-GPE, the default encapsulation: VXLAN without the inner Ethernet header.
//!
//! It owns the eight bytes of draft-ietf-nvo3-vxlan-gpe §3 (`docs/wire-format.md`, "The header")
//! and never looks past them.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+---+-+-+-+-+-------------------------------+---------------+
//! |R|R|Ver|I|P|B|O|           Reserved            | Next Protocol |
//! +-+-+---+-+-+-+-+-------------------------------+---------------+
//! |                      VNI                      |   Reserved    |
//! +-----------------------------------------------+---------------+
//! ```

use crate::codec::{DecodeError, Decoded};
use crate::{Family, Vni};

/// Two 32-bit words (draft-ietf-nvo3-vxlan-gpe §3).
pub(super) const HEADER_LEN: usize = 8;

/// The UDP port IANA assigned to VXLAN-GPE.
pub(super) const PORT: u16 = 4790;

// The header is handled as one big-endian 64-bit number: a right one is told by one comparison.
const RESERVED: u64 = 0xc0ff_ff00_0000_00ff; // the two R bits, the middle 16 and the last 8
const VERSION: u64 = 0x30 << 56;
const FLAG_INSTANCE: u64 = 0x08 << 56; // I: the VNI field holds one
const FLAG_PROTOCOL: u64 = 0x04 << 56; // P: the next protocol field holds one
const FLAG_BUM: u64 = 0x02 << 56; // B: replicated broadcast or multicast; we never replicate
const FLAG_OAM: u64 = 0x01 << 56; // O: for the control plane, not to be forwarded
const NEXT_PROTOCOL_SHIFT: u32 = 32;
const VNI_SHIFT: u32 = 8;

const FLAGS: u64 = FLAG_INSTANCE | FLAG_PROTOCOL | FLAG_BUM | FLAG_OAM;
const NEXT_PROTOCOL: u64 = 0xff << NEXT_PROTOCOL_SHIFT;
const FLAGS_SENT: u64 = FLAG_INSTANCE | FLAG_PROTOCOL; // version 0, nothing else

// Every bit belongs to exactly one field, so `classify` cannot miss one.
const _: () = {
    let vni = (Vni::MAX as u64) << VNI_SHIFT;
    assert!(RESERVED ^ VERSION ^ FLAGS ^ NEXT_PROTOCOL ^ vni == u64::MAX);
    assert!(RESERVED & (VERSION | FLAGS | NEXT_PROTOCOL | vni) == 0);
};

/// Returns the next protocol number of `family` (draft-ietf-nvo3-vxlan-gpe §3.2).
const fn next_protocol(family: Family) -> u64 {
    match family {
        Family::V4 => 0x01,
        Family::V6 => 0x02,
    }
}

const fn word(vni: Vni, inner: Family) -> u64 {
    FLAGS_SENT | (next_protocol(inner) << NEXT_PROTOCOL_SHIFT) | ((vni.get() as u64) << VNI_SHIFT)
}

#[inline]
pub(super) const fn header(vni: Vni, inner: Family) -> [u8; HEADER_LEN] {
    word(vni, inner).to_be_bytes()
}

pub(super) const fn oam_header(vni: Vni, inner: Family) -> [u8; HEADER_LEN] {
    (word(vni, inner) | FLAG_OAM).to_be_bytes()
}

#[cold]
pub(super) fn decode_oam(vni: Vni, datagram: &[u8]) -> Result<Decoded<'_>, DecodeError> {
    let Some((header, inner)) = datagram.split_first_chunk::<HEADER_LEN>() else {
        return Err(DecodeError::TooShort);
    };
    let families = [Family::V4, Family::V6];
    if let Some(family) = families.into_iter().find(|family| oam_header(vni, *family) == *header) {
        return Ok(Decoded { family, inner });
    }
    let received = u64::from_be_bytes(*header);
    let is_of_another_network =
        received & FLAG_OAM != 0 && classify(received ^ FLAG_OAM) == DecodeError::Vni;
    Err(if is_of_another_network { DecodeError::Vni } else { DecodeError::Flags })
}

#[inline]
pub(super) fn decode(vni: Vni, datagram: &[u8]) -> Result<Decoded<'_>, DecodeError> {
    let Some((header, inner)) = datagram.split_first_chunk::<HEADER_LEN>() else {
        return Err(DecodeError::TooShort);
    };
    let received = u64::from_be_bytes(*header);
    if received == word(vni, Family::V4) {
        return Ok(Decoded { family: Family::V4, inner });
    }
    if received == word(vni, Family::V6) {
        return Ok(Decoded { family: Family::V6, inner });
    }
    Err(classify(received))
}

/// Names the first check that `received`, known to be wrong, fails.
///
/// The version comes first because the meaning of all other bits depends on it.
#[cold]
fn classify(received: u64) -> DecodeError {
    let next = (received & NEXT_PROTOCOL) >> NEXT_PROTOCOL_SHIFT;
    if received & VERSION != 0 {
        DecodeError::Version
    } else if received & FLAGS != FLAGS_SENT {
        DecodeError::Flags
    } else if received & RESERVED != 0 {
        DecodeError::Reserved
    } else if next != next_protocol(Family::V4) && next != next_protocol(Family::V6) {
        DecodeError::NextProtocol
    } else {
        DecodeError::Vni
    }
}
