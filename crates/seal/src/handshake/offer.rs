//! What the two messages carry for us: where each end's sessions come in, and what they seal with.

use overlay_proto::esp::{Lane, Slot};

use crate::noise::Payload;
use crate::suite::{Suite, Suites};

/// The version of what is agreed on here.
const VERSION: u8 = 1;

/// What whoever begins says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Offer {
    /// Greater than in every INIT to the same peer before.
    pub(crate) stamp: u64,
    /// Where its session comes in.
    pub(crate) slot: Slot,
    /// On how many lanes it will send.
    pub(crate) lanes: u16,
    /// What it can seal with.
    pub(crate) suites: Suites,
}

/// What whoever answers says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// That of the offer.
    pub(crate) stamp: u64,
    /// Where its session comes in.
    pub(crate) slot: Slot,
    /// On how many lanes it will send.
    pub(crate) lanes: u16,
    /// What both will seal with.
    pub(crate) suite: Suite,
}

impl Offer {
    pub(crate) fn encode(&self) -> Payload {
        encode(self.stamp, self.slot, self.lanes, self.suites.bits())
    }

    pub(crate) fn decode(payload: &Payload) -> Option<Self> {
        let (stamp, slot, lanes, suites) = decode(payload)?;
        Some(Self { stamp, slot, lanes, suites: Suites::from_bits(suites) })
    }
}

impl Answer {
    pub(crate) fn encode(&self) -> Payload {
        encode(self.stamp, self.slot, self.lanes, self.suite.number())
    }

    pub(crate) fn decode(payload: &Payload) -> Option<Self> {
        let (stamp, slot, lanes, suite) = decode(payload)?;
        Some(Self { stamp, slot, lanes, suite: Suite::from_number(suite)? })
    }
}

fn encode(stamp: u64, slot: Slot, lanes: u16, suites: u8) -> Payload {
    let mut payload = Payload::default();
    payload[..8].copy_from_slice(&stamp.to_be_bytes());
    payload[8..12].copy_from_slice(&slot.get().to_be_bytes());
    payload[12..14].copy_from_slice(&lanes.to_be_bytes());
    payload[14..].copy_from_slice(&[suites, VERSION]);
    payload
}

fn decode(payload: &Payload) -> Option<(u64, Slot, u16, u8)> {
    let [stamp @ .., a, b, c, d, high, low, suites, version] = *payload;
    let slot = Slot::new(u32::from_be_bytes([a, b, c, d]))?;
    let lanes = u16::from_be_bytes([high, low]);
    let is_known = version == VERSION && (1..=Lane::COUNT).contains(&lanes);
    is_known.then(|| (u64::from_be_bytes(stamp), slot, lanes, suites))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer() -> Offer {
        Offer {
            stamp: 0x0102_0304_0506_0708,
            slot: Slot::new(0x12345).unwrap(),
            lanes: 128,
            suites: Suites::new(Suite::ALL),
        }
    }

    #[test]
    fn bytes_are_literally_these() {
        let expected = [1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 0x23, 0x45, 0, 128, 3, 1];
        assert_eq!(offer().encode(), expected);
        assert_eq!(Offer::decode(&expected), Some(offer()));
        let Offer { stamp, slot, lanes, .. } = offer();
        let answer = Answer { stamp, slot, lanes, suite: Suite::ChaCha20Poly1305 };
        assert_eq!(answer.encode()[14..], [2, 1]);
        assert_eq!(Answer::decode(&answer.encode()), Some(answer));
    }

    #[test]
    fn what_nobody_says_is_refused() {
        let with = |at: usize, bytes: &[u8]| {
            let mut payload = offer().encode();
            payload[at..at + bytes.len()].copy_from_slice(bytes);
            payload
        };
        for payload in [
            with(8, &[0; 4]),
            with(8, &[0, 0x10, 0, 0]),
            with(12, &[0, 0]),
            with(12, &[0x10, 1]),
            with(15, &[0]),
            with(15, &[2]),
        ] {
            assert_eq!(Offer::decode(&payload), None);
        }
        assert_eq!(Answer::decode(&with(14, &[3])), None);
    }
}
