//! What workers and the thread that makes keys know together of one peer.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwapOption, Guard};

use super::Outgoing;
use crate::mesh::PeerState;

/// A peer as the data path sees it: whether and with what packets toward it are sealed. It outlives
/// tables, as the peer's counters do.
#[derive(Debug)]
pub struct PeerLink {
    name: Arc<str>,
    outgoing: ArcSwapOption<Outgoing>,
    activity: Activity,
    /// Nothing leaves in plain any more.
    seals: AtomicBool,
    /// The peer was heard sealed, from then on nothing in plain is taken. Milliseconds plus one.
    refuses_plain_from: AtomicU64,
    /// For people. No worker looks here.
    state: Mutex<Option<PeerState>>,
}

/// When something last went which way. Times are milliseconds after the daemon's start.
#[derive(Debug, Default)]
pub struct Activity {
    sent: AtomicU64,
    received: AtomicU64,
    heard: AtomicU64,
    wanted: AtomicBool,
}

/// For how long plain datagrams may still arrive that left before the peer began to seal.
const ON_THE_WAY_MS: u64 = 1000;

impl Activity {
    /// Takes note that data was sealed and sent.
    #[inline]
    pub fn note_sent(&self, now_ms: u64) {
        note(&self.sent, now_ms);
    }

    /// Takes note that data has arrived.
    #[inline]
    pub fn note_received(&self, now_ms: u64) {
        note(&self.received, now_ms);
        note(&self.heard, now_ms);
    }

    /// Takes note that something authentic has arrived, be it a dummy.
    #[inline]
    pub fn note_heard(&self, now_ms: u64) {
        note(&self.heard, now_ms);
    }

    /// Takes note that somebody waits for a session; says whether that is news.
    pub fn want(&self) -> bool {
        !self.wanted.load(Ordering::Relaxed) && !self.wanted.swap(true, Ordering::Relaxed)
    }

    /// Whoever waits could not say so: the next who wants a session is news again.
    pub fn forget_want(&self) {
        self.wanted.store(false, Ordering::Relaxed);
    }

    pub(crate) fn take_want(&self) -> bool {
        self.wanted.swap(false, Ordering::Relaxed)
    }

    /// When data was last sent; `None` if never.
    #[must_use]
    pub fn sent_ms(&self) -> Option<u64> {
        self.sent.load(Ordering::Relaxed).checked_sub(1)
    }

    /// When data last arrived; `None` if never.
    #[must_use]
    pub fn received_ms(&self) -> Option<u64> {
        self.received.load(Ordering::Relaxed).checked_sub(1)
    }

    /// When something authentic last arrived; `None` if never.
    #[must_use]
    pub fn heard_ms(&self) -> Option<u64> {
        self.heard.load(Ordering::Relaxed).checked_sub(1)
    }
}

/// Most packets find that another of the same millisecond has noted it.
#[inline]
fn note(time: &AtomicU64, now_ms: u64) {
    if time.load(Ordering::Relaxed) != now_ms + 1 {
        time.store(now_ms + 1, Ordering::Relaxed);
    }
}

impl PeerLink {
    /// A peer without a session.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            outgoing: ArcSwapOption::empty(),
            activity: Activity::default(),
            seals: AtomicBool::new(false),
            refuses_plain_from: AtomicU64::new(u64::MAX),
            state: Mutex::new(None),
        }
    }

    /// The peer's name in the table.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What seals toward it, if anything does.
    #[inline]
    #[must_use]
    pub fn outgoing(&self) -> Guard<Option<Arc<Outgoing>>> {
        self.outgoing.load()
    }

    /// When something last went which way.
    #[must_use]
    pub fn activity(&self) -> &Activity {
        &self.activity
    }

    /// Whether there has been a session, from which on nothing leaves in plain.
    #[inline]
    #[must_use]
    pub fn seals(&self) -> bool {
        self.seals.load(Ordering::Relaxed)
    }

    /// Whether what arrives in plain is refused: the peer seals, and what left before has arrived.
    #[inline]
    #[must_use]
    pub fn refuses_plain(&self, now_ms: u64) -> bool {
        now_ms >= self.refuses_plain_from.load(Ordering::Relaxed)
    }

    /// How it stands with the peer; nothing while the machine that makes sessions does not have it.
    #[must_use]
    pub fn state(&self) -> Option<PeerState> {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn show(&self, state: Option<PeerState>) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    pub(crate) fn set_outgoing(&self, outgoing: Option<Arc<Outgoing>>) {
        if outgoing.is_some() {
            self.seals.store(true, Ordering::Relaxed);
        }
        self.outgoing.store(outgoing);
    }

    /// The peer was heard sealed. The first time counts.
    pub(crate) fn refuse_plain(&self, now_ms: u64) {
        let from = now_ms + ON_THE_WAY_MS;
        let _ = self.refuses_plain_from.fetch_min(from, Ordering::Relaxed);
    }
}
