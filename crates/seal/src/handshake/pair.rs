//! What two static keys have in common, and the MAC made of it, by which a stranger's handshake is
//! told before it costs anything.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use aws_lc_rs::{constant_time, hmac};
use foldhash::fast::RandomState;
use overlay_proto::esp::handshake::{self, Header, Message};
use zeroize::Zeroizing;

use crate::keys::{KEY_LEN, KeyId, NodeKey, PublicKey, SharedSecret};

/// Length of a pair's MAC.
pub const MAC_LEN: usize = 16;

/// One of this node's keys and one of a peer's.
pub struct Pair {
    own: Arc<NodeKey>,
    own_id: KeyId,
    peer: PublicKey,
    peer_id: KeyId,
    shared: SharedSecret,
    mac: Zeroizing<[u8; KEY_LEN]>,
}

struct Length;

impl KeyType for Length {
    fn len(&self) -> usize {
        KEY_LEN
    }
}

impl Pair {
    /// `None` if the peer's key is no key, or the node's own.
    #[must_use]
    pub fn new(own: &Arc<NodeKey>, peer: &PublicKey) -> Option<Self> {
        if own.public() == peer {
            return None;
        }
        let shared = own.agree(peer)?;
        let secret = Salt::new(HKDF_SHA256, &[]).extract(shared.expose());
        let mut mac = Zeroizing::new([0; KEY_LEN]);
        secret.expand(&[b"mac"], Length).and_then(|key| key.fill(&mut mac[..])).ok()?;
        let (own_id, peer_id) = (own.id(), KeyId::of(peer));
        Some(Self { own: Arc::clone(own), own_id, peer: *peer, peer_id, shared, mac })
    }

    /// This node's key.
    #[must_use]
    pub fn own(&self) -> &NodeKey {
        &self.own
    }

    /// The peer's key.
    #[must_use]
    pub fn peer(&self) -> &PublicKey {
        &self.peer
    }

    /// The names of both keys: this node's, the peer's.
    #[must_use]
    pub fn ids(&self) -> (KeyId, KeyId) {
        (self.own_id, self.peer_id)
    }

    pub(crate) fn shared(&self) -> &SharedSecret {
        &self.shared
    }

    /// The header of a message of this node's as the one who begins, or of the peer's.
    pub(crate) fn header(&self, message: Message, own_begins: bool) -> Header {
        let (own, peer) = (*self.own_id.as_bytes(), *self.peer_id.as_bytes());
        let (initiator, responder) = if own_begins { (own, peer) } else { (peer, own) };
        Header { initiator, responder, message }
    }

    /// The MAC of a datagram that is these bytes up to it.
    #[must_use]
    pub fn mac(&self, bytes: &[u8]) -> [u8; MAC_LEN] {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.mac[..]);
        let mut mac = [0; MAC_LEN];
        mac.copy_from_slice(&hmac::sign(&key, bytes).as_ref()[..MAC_LEN]);
        mac
    }

    /// Takes the MAC off a datagram if it is right.
    #[must_use]
    pub fn verified<'d>(&self, datagram: &'d [u8]) -> Option<&'d [u8]> {
        let (bytes, mac) = datagram.split_last_chunk::<MAC_LEN>()?;
        constant_time::verify_slices_are_equal(&self.mac(bytes), mac).ok()?;
        Some(bytes)
    }
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pair({}, {})", self.own_id, self.peer_id)
    }
}

/// Every pair of this node's keys and its peers'. Immutable, for any thread.
#[derive(Debug, Default)]
pub struct Pairs {
    /// By this node's key and the peer's. Strangers choose what is looked up, hence the random
    /// seed.
    pairs: HashMap<(KeyId, KeyId), Arc<Pair>, RandomState>,
}

impl Pairs {
    /// The pair that a handshake datagram is of, if its MAC says so too.
    ///
    /// Costs a hash and an HMAC, however many keys there are, and no agreement.
    #[must_use]
    pub fn of_datagram<'d>(&self, datagram: &'d [u8]) -> Option<(Header, &Arc<Pair>, &'d [u8])> {
        let (header, _) = Header::decode(datagram).ok()?;
        let (initiator, responder) = (KeyId::new(header.initiator), KeyId::new(header.responder));
        let names = match header.message {
            Message::Init => (responder, initiator),
            Message::Response | Message::Stale => (initiator, responder),
        };
        let pair = self.pairs.get(&names)?;
        let body = pair.verified(datagram)?.get(handshake::HEADER_LEN..)?;
        Some((header, pair, body))
    }

    pub(crate) fn get(&self, own: KeyId, peer: KeyId) -> Option<&Arc<Pair>> {
        self.pairs.get(&(own, peer))
    }
}

impl FromIterator<Arc<Pair>> for Pairs {
    fn from_iter<I: IntoIterator<Item = Arc<Pair>>>(pairs: I) -> Self {
        Self { pairs: pairs.into_iter().map(|pair| (pair.ids(), pair)).collect() }
    }
}
