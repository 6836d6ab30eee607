//! The subnet table as workers read it: immutable, swapped whole, looked up without a lock.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};

use culvert_seal::session::PeerLink;
use foldhash::fast::RandomState;
use ipnet::IpNet;
use overlay_proto::{CodecKind, Family, Mac, Mtu, Vni};

use super::{
    Digest, Lasting, Membership, NodeEntry, Peer, PeerIndex, PeerRegistry, PrefixMap, Seal,
    SealedMode, Sealing, Tunnel,
};

/// Whose subnet an address lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// This node's.
    Local,
    /// A peer's.
    Peer(PeerIndex),
}

/// This node's part of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Local {
    /// Its name.
    pub name: String,
    /// Its underlay address.
    pub address: IpAddr,
    /// Its Ethernet address in tunnels that have frames.
    pub mac: Mac,
    /// Every codec and port that it speaks in plain with somebody, its own first.
    pub tunnels: Vec<Tunnel>,
    /// Its pod subnets.
    pub subnets: Vec<IpNet>,
    /// The addresses by which its pods know it as their router.
    pub routers: Vec<IpAddr>,
    /// The UDP port on which it hears what is sealed, if it seals.
    pub sealed_port: Option<u16>,
}

impl Local {
    /// The UDP port on which this node hears `codec`; that of its own codec if it does not.
    pub fn port(&self, codec: CodecKind) -> u16 {
        let tunnel = self.tunnels.iter().find(|tunnel| tunnel.codec == codec);
        tunnel.or_else(|| self.tunnels.first()).map_or(0, |tunnel| tunnel.port)
    }

    /// What this node hears on `port`, if anything.
    pub fn codec_on(&self, port: u16) -> Option<CodecKind> {
        self.tunnels.iter().find(|tunnel| tunnel.port == port).map(|tunnel| tunnel.codec)
    }

    /// The address of this node that pods know as their router, if it has one of that family.
    pub fn router_address(&self, family: Family) -> Option<IpAddr> {
        self.routers.iter().copied().find(|address| Family::of(*address) == family)
    }
}

/// A compiled subnet table.
#[derive(Clone, Debug)]
pub struct Table {
    vni: Vni,
    networks: Vec<IpNet>,
    /// This node's entry, as others have it.
    own_entry: Arc<NodeEntry>,
    /// Made once somebody asks, since every entry is read for it, or from that of the table before.
    digest: OnceLock<Digest>,
    local: Local,
    peers: Vec<Peer>,
    owners: PrefixMap<Owner>,
    /// Outer sources come from strangers, hence the random seed.
    senders: HashMap<IpAddr, PeerIndex, RandomState>,
    /// Peers that seal, by the address in memory of what is known of their sessions.
    sealers: HashMap<usize, PeerIndex, RandomState>,
    /// Whether this node's entry names no codec.
    speaks_culvert: bool,
}

impl Table {
    /// Compiles `members`; `routers` are this node's addresses among its pods, and `mtu_to` tells
    /// the longest inner packet toward an underlay address.
    pub fn compile(
        members: &Membership,
        routers: Vec<IpAddr>,
        mtu_to: impl Fn(IpAddr) -> Mtu,
        registry: &PeerRegistry,
    ) -> Self {
        Self::compile_after(None, members, routers, mtu_to, registry)
    }

    /// The same if workers have the table `before` so far: what stays of a peer is taken from
    /// there where that is quicker.
    pub fn compile_after(
        before: Option<&Self>,
        members: &Membership,
        routers: Vec<IpAddr>,
        mtu_to: impl Fn(IpAddr) -> Mtu,
        registry: &PeerRegistry,
    ) -> Self {
        let mut former = Former::of(before);
        let overlay = members.overlay();
        let local = members.local();
        let mac = local.tunnel_options.mac_at(local.address);
        let mut peers: Vec<Peer> = Vec::with_capacity(members.peer_count());
        peers.extend(members.peers().map(|node| {
            let tunnel = members.tunnel_to(node);
            let peer_mac = node.tunnel_options.mac_at(node.address);
            let also = overlay
                .also_heard(tunnel.codec)
                .map(|also| (also.codec_between(mac, peer_mac), overlay.vni_of(also.codec)));
            let Lasting { counters, paths } =
                former.find(node).unwrap_or_else(|| registry.peer(&node.name));
            Peer {
                entry: Arc::clone(node),
                endpoint: SocketAddr::new(node.address, tunnel.port),
                codec: tunnel.codec_between(mac, peer_mac),
                vni: overlay.vni_of(tunnel.codec),
                also,
                mtu: mtu_to(node.address),
                counters,
                paths,
                seal: Seal::Plain,
            }
        }));
        let digest = former.digest(local).map_or_else(OnceLock::new, OnceLock::from);
        let indexed =
            || peers.iter().enumerate().map(|(index, peer)| (PeerIndex::new(index), peer));
        let owners = PrefixMap::new(
            indexed()
                .flat_map(|(index, peer)| owned(peer.subnets(), Owner::Peer(index)))
                .chain(owned(&local.subnets, Owner::Local)),
        );
        Self {
            vni: overlay.vni,
            networks: overlay.networks.clone(),
            own_entry: Arc::clone(local),
            digest,
            local: Local {
                name: local.name.clone(),
                address: local.address,
                mac,
                tunnels: members.tunnels(),
                subnets: local.subnets.clone(),
                routers,
                sealed_port: None,
            },
            owners,
            sealers: HashMap::default(),
            speaks_culvert: local.tunnel_options.codec.is_none(),
            senders: indexed().map(|(index, peer)| (peer.address(), index)).collect(),
            peers,
        }
    }

    /// The same table with counters of its own, for packets that nobody sent.
    #[must_use]
    pub fn with_own_counters(&self) -> Self {
        let mut table = self.clone();
        for peer in &mut table.peers {
            peer.counters = Arc::default();
        }
        table
    }

    /// By what this table compares with those of other nodes.
    pub fn digest(&self) -> Digest {
        let entries = || self.peers.iter().map(|peer| &*peer.entry).chain([&*self.own_entry]);
        *self.digest.get_or_init(|| Digest::of(entries()))
    }

    /// Whether `address` is in a pod network of the cluster, whoever owns it.
    pub fn is_inside(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(&address))
    }

    /// The same of a node that seals: which peers' packets are sealed, must be, or need not be.
    /// What is not for a node that runs Culvert is never sealed.
    #[must_use]
    pub fn seal(mut self, sealing: &Sealing) -> Self {
        self.local.sealed_port = Some(sealing.port());
        self.sealers.clear();
        for (index, peer) in self.peers.iter_mut().enumerate() {
            let speaks_culvert = self.speaks_culvert && peer.entry.tunnel_options.codec.is_none();
            peer.seal = if speaks_culvert { sealing.of(&peer.entry) } else { Seal::Plain };
            if let Seal::Keyed(keyed) = &peer.seal {
                self.sealers.insert(place(&keyed.link), PeerIndex::new(index));
            }
        }
        if sealing.mode() == SealedMode::Require {
            let plain = self.peers.iter().filter(|peer| matches!(peer.seal, Seal::Plain));
            let plain: Vec<_> =
                plain.map(|peer| (peer.codec.kind(), peer.endpoint.port())).collect();
            self.local.tunnels.retain(|tunnel| plain.contains(&(tunnel.codec, tunnel.port)));
        }
        self
    }

    /// Who owns `address`, by longest match.
    #[inline]
    pub fn owner(&self, address: IpAddr) -> Option<Owner> {
        self.owners.longest_match(address)
    }

    /// The peer whose underlay address `address` is.
    #[inline]
    pub fn sender(&self, address: IpAddr) -> Option<PeerIndex> {
        self.senders.get(&address).copied()
    }

    /// The peer whose sessions are known to workers by `link`.
    #[inline]
    pub fn sealer(&self, link: &Arc<PeerLink>) -> Option<PeerIndex> {
        self.sealers.get(&place(link)).copied()
    }

    /// The peer at `index`, which this table has given out.
    #[inline]
    pub fn peer(&self, index: PeerIndex) -> &Peer {
        &self.peers[index.get()]
    }

    /// Every peer.
    pub fn peers(&self) -> &[Peer] {
        &self.peers
    }

    /// This node.
    pub fn local(&self) -> &Local {
        &self.local
    }

    /// The virtual network of nodes that run Culvert.
    pub fn vni(&self) -> Vni {
        self.vni
    }
}

/// The peers of the table before, in whose order nearly all of the next one's come.
struct Former<'a> {
    table: Option<&'a Table>,
    /// Those that have not been passed.
    peers: &'a [Peer],
    /// Entries that are not the next table's, as far as they have been passed.
    left: Vec<&'a NodeEntry>,
    /// Entries of the next table that were not found.
    came: Vec<Arc<NodeEntry>>,
}

impl<'a> Former<'a> {
    fn of(table: Option<&'a Table>) -> Self {
        let peers = table.map_or(&[][..], |table| &table.peers);
        Self { table, peers, left: Vec::new(), came: Vec::new() }
    }

    /// What stays of the peer whose entry is `node`, if it is the next one, or the one after.
    fn find(&mut self, node: &Arc<NodeEntry>) -> Option<Lasting> {
        let found = self.peers.iter().take(2).position(|peer| Arc::ptr_eq(&peer.entry, node));
        let has_changed = || self.peers.first().is_some_and(|peer| peer.name() == node.name);
        let passed = found.map_or_else(|| usize::from(has_changed()), |at| at + 1);
        let (past, rest) = self.peers.split_at(passed);
        self.peers = rest;
        let left = past.iter().enumerate().filter(|(at, _)| Some(*at) != found);
        self.left.extend(left.map(|(_, peer)| &*peer.entry));
        let Some(Peer { counters, paths, .. }) = found.and_then(|at| past.get(at)) else {
            self.came.push(Arc::clone(node));
            return None;
        };
        Some(Lasting { counters: Arc::clone(counters), paths: Arc::clone(paths) })
    }

    /// The digest of the next table, whose peers have all been looked for and in which this node is
    /// `local`, if that of the table before is known and few entries are others.
    fn digest(&self, local: &NodeEntry) -> Option<Digest> {
        let table = self.table?;
        let mut digest = *table.digest.get()?;
        let left = || self.left.iter().copied().chain(self.peers.iter().map(|peer| &*peer.entry));
        if left().count() + self.came.len() > table.peers.len() / 2 {
            return None;
        }
        for entry in left().chain([&*table.own_entry]) {
            digest -= entry;
        }
        for entry in self.came.iter().map(|entry| &**entry).chain([local]) {
            digest += entry;
        }
        Some(digest)
    }
}

/// Where a link is in memory: nothing else is there as long as a table has it.
fn place(link: &Arc<PeerLink>) -> usize {
    Arc::as_ptr(link).addr()
}

fn owned(subnets: &[IpNet], owner: Owner) -> impl Iterator<Item = (IpNet, Owner)> {
    subnets.iter().map(move |subnet| (*subnet, owner))
}
