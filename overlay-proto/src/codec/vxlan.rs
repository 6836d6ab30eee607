//! VXLAN: an Ethernet frame behind eight bytes (RFC 7348 §5).
//!
//! It owns those eight bytes and the fourteen of the frame's header (`docs/wire-format.md`,
//! "VXLAN"), and never looks past them. Frames carry IPv4 or IPv6 from one tunnel end to another;
//! there is no ARP, no flooding and no learning here.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-----------------------------------------------+
//! |R|R|R|R|I|R|R|R|                   Reserved                    |
//! +---------------+-------------------------------+---------------+
//! |                      VNI                      |   Reserved    |
//! +-----------------------------------------------+---------------+
//! |                    Destination MAC address                    |
//! +                               +-------------------------------+
//! |                               |                               |
//! +-------------------------------+                               +
//! |                      Source MAC address                       |
//! +-------------------------------+-------------------------------+
//! |           EtherType           |
//! +-------------------------------+
//! ```

use crate::codec::{DecodeError, Decoded};
use crate::{Family, Mac, Vni};

/// VXLAN header and Ethernet header.
pub(super) const HEADER_LEN: usize = VXLAN_LEN + 14;

/// The UDP port that Linux took before there was a registered one (4789), and flannel with it.
pub(super) const PORT: u16 = 8472;

const VXLAN_LEN: usize = 8;
const DESTINATION: usize = VXLAN_LEN;
const SOURCE: usize = DESTINATION + 6;
const ETHERTYPE: usize = SOURCE + 6;

// The VXLAN header is handled as one big-endian 64-bit number, as in `gpe`.
const FLAGS: u64 = 0xff << 56;
const FLAG_INSTANCE: u64 = 0x08 << 56; // I: the VNI field holds one
const RESERVED: u64 = 0x00ff_ffff_0000_00ff;
const VNI_SHIFT: u32 = 8;

// Every bit belongs to exactly one field, so `classify` cannot miss one.
const _: () = {
    let vni = (Vni::MAX as u64) << VNI_SHIFT;
    assert!(FLAGS ^ RESERVED ^ vni == u64::MAX);
    assert!(FLAGS & RESERVED == 0 && vni & (FLAGS | RESERVED) == 0);
};

/// Returns the EtherType of `family` (IEEE 802 numbers).
const fn ethertype(family: Family) -> u16 {
    match family {
        Family::V4 => 0x0800,
        Family::V6 => 0x86dd,
    }
}

const fn word(vni: Vni) -> u64 {
    FLAG_INSTANCE | ((vni.get() as u64) << VNI_SHIFT)
}

#[inline]
pub(super) fn header(vni: Vni, own: Mac, peer: Mac, inner: Family) -> [u8; HEADER_LEN] {
    let mut header = [0; HEADER_LEN];
    header[..VXLAN_LEN].copy_from_slice(&word(vni).to_be_bytes());
    header[DESTINATION..SOURCE].copy_from_slice(&peer.octets());
    header[SOURCE..ETHERTYPE].copy_from_slice(&own.octets());
    header[ETHERTYPE..].copy_from_slice(&ethertype(inner).to_be_bytes());
    header
}

#[inline]
pub(super) fn decode(vni: Vni, own: Mac, datagram: &[u8]) -> Result<Decoded<'_>, DecodeError> {
    let Some((header, inner)) = datagram.split_first_chunk::<HEADER_LEN>() else {
        return Err(DecodeError::TooShort);
    };
    let [a, b, c, d, e, f, g, h, frame @ ..] = header;
    let received = u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]);
    if received != word(vni) {
        return Err(classify(received));
    }
    let [destination @ .., _, _, _, _, _, _, high, low] = frame;
    let kind = u16::from_be_bytes([*high, *low]);
    let family = if kind == ethertype(Family::V4) {
        Family::V4
    } else if kind == ethertype(Family::V6) {
        Family::V6
    } else {
        return Err(DecodeError::EtherType);
    };
    if *destination != own.octets() {
        return Err(DecodeError::DestinationMac);
    }
    Ok(Decoded { family, inner })
}

/// Names the first check that `received`, known to be wrong, fails.
#[cold]
fn classify(received: u64) -> DecodeError {
    if received & FLAGS != FLAG_INSTANCE {
        DecodeError::Flags
    } else if received & RESERVED != 0 {
        DecodeError::Reserved
    } else {
        DecodeError::Vni
    }
}
