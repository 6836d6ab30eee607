//! What the machine knows of one peer.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use overlay_proto::esp::Slot;

use super::budget::Budget;
use super::turns::Place;
use super::{Failure, Role};
use crate::handshake::{MAC_LEN, Pair};
use crate::noise::Initiator;
use crate::session::{Incoming, Outgoing, PeerLink};

/// INITs of a peer that are answered: each costs this node three agreements.
const INITS: Budget = Budget::new(20, Duration::from_millis(100));

/// Answers to INITs that were looked at before. Somebody who recorded them can send them as often
/// as he likes, and must not use up what is for new ones.
const REPEATS: Budget = Budget::new(4, Duration::from_millis(250));

/// Old INITs that are known again.
const OLD_INITS: usize = 256;

/// Handshakes with a peer that unknown SPIs may cause.
const RESTARTS: Budget = Budget::new(5, Duration::from_millis(200));

/// For how long a peer may be silent that was spoken to.
const DEAF: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Peer {
    pub(super) link: Arc<PeerLink>,
    pub(super) address: SocketAddr,
    /// Of each of this node's keys with each of the peer's, those to begin with first.
    pub(super) pairs: Vec<Arc<Pair>>,
    /// How many of them to begin with: those of this node's first key.
    pub(super) begin_with: usize,
    /// The one to begin with next.
    pub(super) next_pair: usize,
    /// The newest stamp of this node's INITs to it.
    pub(super) own_stamp: u64,
    /// The newest stamp of its INITs, and the MAC of that INIT.
    pub(super) stamp: u64,
    pub(super) init_mac: [u8; MAC_LEN],
    /// Apart: at any moment few peers have one.
    pub(super) attempt: Option<Box<Attempt>>,
    pub(super) tentative: Option<Tentative>,
    pub(super) current: Option<Session>,
    /// One that has a successor and still receives until then.
    pub(super) previous: Option<(Session, Instant)>,
    /// When a dummy was last sent, as [`PeerLink`]s have times.
    pub(super) dummy_ms: u64,
    /// Since when data was sent and nothing heard, and when something was heard before.
    pub(super) unanswered: Option<(Instant, Option<u64>)>,
    pub(super) inits: Budget,
    pub(super) repeats: Budget,
    /// What ends the INITs that were older than another, the last ones.
    old_inits: VecDeque<[u8; MAC_LEN]>,
    pub(super) restarts: Budget,
    pub(super) last_failure: Option<Failure>,
}

/// A handshake that this node begins.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) place: Place,
    /// What is under way. Apart: most of those that wait for their turn have none.
    pub(super) init: Option<Box<Init>>,
    /// When the first INIT was sent.
    pub(super) began: Option<Instant>,
    /// The pause before the INIT is sent again.
    pub(super) interval: Duration,
    /// How often the peer has said that a stamp was old.
    pub(super) stale: u32,
    /// When somebody last waited for the session.
    pub(super) wanted_at: Instant,
}

/// An INIT that waits for its RESP.
pub(super) struct Init {
    pub(super) pair: Arc<Pair>,
    pub(super) initiator: Initiator,
    pub(super) stamp: u64,
    pub(super) slot: Slot,
    pub(super) datagram: Vec<u8>,
    pub(super) send_at: Instant,
    /// How often it was sent.
    pub(super) sent: u32,
}

impl Attempt {
    /// Where the session would come in.
    pub(super) fn slot(&self) -> Option<Slot> {
        self.init.as_ref().map(|init| init.slot)
    }
}

impl std::fmt::Debug for Init {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Init").field("stamp", &self.stamp).finish_non_exhaustive()
    }
}

/// A session that was answered for and waits for its first packet.
#[derive(Debug)]
pub(super) struct Tentative {
    pub(super) session: Session,
    /// The RESP, for whoever has not got it.
    pub(super) response: Vec<u8>,
    pub(super) until: Instant,
}

/// A session.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) pair: Arc<Pair>,
    pub(super) role: Role,
    pub(super) incoming: Arc<Incoming>,
    pub(super) outgoing: Arc<Outgoing>,
    pub(super) began: Instant,
    pub(super) renew_at: Instant,
    pub(super) ends: Instant,
}

impl Peer {
    pub(super) fn new(link: Arc<PeerLink>, address: SocketAddr) -> Self {
        Self {
            link,
            address,
            pairs: Vec::new(),
            begin_with: 0,
            next_pair: 0,
            own_stamp: 0,
            stamp: 0,
            init_mac: [0; MAC_LEN],
            attempt: None,
            tentative: None,
            current: None,
            previous: None,
            dummy_ms: 0,
            unanswered: None,
            inits: INITS,
            repeats: REPEATS,
            old_inits: VecDeque::new(),
            restarts: RESTARTS,
            last_failure: None,
        }
    }

    /// Whether the INIT that ends with `mac` was looked at before.
    pub(super) fn has_seen(&self, mac: &[u8; MAC_LEN]) -> bool {
        (self.init_mac == *mac && self.stamp > 0) || self.old_inits.contains(mac)
    }

    /// Remembers an INIT that is older than another.
    pub(super) fn remember_old(&mut self, mac: &[u8; MAC_LEN]) {
        if self.has_seen(mac) {
            return;
        }
        if self.old_inits.len() == OLD_INITS {
            self.old_inits.pop_front();
        }
        self.old_inits.push_back(*mac);
    }

    pub(super) fn is_shaking_hands(&self) -> bool {
        self.attempt.is_some() || self.tentative.is_some()
    }

    pub(super) fn has_sessions(&self) -> bool {
        self.current.is_some() || self.previous.is_some()
    }

    /// Whether it has been silent although it was spoken to.
    pub(super) fn is_deaf(&self, now: Instant) -> bool {
        self.unanswered.is_some_and(|(since, _)| now >= since + DEAF)
    }
}
