//! Sealed mode as a table has it: which peers' packets are sealed, and by what.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use culvert_seal::keys::PublicKey;
use culvert_seal::mesh::PeerEntry;
use culvert_seal::session::PeerLink;
use foldhash::fast::RandomState;
use overlay_proto::{CodecKind, Family, Mtu, esp};

use super::{Membership, NodeEntry, Tunnel};

/// How strict a node is that seals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SealedMode {
    /// What is for a peer with a key is sealed from the first session on, and plain until then.
    Prefer,
    /// What is for a peer is sealed, unless somebody says that the peer may be spoken to in plain.
    Require,
}

/// A peer that has keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerKeys {
    /// The peer's name.
    pub name: String,
    /// Where its handshakes go.
    pub address: SocketAddr,
    /// Its public keys.
    pub keys: Vec<PublicKey>,
}

/// What a node that seals knows of its peers, by name. Immutable; the next keeps what workers know
/// of the peers that stay.
#[derive(Clone, Debug)]
pub struct Sealing {
    mode: SealedMode,
    port: u16,
    /// Those that have keys.
    peers: HashMap<String, Arc<PeerLink>, RandomState>,
}

/// Whether packets to and from a peer are sealed.
#[derive(Clone, Debug)]
pub enum Seal {
    /// They are not.
    Plain,
    /// They would have to be, and the peer has no key: none leaves, and none is taken.
    NoKey,
    /// They are, by what this node and the peer agree on.
    Keyed(Keyed),
}

/// What a worker needs to seal what is for a peer.
#[derive(Clone, Debug)]
pub struct Keyed {
    /// The sessions.
    pub link: Arc<PeerLink>,
    /// Where sealed datagrams go.
    pub endpoint: SocketAddr,
    mode: SealedMode,
}

impl Keyed {
    /// Whether packets may leave in plain, as long as there is no session.
    #[inline]
    pub fn may_leave_plain(&self) -> bool {
        self.mode == SealedMode::Prefer && !self.link.seals()
    }

    /// Whether plain datagrams of the peer's are refused, at `now_ms` after the daemon's start.
    #[inline]
    pub fn refuses_plain(&self, now_ms: u64) -> bool {
        match self.mode {
            SealedMode::Prefer => self.link.refuses_plain(now_ms),
            SealedMode::Require => true,
        }
    }
}

impl Sealing {
    /// A node that hears what is sealed on `port`, and has no peers yet.
    pub fn new(mode: SealedMode, port: u16) -> Self {
        Self { mode, port, peers: HashMap::default() }
    }

    /// The same as strict as `mode` says.
    #[must_use]
    pub fn with_mode(self, mode: SealedMode) -> Self {
        Self { mode, ..self }
    }

    /// The same with these peers and no others.
    #[must_use]
    pub fn with(&self, peers: &[PeerKeys]) -> Self {
        let link = |peer: &PeerKeys| match self.peers.get(&peer.name) {
            Some(link) => Arc::clone(link),
            None => Arc::new(PeerLink::new(&peer.name)),
        };
        let peers = peers.iter().filter(|peer| !peer.keys.is_empty());
        Self { peers: peers.map(|peer| (peer.name.clone(), link(peer))).collect(), ..*self }
    }

    /// The same with the peers that these are of, whatever keys they have.
    #[must_use]
    pub fn with_links(&self, links: impl IntoIterator<Item = Arc<PeerLink>>) -> Self {
        let peers = links.into_iter().map(|link| (link.name().to_owned(), link));
        Self { peers: peers.collect(), ..*self }
    }

    /// The same with the peers of `other` as well.
    #[must_use]
    pub fn or(&self, other: &Self) -> Self {
        let mut both = other.clone();
        both.peers.extend(self.peers.iter().map(|(name, link)| (name.clone(), Arc::clone(link))));
        Self { peers: both.peers, ..*self }
    }

    /// Whether the peer `name` has keys.
    pub fn has(&self, name: &str) -> bool {
        self.peers.contains_key(name)
    }

    /// What the machine that makes sessions has to know of `peers`, which this was made
    /// [`with`](Self::with).
    pub fn entries(&self, peers: Vec<PeerKeys>) -> Vec<PeerEntry> {
        let entry = |PeerKeys { name, address, keys }| {
            let link = Arc::clone(self.peers.get(&name)?);
            Some(PeerEntry { address, keys, link })
        };
        peers.into_iter().filter_map(entry).collect()
    }

    /// How strict it is.
    pub fn mode(&self) -> SealedMode {
        self.mode
    }

    /// The UDP port, at both ends.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether packets of the peer `node`, which runs Culvert as this one does, are sealed.
    pub(super) fn of(&self, node: &NodeEntry) -> Seal {
        match (self.peers.get(&node.name), self.mode) {
            (Some(link), mode) => {
                let endpoint = SocketAddr::new(node.address, self.port);
                Seal::Keyed(Keyed { link: Arc::clone(link), endpoint, mode })
            }
            (None, SealedMode::Prefer) => Seal::Plain,
            (None, SealedMode::Require) => Seal::NoKey,
        }
    }
}

/// In which ways packets to a peer may leave, for whoever works out how long they may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ways {
    /// As the codec has them.
    Plain,
    /// Sealed.
    Sealed,
    /// In plain until the first session, and sealed from then on.
    Both,
}

impl SealedMode {
    /// In which ways packets may leave to a peer that has a key or not, and that runs Culvert or
    /// speaks another codec, which is never sealed.
    pub fn ways(self, has_key: bool, codec: Option<CodecKind>) -> Ways {
        match (self, codec) {
            (_, Some(_)) => Ways::Plain,
            (Self::Prefer, None) if has_key => Ways::Both,
            (Self::Prefer, None) => Ways::Plain,
            (Self::Require, None) => Ways::Sealed,
        }
    }

    /// The codecs and ports on which a node with the table `members` has to listen for what is
    /// plain: where everything has to be sealed, those of peers that do not run Culvert.
    pub fn tunnels(self, members: &Membership) -> Vec<Tunnel> {
        let mut tunnels = members.tunnels();
        if self == Self::Require && members.local().tunnel_options.codec.is_none() {
            tunnels.retain(|tunnel| {
                members.peers().any(|peer| {
                    peer.tunnel_options.codec.is_some() && members.tunnel_to(peer) == *tunnel
                })
            });
        }
        tunnels
    }
}

impl Ways {
    /// The longest inner packet that an underlay of `underlay` carries either way; `None` if that
    /// is less than [`Mtu::MIN`].
    pub fn mtu(self, codec: CodecKind, underlay: Mtu, family: Family) -> Option<Mtu> {
        let plain = || underlay.shrink(codec.overhead(family));
        let sealed = || esp::mtu(underlay, family);
        match self {
            Self::Plain => plain(),
            Self::Sealed => sealed(),
            Self::Both => Some(plain()?.min(sealed()?)),
        }
    }

    /// The smallest underlay MTU that leaves [`Mtu::MIN`].
    pub fn least_underlay(self, codec: CodecKind, family: Family) -> u16 {
        let plain = Mtu::MIN + codec.overhead(family).get();
        let headers = u16::try_from(family.header_len()).unwrap_or(u16::MAX) + 8;
        let sealed =
            u16::try_from(esp::datagram_len(Mtu::MIN.into())).unwrap_or(u16::MAX) + headers;
        match self {
            Self::Plain => plain,
            Self::Sealed => sealed,
            Self::Both => plain.max(sealed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_way_has_to_fit_where_both_are_taken() {
        let mtu = |ways: Ways, codec, underlay| {
            let underlay = Mtu::new(underlay).unwrap();
            ways.mtu(codec, underlay, Family::V4).map(Mtu::get)
        };
        let gpe = CodecKind::VxlanGpe;
        assert_eq!(mtu(Ways::Plain, gpe, 1500), Some(1464));
        assert_eq!(mtu(Ways::Sealed, gpe, 1500), Some(1438));
        assert_eq!(mtu(Ways::Both, gpe, 1500), Some(1438));
        assert_eq!(mtu(Ways::Both, gpe, 9000), Some(8938));
        for ways in [Ways::Plain, Ways::Sealed, Ways::Both] {
            for family in [Family::V4, Family::V6] {
                let least = ways.least_underlay(gpe, family);
                let fits = |underlay: u16| {
                    ways.mtu(gpe, Mtu::new(underlay.into()).unwrap(), family).is_some()
                };
                assert!(fits(least) && !fits(least - 1), "{ways:?} {family:?} {least}");
            }
        }
    }

    #[test]
    fn ways_follow_from_mode_and_key() {
        use SealedMode::{Prefer, Require};
        assert_eq!(Prefer.ways(true, None), Ways::Both);
        assert_eq!(Prefer.ways(false, None), Ways::Plain);
        assert_eq!(Require.ways(true, None), Ways::Sealed);
        assert_eq!(Require.ways(false, None), Ways::Sealed);
        assert_eq!(Require.ways(false, Some(CodecKind::Vxlan)), Ways::Plain);
        assert_eq!(Prefer.ways(false, Some(CodecKind::Vxlan)), Ways::Plain);
    }
}
