//! Sessions with all peers, as a machine without I/O.
//!
//! Owns who is shaken hands with when, and which session serves. Time, randomness, datagrams and
//! the table are arguments; what it wants sent and what people should know it hands back. Sessions
//! it puts where workers find them ([`Shared`], [`PeerLink`]). One thread runs it; nothing a
//! stranger or a peer sends makes it hold more than a fixed number of sessions for each peer of the
//! table.

mod begin;
mod budget;
mod event;
mod peer;
mod receive;
mod status;
mod table;
mod timers;
mod turns;

pub use event::{Event, Failure, Role, What};
pub use status::{PeerState, SessionState};

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use foldhash::fast::RandomState;
use overlay_proto::Vni;
use overlay_proto::esp::Slot;
use zeroize::Zeroizing;

use crate::handshake::Pairs;
use crate::key_log::LoggedKey;
use crate::keys::{KEY_LEN, KeyId, NodeKey, Psk, PublicKey};
use crate::noise::PostQuantum;
use crate::session::{PeerLink, Slots};
use crate::suite::Suites;
use budget::Budget;
use peer::Peer;
use turns::{AT_ONCE, Turns};

/// Where random numbers come from.
pub trait Entropy {
    /// Fills `bytes` with what nobody can guess.
    fn fill(&mut self, bytes: &mut [u8]);
}

/// The operating system's.
#[derive(Clone, Copy, Debug)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&mut self, bytes: &mut [u8]) {
        aws_lc_rs::rand::fill(bytes).expect("the operating system has random numbers");
    }
}

/// What does not change while the machine runs.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// The virtual network.
    pub vni: Vni,
    /// Whether handshakes have ML-KEM.
    pub post_quantum: PostQuantum,
    /// What this node seals with.
    pub suites: Suites,
    /// Lanes that this node sends on: workers × source ports.
    pub lanes: u16,
}

/// What this node proves who it is with.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The first is used to begin, all to answer.
    pub keys: Vec<Arc<NodeKey>>,
    /// The first is used, all are taken. Never empty: without one, [`Psk::none`].
    pub psks: Vec<Psk>,
}

/// A peer of the table that has a key.
#[derive(Clone, Debug)]
pub struct PeerEntry {
    /// Where its handshakes go.
    pub address: SocketAddr,
    /// Its public keys.
    pub keys: Vec<PublicKey>,
    /// What workers know of it; its name is the peer's.
    pub link: Arc<PeerLink>,
}

/// A moment, by both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// By the clock that never goes back.
    pub instant: Instant,
    /// By the clock on the wall, in nanoseconds after 1970.
    pub unix_nanos: u64,
}

/// What workers read of the machine.
#[derive(Debug, Default)]
pub struct Shared {
    /// Where sessions come in.
    pub slots: Slots,
    /// Whose handshakes are worth a look.
    pub pairs: ArcSwap<Pairs>,
}

/// What the machine wants done.
#[derive(Debug, Default)]
pub struct Output {
    /// Datagrams to send, with where they go.
    pub datagrams: Vec<(SocketAddr, Vec<u8>)>,
    /// What people should know.
    pub events: Vec<Event>,
    /// Keys of sessions that were made, of both directions: only where somebody has put a list for
    /// them, because whoever has them reads what is sealed.
    pub keys: Option<Vec<LoggedKey>>,
}

/// How often timers of handshakes are looked at.
const BUSY_TICK: Duration = Duration::from_millis(50);
/// How often those of sessions are.
const IDLE_TICK: Duration = Duration::from_millis(250);

/// Handshakes that unknown SPIs may cause, for all peers together.
const RESTARTS: Budget = Budget::new(1000, Duration::from_millis(1));

type Index = usize;

/// The sessions of one node.
#[derive(Debug)]
pub struct Mesh<E> {
    config: Config,
    identity: Identity,
    entropy: E,
    /// What times of [`PeerLink`]s are counted from.
    started: Instant,
    shared: Arc<Shared>,
    /// A peer keeps its place; one that has left leaves a hole for the next.
    peers: Vec<Option<Peer>>,
    by_name: HashMap<Arc<str>, Index, RandomState>,
    by_address: HashMap<IpAddr, Index, RandomState>,
    by_slot: HashMap<u32, Index, RandomState>,
    /// By a peer's key; nobody else has it.
    by_key: HashMap<KeyId, Index, RandomState>,
    /// Those that shake hands, and those that have a session.
    busy: BTreeSet<Index>,
    awake: BTreeSet<Index>,
    /// Those with which this node begins.
    turns: Turns,
    next_slot: u32,
    next_sweep: Instant,
    restarts: Budget,
}

impl<E: Entropy> Mesh<E> {
    /// A node without peers. `started` is what the times in [`PeerLink`]s are counted from.
    pub fn new(config: Config, identity: Identity, mut entropy: E, started: Instant) -> Self {
        let mut first = [0; 4];
        entropy.fill(&mut first);
        Self {
            config,
            identity,
            entropy,
            started,
            shared: Arc::default(),
            peers: Vec::new(),
            by_name: HashMap::default(),
            by_address: HashMap::default(),
            by_slot: HashMap::default(),
            by_key: HashMap::default(),
            busy: BTreeSet::new(),
            awake: BTreeSet::new(),
            turns: Turns::new(AT_ONCE),
            next_slot: u32::from_be_bytes(first) % Slot::MAX + 1,
            next_sweep: started,
            restarts: RESTARTS,
        }
    }

    /// What workers read.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// A worker has something for the peer and no session.
    pub fn want(&mut self, name: &str, now: Now, out: &mut Output) {
        if let Some(&index) = self.by_name.get(name) {
            self.peer_wants(index, now, out);
            // A handshake's timer asks whether somebody still waits; without one, the next asks
            // anew.
            if let Some(peer) = self.peers[index].as_ref().filter(|peer| !peer.is_shaking_hands()) {
                peer.link.activity().take_want();
            }
        }
    }

    /// Something came from `source` for a session that this node does not have: it may have had it
    /// before it was restarted, and the peer does not know yet.
    pub fn unknown_spi(&mut self, source: IpAddr, now: Now, out: &mut Output) {
        let Some(&index) = self.by_address.get(&source) else { return };
        let Some(peer) = &mut self.peers[index] else { return };
        let lives = peer.current.is_some() && !peer.is_deaf(now.instant);
        if lives || peer.expects_session(now.instant) || !peer.restarts.take(now.instant) {
            return;
        }
        if self.restarts.take(now.instant) {
            self.begin(index, now.instant, now, out);
        }
    }

    /// Whether a handshake is going on.
    pub fn is_busy(&self) -> bool {
        !self.busy.is_empty()
    }

    /// When [`tick`](Self::tick) wants to be called next.
    pub fn next_tick(&self, now: Instant) -> Option<Instant> {
        if !self.busy.is_empty() {
            Some(now + BUSY_TICK)
        } else if !self.awake.is_empty() {
            Some(self.next_sweep.max(now))
        } else {
            None
        }
    }

    fn ms(&self, now: Instant) -> u64 {
        let age = now.saturating_duration_since(self.started).as_millis();
        u64::try_from(age).unwrap_or(u64::MAX)
    }

    fn secret(&mut self) -> Zeroizing<[u8; KEY_LEN]> {
        let mut secret = Zeroizing::new([0; KEY_LEN]);
        self.entropy.fill(&mut secret[..]);
        secret
    }

    /// `duration`, give or take a fifth.
    fn jittered(&mut self, duration: Duration) -> Duration {
        let mut byte = [0];
        self.entropy.fill(&mut byte);
        duration * (205 + u32::from(byte[0]) * 102 / 255) / 256
    }

    /// Up to `duration`.
    fn up_to(&mut self, duration: Duration) -> Duration {
        let mut bytes = [0; 2];
        self.entropy.fill(&mut bytes);
        duration * u32::from(u16::from_be_bytes(bytes)) / u32::from(u16::MAX)
    }

    /// A slot that no session has. Each is used again as late as possible.
    fn slot(&mut self, index: Index) -> Option<Slot> {
        for _ in 0..Slot::MAX {
            let number = self.next_slot;
            self.next_slot = number % Slot::MAX + 1;
            if let Entry::Vacant(free) = self.by_slot.entry(number) {
                free.insert(index);
                return Slot::new(number);
            }
        }
        None
    }

    fn free(&mut self, slot: Slot) {
        self.by_slot.remove(&slot.get());
        self.shared.slots.remove(slot);
    }

    /// Puts the peer on the lists of those that timers are looked at for, and shows how it stands.
    fn schedule(&mut self, index: Index) {
        self.show(index);
        let peer = self.peers.get(index).and_then(Option::as_ref);
        let attempt = peer.and_then(|peer| peer.attempt.as_ref());
        self.turns.set(index, attempt.map(|attempt| attempt.place));
        let is_busy = peer.is_some_and(Peer::is_shaking_hands);
        let is_awake = peer.is_some_and(Peer::has_sessions);
        for (list, is_on) in [(&mut self.busy, is_busy), (&mut self.awake, is_awake)] {
            if is_on {
                list.insert(index);
            } else {
                list.remove(&index);
            }
        }
    }

    fn tell(&self, index: Index, what: What, out: &mut Output) {
        if let Some(peer) = &self.peers[index] {
            out.events.push(Event { peer: peer.link.name().into(), what });
        }
    }
}

#[cfg(test)]
mod tests;
