//! Records of pcap and blocks of pcapng, once they are whole in memory.
//!
//! pcap: draft-ietf-opsawg-pcap; pcapng: draft-ietf-opsawg-pcapng. Everything is in the byte order
//! of the machine that wrote it.

use super::LinkType;

/// Byte order of a file or section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Little,
    Big,
}

impl Order {
    pub(super) fn u16(self, bytes: &[u8], at: usize) -> Option<u16> {
        let field = bytes.get(at..)?.first_chunk()?;
        Some(match self {
            Self::Little => u16::from_le_bytes(*field),
            Self::Big => u16::from_be_bytes(*field),
        })
    }

    pub(super) fn u32(self, bytes: &[u8], at: usize) -> Option<u32> {
        let field = bytes.get(at..)?.first_chunk()?;
        Some(match self {
            Self::Little => u32::from_le_bytes(*field),
            Self::Big => u32::from_be_bytes(*field),
        })
    }

    pub(super) fn u64(self, bytes: &[u8], at: usize) -> Option<u64> {
        let field = bytes.get(at..)?.first_chunk()?;
        Some(match self {
            Self::Little => u64::from_le_bytes(*field),
            Self::Big => u64::from_be_bytes(*field),
        })
    }
}

/// An interface of a pcapng section.
#[derive(Clone, Copy, Debug)]
pub(super) struct Captured {
    pub(super) link: LinkType,
    /// Longest part of a frame that was kept; zero means all.
    snap_len: u32,
    clock: Clock,
}

/// What a timestamp counts.
#[derive(Clone, Copy, Debug)]
struct Clock {
    /// Units in a second: so many powers of ten, or of two.
    resolution: Resolution,
    /// Seconds to add.
    offset: i64,
}

#[derive(Clone, Copy, Debug)]
enum Resolution {
    Tens(u8),
    Twos(u8),
}

impl Clock {
    /// Nanoseconds since 1970; saturates, for a timestamp is no reason to refuse a frame.
    fn nanos(self, high: u32, low: u32) -> u64 {
        let units = u128::from(high) << 32 | u128::from(low);
        let nanos = match self.resolution {
            Resolution::Tens(power @ 0..=9) => units * 10_u128.pow(u32::from(9 - power)),
            Resolution::Tens(power) => {
                10_u128.checked_pow(u32::from(power - 9)).map_or(0, |unit| units / unit)
            }
            Resolution::Twos(power) => (units * 1_000_000_000) >> power,
        };
        let nanos = i128::try_from(nanos).unwrap_or(i128::MAX);
        let total = nanos.saturating_add(i128::from(self.offset) * 1_000_000_000);
        u64::try_from(total.max(0)).unwrap_or(u64::MAX)
    }
}

/// The part of a block that holds one frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packet {
    pub(super) interface: usize,
    pub(super) timestamp_ns: u64,
    pub(super) original_len: u32,
    /// Where the captured bytes begin, and how many there are.
    pub(super) start: usize,
    pub(super) captured_len: usize,
}

const OPTION_END: u16 = 0;
pub(super) const OPTION_COMMENT: u16 = 1;
const OPTION_TSRESOL: u16 = 9;
const OPTION_TSOFFSET: u16 = 14;
/// `isb_ifdrop` of an interface statistics block.
pub(super) const OPTION_DROPPED: u16 = 5;

/// Options from `start` on: code and value.
pub(super) fn options(
    order: Order,
    body: &[u8],
    start: usize,
) -> impl Iterator<Item = (u16, &[u8])> {
    let mut at = start;
    std::iter::from_fn(move || {
        let code = order.u16(body, at)?;
        let len = usize::from(order.u16(body, at + 2)?);
        let value = body.get(at + 4..at + 4 + len)?;
        at += 4 + len.next_multiple_of(4);
        (code != OPTION_END).then_some((code, value))
    })
}

/// Reads the body of an interface description block.
pub(super) fn interface(order: Order, body: &[u8]) -> Option<Captured> {
    let mut clock = Clock { resolution: Resolution::Tens(6), offset: 0 };
    for (code, value) in options(order, body, 8) {
        match (code, value) {
            (OPTION_TSRESOL, [power]) if power & 0x80 != 0 => {
                clock.resolution = Resolution::Twos(power & 0x7f);
            }
            (OPTION_TSRESOL, [power]) => clock.resolution = Resolution::Tens(*power),
            (OPTION_TSOFFSET, value) => {
                clock.offset = order.u64(value, 0).unwrap_or_default().cast_signed();
            }
            _ => {}
        }
    }
    let link = LinkType::from_number(order.u16(body, 0)?);
    Some(Captured { link, snap_len: order.u32(body, 4)?, clock })
}

/// Reads the body of an enhanced packet block.
pub(super) fn enhanced(order: Order, body: &[u8], interfaces: &[Captured]) -> Option<Packet> {
    let interface = order.u32(body, 0)? as usize;
    timed(order, body, interfaces, interface)
}

/// Reads the body of a packet block, which old programs wrote: its interface has two bytes.
pub(super) fn obsolete(order: Order, body: &[u8], interfaces: &[Captured]) -> Option<Packet> {
    let interface = usize::from(order.u16(body, 0)?);
    timed(order, body, interfaces, interface)
}

fn timed(order: Order, body: &[u8], interfaces: &[Captured], interface: usize) -> Option<Packet> {
    const START: usize = 20;
    let clock = interfaces.get(interface)?.clock;
    let captured_len = order.u32(body, 12)? as usize;
    body.get(START..START.checked_add(captured_len)?)?;
    Some(Packet {
        interface,
        timestamp_ns: clock.nanos(order.u32(body, 4)?, order.u32(body, 8)?),
        original_len: order.u32(body, 16)?,
        start: START,
        captured_len,
    })
}

/// Reads the body of a simple packet block: the first interface, and no time.
pub(super) fn simple(order: Order, body: &[u8], interfaces: &[Captured]) -> Option<Packet> {
    const START: usize = 4;
    let original_len = order.u32(body, 0)?;
    let snap_len = match interfaces.first()?.snap_len {
        0 => u32::MAX,
        len => len,
    };
    let captured_len = (original_len.min(snap_len) as usize).min(body.len() - START);
    Some(Packet { interface: 0, timestamp_ns: 0, original_len, start: START, captured_len })
}
