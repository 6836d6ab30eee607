//! What status says of a peer.

use std::time::{Duration, Instant};

use super::{Entropy, Mesh, What};
use crate::suite::Suite;

/// How it stands with one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// Its name.
    pub name: String,
    /// What its session seals with; `None` without a session.
    pub suite: Option<Suite>,
    /// The session's age.
    pub age: Option<Duration>,
    /// In how long it will be renewed, if there is traffic.
    pub renewal_in: Option<Duration>,
    /// Whether a handshake is going on.
    pub is_shaking_hands: bool,
    /// What last went wrong, and nothing has gone right since.
    pub last_failure: Option<What>,
}

impl<E: Entropy> Mesh<E> {
    /// How it stands with every peer that has a key.
    pub fn status(&self, now: Instant) -> Vec<PeerStatus> {
        let peers = self.peers.iter().flatten();
        peers
            .map(|peer| {
                let current = peer.current.as_ref();
                PeerStatus {
                    name: peer.link.name().to_owned(),
                    suite: current.map(|session| session.outgoing.suite()),
                    age: current.map(|session| now.saturating_duration_since(session.began)),
                    renewal_in: current
                        .map(|session| session.renew_at.saturating_duration_since(now)),
                    is_shaking_hands: peer.is_shaking_hands(),
                    last_failure: peer.last_failure,
                }
            })
            .collect()
    }
}
