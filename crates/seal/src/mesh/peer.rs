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

/// Answers that are looked at, each of which costs an agreement or two before it is refused.
const RESPONSES: Budget = Budget::new(20, Duration::from_millis(100));

/// Old handshake datagrams of a kind that are known again.
const OLD: usize = 256;

/// Handshakes with a peer that unknown SPIs may cause.
const RESTARTS: Budget = Budget::new(5, Duration::from_millis(200));

/// For how long a peer may be silent that was spoken to.
const DEAF: Duration = Duration::from_secs(1);

/// For how long a session that was answered for is waited for before this node begins one itself.
const TENTATIVE_FIRST: Duration = Duration::from_secs(1);

/// Sessions that still receive beside the one that serves: its predecessor, and one that the peer
/// began at the same time.
const MOST_BEFORE: usize = 2;

#[derive(Debug)]
pub(super) struct Peer {
    pub(super) link: Arc<PeerLink>,
    pub(super) address: SocketAddr,
    /// Of each of this node's keys with each of the peer's, those to begin with first.
    pub(super) pairs: Vec<Stamped>,
    /// How many of them to begin with: those of this node's first key.
    pub(super) begin_with: usize,
    /// The one to begin with next.
    pub(super) next_pair: usize,
    /// Apart: at any moment few peers have one.
    pub(super) attempt: Option<Box<Attempt>>,
    pub(super) tentative: Option<Tentative>,
    pub(super) current: Option<Session>,
    /// Those that still receive for a while, the oldest first.
    pub(super) before: Vec<Before>,
    /// When a dummy was last sent, as [`PeerLink`]s have times.
    pub(super) dummy_ms: u64,
    /// Since when data was sent and nothing heard, and when something was heard before.
    pub(super) unanswered: Option<(Instant, Option<u64>)>,
    pub(super) inits: Budget,
    pub(super) repeats: Budget,
    pub(super) responses: Budget,
    /// The INITs that were older than another.
    pub(super) old_inits: Old,
    /// The answers that were refused.
    pub(super) old_responses: Old,
    pub(super) restarts: Budget,
    pub(super) last_failure: Option<Failure>,
}

/// A pair of keys, and when what was said with it. It goes with the keys: whoever had one of them
/// and said that it was the end of time holds up nobody who has the next.
#[derive(Debug)]
pub(super) struct Stamped {
    pub(super) pair: Arc<Pair>,
    /// The newest stamp of this node's INITs.
    pub(super) own: u64,
    /// The newest stamp of the peer's INITs, and the MAC of that INIT.
    pub(super) newest: u64,
    pub(super) init_mac: [u8; MAC_LEN],
}

impl Stamped {
    pub(super) fn new(pair: Arc<Pair>) -> Self {
        Self { pair, own: 0, newest: 0, init_mac: [0; MAC_LEN] }
    }

    /// Whether `mac` ends the newest INIT of the peer's.
    pub(super) fn is_newest(&self, mac: &[u8; MAC_LEN]) -> bool {
        self.newest > 0 && self.init_mac == *mac
    }
}

/// What ends datagrams that are of no use any more, the last ones: whoever has recorded them can
/// send them as often as he likes.
#[derive(Debug, Default)]
pub(super) struct Old(VecDeque<[u8; MAC_LEN]>);

impl Old {
    pub(super) fn has(&self, mac: &[u8; MAC_LEN]) -> bool {
        self.0.contains(mac)
    }

    pub(super) fn add(&mut self, mac: &[u8; MAC_LEN]) {
        if self.has(mac) {
            return;
        }
        if self.0.len() == OLD {
            self.0.pop_front();
        }
        self.0.push_back(*mac);
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
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
    /// Since when this node has answered and nobody has made use of it. Another answer does not
    /// begin that anew: whoever has recorded INITs could have it wait for ever.
    pub(super) unused_since: Instant,
}

/// A session that still receives.
#[derive(Debug)]
pub(super) struct Before {
    pub(super) session: Session,
    pub(super) until: Instant,
    /// Whether this node has sealed with it. Else the peer began it while this node began another.
    pub(super) has_served: bool,
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
            attempt: None,
            tentative: None,
            current: None,
            before: Vec::new(),
            dummy_ms: 0,
            unanswered: None,
            inits: INITS,
            repeats: REPEATS,
            responses: RESPONSES,
            old_inits: Old::default(),
            old_responses: Old::default(),
            restarts: RESTARTS,
            last_failure: None,
        }
    }

    /// What is known of a pair; none if the table does not have it any more.
    pub(super) fn stamped(&mut self, pair: &Pair) -> Option<&mut Stamped> {
        self.pairs.iter_mut().find(|stamped| stamped.pair.ids() == pair.ids())
    }

    /// Whether the INIT that ends with `mac` was looked at before.
    pub(super) fn has_seen(&self, mac: &[u8; MAC_LEN]) -> bool {
        self.pairs.iter().any(|stamped| stamped.is_newest(mac)) || self.old_inits.has(mac)
    }

    /// Lets a session receive for a while; returns those that do not any more.
    pub(super) fn keep(&mut self, before: Before) -> impl Iterator<Item = Session> {
        self.before.push(before);
        let most = self.before.len().saturating_sub(MOST_BEFORE);
        self.before.drain(..most).map(|before| before.session)
    }

    /// Whether a session may come of what has been said, so that there is nothing to begin.
    pub(super) fn expects_session(&self, now: Instant) -> bool {
        self.attempt.is_some() || self.has_just_answered(now)
    }

    /// Whether the peer may be about to use a session that it has begun.
    pub(super) fn has_just_answered(&self, now: Instant) -> bool {
        let answered = self.tentative.as_ref();
        answered.is_some_and(|tentative| now < tentative.unused_since + TENTATIVE_FIRST)
    }

    pub(super) fn is_shaking_hands(&self) -> bool {
        self.attempt.is_some() || self.tentative.is_some()
    }

    /// Whether it has a handshake that has not begun, and nothing else is going on.
    pub(super) fn waits_for_its_turn(&self) -> bool {
        let has_begun = |attempt: &Attempt| attempt.init.is_some();
        self.tentative.is_none() && !self.attempt.as_deref().is_none_or(has_begun)
    }

    pub(super) fn has_sessions(&self) -> bool {
        self.current.is_some() || !self.before.is_empty()
    }

    /// Whether it has been silent although it was spoken to.
    pub(super) fn is_deaf(&self, now: Instant) -> bool {
        self.unanswered.is_some_and(|(since, _)| now >= since + DEAF)
    }
}
