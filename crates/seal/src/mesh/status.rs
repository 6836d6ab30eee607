//! What can be known of a peer, for whoever looks.

use std::time::Instant;

use super::{Entropy, Failure, Index, Mesh, Role};
use crate::noise::PostQuantum;
use crate::suite::Suite;

/// How it stands with one peer. The machine leaves it at the peer's
/// [`PeerLink`](crate::session::PeerLink) whenever it has had to do with that peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerState {
    /// The session that serves, if there is one.
    pub session: Option<SessionState>,
    /// Whether a handshake is going on.
    pub is_shaking_hands: bool,
    /// What last went wrong, and nothing has gone right since.
    pub last_failure: Option<Failure>,
}

/// A session that serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionState {
    /// What it seals with.
    pub suite: Suite,
    /// Whether its handshake had ML-KEM.
    pub post_quantum: PostQuantum,
    /// Who began it.
    pub role: Role,
    /// When it was made.
    pub began: Instant,
    /// When it will be renewed, if there is traffic.
    pub renew_at: Instant,
    /// Whether it was made with the key of this node that others are begun with now.
    pub is_with_first_key: bool,
}

impl<E: Entropy> Mesh<E> {
    /// Shows how it stands with a peer.
    pub(super) fn show(&self, index: Index) {
        let Some(peer) = self.peers.get(index).and_then(Option::as_ref) else { return };
        let first = self.identity.keys.first().map(|key| key.id());
        let session = peer.current.as_ref().map(|session| SessionState {
            suite: session.outgoing.suite(),
            post_quantum: self.config.post_quantum,
            role: session.role,
            began: session.began,
            renew_at: session.renew_at,
            is_with_first_key: Some(session.pair.ids().0) == first,
        });
        peer.link.show(Some(PeerState {
            session,
            is_shaking_hands: peer.is_shaking_hands(),
            last_failure: peer.last_failure,
        }));
    }
}
