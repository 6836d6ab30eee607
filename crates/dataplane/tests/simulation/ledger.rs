//! The account of every packet: how many copies there are, and what became of each.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use culvert_dataplane::engine::DropReason;

/// Something that must never be.
#[derive(Clone, Debug)]
pub(crate) struct Violation {
    pub(crate) invariant: &'static str,
    pub(crate) detail: String,
}

impl Violation {
    pub(crate) fn new(invariant: &'static str, detail: impl Into<String>) -> Self {
        Self { invariant, detail: detail.into() }
    }
}

/// Fails with `detail` unless `holds`.
pub(crate) fn ensure(
    invariant: &'static str,
    holds: bool,
    detail: impl FnOnce() -> String,
) -> Result<(), Violation> {
    if holds { Ok(()) } else { Err(Violation::new(invariant, detail())) }
}

/// What became of one copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Fate {
    Delivered,
    Dropped(DropReason),
    LostOnTheWire,
    LostWithItsNode,
    HopsUsedUp,
    /// The node's kernel had no pod for it and routed it back into the overlay.
    BackIntoTheTunnel,
}

impl Fate {
    fn as_str(self) -> &'static str {
        match self {
            Self::Dropped(reason) => reason.as_str(),
            Self::Delivered => "delivered",
            Self::LostOnTheWire => "lost on the wire",
            Self::LostWithItsNode => "lost with its node",
            Self::HopsUsedUp => "hops used up",
            Self::BackIntoTheTunnel => "back into the tunnel",
        }
    }
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One packet that a pod, or a stranger, has made.
#[derive(Clone, Debug, Default)]
struct Account {
    /// How many there may be: one, and those that the network or a replay added.
    copies: usize,
    /// How many have come to an end.
    ended: usize,
    delivered: usize,
}

/// All accounts.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    accounts: BTreeMap<u32, Account>,
    next: u32,
    pub(crate) fates: BTreeMap<&'static str, u64>,
    pub(crate) last_delivery: Duration,
}

impl Ledger {
    /// Opens accounts for `count` packets and returns the number of the first.
    pub(crate) fn open(&mut self, count: usize) -> u32 {
        let first = self.next;
        self.next += u32::try_from(count).unwrap();
        self.accounts.extend(
            (first..self.next).map(|number| (number, Account { copies: 1, ..Account::default() })),
        );
        first
    }

    /// One copy more.
    pub(crate) fn copy(&mut self, number: Option<u32>) {
        if let Some(account) = number.and_then(|number| self.accounts.get_mut(&number)) {
            account.copies += 1;
        }
    }

    /// A copy has become so many fragments, each of which comes to an end of its own.
    pub(crate) fn fragment(&mut self, number: Option<u32>, fragments: usize) {
        *self.fates.entry("fragmented").or_default() += 1;
        (1..fragments).for_each(|_| self.copy(number));
    }

    /// A copy has come to its end.
    pub(crate) fn end(&mut self, number: Option<u32>, fate: Fate) -> Result<(), Violation> {
        *self.fates.entry(fate.as_str()).or_default() += 1;
        let Some(number) = number else { return Ok(()) };
        let account = self.accounts.get_mut(&number).ok_or_else(|| {
            Violation::new("every packet has a sender", format!("nobody made packet {number}"))
        })?;
        account.ended += 1;
        account.delivered += usize::from(fate == Fate::Delivered);
        ensure(
            "no packet is delivered more often than it exists",
            account.ended <= account.copies,
            || format!("packet {number}: {account:?}, the last {fate}"),
        )
    }

    /// How often a packet has reached a pod.
    pub(crate) fn delivered(&self, number: u32) -> usize {
        self.accounts.get(&number).map_or(0, |account| account.delivered)
    }

    /// Nothing is left open.
    pub(crate) fn close(&self) -> Result<(), Violation> {
        for (number, account) in &self.accounts {
            ensure("every packet is accounted for", account.ended == account.copies, || {
                format!("packet {number}: {account:?}")
            })?;
        }
        Ok(())
    }
}
