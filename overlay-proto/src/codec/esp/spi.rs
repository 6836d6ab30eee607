//! Security parameters indexes, and the two numbers that one consists of.

const LANE_BITS: u32 = 12;
const SLOT_BITS: u32 = u32::BITS - LANE_BITS;

/// A session's place at the node that receives. 0 is nobody's: SPIs below 256 are reserved (RFC
/// 4303 §2.1), and one of 0 marks a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(u32); // INVARIANT: 1..=Slot::MAX

impl Slot {
    /// The largest slot.
    pub const MAX: u32 = (1 << SLOT_BITS) - 1;

    /// Takes `number` as a slot; `None` if it is 0 or has more than 20 bits.
    #[inline]
    #[must_use]
    pub const fn new(number: u32) -> Option<Self> {
        if number == 0 || number > Self::MAX { None } else { Some(Self(number)) }
    }

    /// Returns the number.
    #[inline]
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// One of the ways between two nodes on which one thread counts, and which keeps its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lane(u16); // INVARIANT: < Lane::COUNT

impl Lane {
    /// How many lanes a session may have.
    pub const COUNT: u16 = 1 << LANE_BITS;

    /// Takes `number` as a lane; `None` if it has more than 12 bits.
    #[inline]
    #[must_use]
    pub const fn new(number: u16) -> Option<Self> {
        if number < Self::COUNT { Some(Self(number)) } else { None }
    }

    /// Returns the number.
    #[inline]
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }
}

/// What stands in a datagram's first four bytes: slot and lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Spi(u32); // INVARIANT: its slot is not 0

impl Spi {
    /// That of `lane` of the session in `slot`.
    #[inline]
    #[must_use]
    pub const fn new(slot: Slot, lane: Lane) -> Self {
        Self(slot.0 << LANE_BITS | lane.0 as u32)
    }

    /// Takes the four bytes of a datagram; `None` if the slot is 0.
    #[inline]
    #[must_use]
    pub const fn from_bits(bits: u32) -> Option<Self> {
        if bits >> LANE_BITS == 0 { None } else { Some(Self(bits)) }
    }

    /// Returns the slot.
    #[inline]
    #[must_use]
    pub const fn slot(self) -> Slot {
        Slot(self.0 >> LANE_BITS)
    }

    /// Returns the lane.
    #[expect(clippy::cast_possible_truncation, reason = "twelve bits are left")]
    #[inline]
    #[must_use]
    pub const fn lane(self) -> Lane {
        Lane((self.0 & (Lane::COUNT as u32 - 1)) as u16)
    }

    /// Returns the number as it stands on the wire.
    #[inline]
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}
