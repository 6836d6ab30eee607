//! When to look again: the kernel's notices, gathered into one wake-up.

use std::time::{Duration, Instant};

use culvert_dataplane::platform::clock;

use super::firewall;
use crate::platform::netlink::{Notice, Notices};

/// How long it must be quiet before a wake-up: a restart of a network service makes hundreds of
/// changes, and one look after the last of them is enough.
const QUIET: Duration = Duration::from_millis(50);

/// The longest that a wake-up waits for quiet; a broken node must not wait for a busy neighbour.
const PATIENCE: Duration = Duration::from_millis(250);

/// What may differ from what it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Links, addresses, routes, or parameters.
    pub routing: bool,
    /// One of the node's nftables tables.
    pub nft: bool,
}

impl Changes {
    /// Anything may differ: at start, and on the slow interval.
    pub const ALL: Self = Self { routing: true, nft: true };

    pub(super) fn is_any(self) -> bool {
        self.routing || self.nft
    }

    fn add(&mut self, notice: Notice) {
        match notice {
            Notice::Routing => self.routing = true,
            Notice::Nft => self.nft = true,
            Notice::Lost => *self = Self::ALL,
        }
    }
}

/// A subscription to whatever may concern the node's kernel state.
pub struct KernelEvents {
    notices: Notices,
    pending: Changes,
    /// When what is pending is told at the latest.
    until: Option<Instant>,
}

impl KernelEvents {
    /// Subscribes, on the current tokio runtime and in this thread's network namespace.
    ///
    /// # Errors
    ///
    /// When a socket cannot be opened.
    pub fn open() -> anyhow::Result<Self> {
        let notices = Notices::open(&firewall::TABLES)?;
        Ok(Self { notices, pending: Changes::default(), until: None })
    }

    /// Waits until something changed and it has been quiet for a moment.
    ///
    /// What a reconcile itself changed is reported once; a reconcile that changes nothing is
    /// silent.
    ///
    /// # Cancel safety
    ///
    /// What a dropped future had gathered is reported by the next call, and no later than by it.
    ///
    /// # Errors
    ///
    /// When a socket fails for good.
    pub async fn changed(&mut self) -> anyhow::Result<Changes> {
        if !self.pending.is_any() {
            self.pending.add(self.notices.next().await?);
        }
        let until = *self.until.get_or_insert_with(|| clock::now() + PATIENCE);
        let patience = tokio::time::sleep_until(until.into());
        tokio::pin!(patience);
        loop {
            tokio::select! {
                () = &mut patience => break,
                notice = tokio::time::timeout(QUIET, self.notices.next()) => match notice {
                    Ok(notice) => self.pending.add(notice?),
                    Err(_quiet) => break,
                }
            }
        }
        self.until = None;
        Ok(std::mem::take(&mut self.pending))
    }
}
