//! ICMP errors that the overlay sends to its own pods, and the limit on them.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use overlay_proto::{InnerPacket, Mtu, icmp};

use super::DropReason;

/// Errors that may go out at once; Linux allows itself 50 (`icmp_msgs_burst`).
const BURST: u32 = 50;

/// Time that buys one more error: 1,000 a second, as Linux allows itself (`icmp_msgs_per_sec`).
const INTERVAL: Duration = Duration::from_millis(1);

/// An ICMP error in the making: what to tell the sender of a dropped packet, and from where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    pub(super) source: IpAddr,
    pub(super) message: Message,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Message {
    NoRoute,
    TooBig(Mtu),
}

impl Reply {
    /// Why the offending packet was dropped.
    pub fn reason(&self) -> DropReason {
        match self.message {
            Message::NoRoute => DropReason::NoOwner,
            Message::TooBig(_) => DropReason::TooBig,
        }
    }

    /// Writes the error about `offending` into `out` and returns its length; `None` if the RFCs
    /// forbid an error about that packet.
    pub fn build(&self, offending: &InnerPacket<'_>, out: &mut [u8]) -> Option<usize> {
        match self.message {
            Message::NoRoute => {
                icmp::unreachable(offending, self.source, icmp::Unreachable::NoRoute, out)
            }
            Message::TooBig(mtu) => icmp::too_big(offending, self.source, mtu, out),
        }
    }
}

/// A token bucket: a pod that sends into the void must not make us send as much back.
#[derive(Debug)]
pub(super) struct ReplyBudget {
    tokens: u32,
    refilled: Instant,
}

impl ReplyBudget {
    pub(super) fn new(now: Instant) -> Self {
        Self { tokens: BURST, refilled: now }
    }

    /// Takes one token if there is one.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let earned = now.saturating_duration_since(self.refilled).as_nanos() / INTERVAL.as_nanos();
        if earned > 0 {
            let earned = u32::try_from(earned).unwrap_or(u32::MAX);
            self.tokens = self.tokens.saturating_add(earned).min(BURST);
            // Whole intervals only, so that frequent calls do not lose the rest.
            self.refilled =
                if self.tokens == BURST { now } else { self.refilled + INTERVAL * earned };
        }
        let granted = self.tokens > 0;
        self.tokens = self.tokens.saturating_sub(1);
        granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::clock;

    #[test]
    fn a_burst_is_granted_and_then_one_per_interval() {
        let start = clock::now();
        let mut budget = ReplyBudget::new(start);
        assert_eq!((0..1000).filter(|_| budget.take(start)).count(), BURST as usize);
        let later = start + INTERVAL * 3 + INTERVAL / 2;
        assert_eq!((0..1000).filter(|_| budget.take(later)).count(), 3);
        // The half interval was not lost.
        assert!(budget.take(later + INTERVAL / 2));
    }

    #[test]
    fn a_long_pause_buys_no_more_than_a_burst() {
        let start = clock::now();
        let mut budget = ReplyBudget::new(start);
        let later = start + Duration::from_secs(1 << 20);
        assert_eq!((0..1000).filter(|_| budget.take(later)).count(), BURST as usize);
    }
}
