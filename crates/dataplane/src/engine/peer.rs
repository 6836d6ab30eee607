//! Peers as workers see them, and what is counted about each.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dashmap::DashMap;
use foldhash::fast::RandomState;
use ipnet::IpNet;
use overlay_proto::{Codec, CodecKind, Family, Mtu, Vni};

use super::{NodeEntry, PeerPaths, Seal};

/// A peer's place in the table's list of peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerIndex(u32);

impl PeerIndex {
    /// The place `index`; a table has far fewer peers than fit.
    pub(super) fn new(index: usize) -> Self {
        Self(u32::try_from(index).unwrap_or(u32::MAX))
    }

    /// The place as an index.
    pub fn get(self) -> usize {
        self.0 as usize
    }
}

/// Another node, as a worker needs it.
#[derive(Clone, Debug)]
pub struct Peer {
    /// What the membership knows of it.
    pub(super) entry: Arc<NodeEntry>,
    /// Where its datagrams go.
    pub endpoint: SocketAddr,
    /// What it and this node speak.
    pub codec: Codec,
    /// The virtual network of its packets.
    pub vni: Vni,
    /// What else it is heard in, and the virtual network there, while nodes change over from one to
    /// the other: the two ends of a pair do not learn at one moment that one of them has.
    pub also: Option<(Codec, Vni)>,
    /// Longest inner packet that reaches it in one datagram; see [`mtu_for`](Self::mtu_for).
    pub mtu: Mtu,
    /// What was counted about it, across all tables that had it.
    pub counters: Arc<PeerCounters>,
    /// By which source ports flows toward it leave, across all tables too.
    pub paths: Arc<PeerPaths>,
    /// Whether its packets are sealed.
    pub seal: Seal,
}

impl Peer {
    /// The node's name.
    pub fn name(&self) -> &str {
        &self.entry.name
    }

    /// Its pod subnets.
    pub fn subnets(&self) -> &[IpNet] {
        &self.entry.subnets
    }

    /// Longest inner packet of `family` that goes to the peer. IPv6 promises its senders 1280 bytes
    /// on every path; nobody may tell them less, and what a narrower path loses of that is lost.
    #[inline]
    pub fn mtu_for(&self, family: Family) -> Mtu {
        match family {
            Family::V4 => self.mtu,
            Family::V6 => self.mtu.max(Mtu::IPV6_MIN),
        }
    }

    /// As what its datagrams on a port for `kind` are read, and in which virtual network; none if
    /// it has no business there.
    #[inline]
    pub fn heard_in(&self, kind: CodecKind) -> Option<(Codec, Vni)> {
        let usual = (self.codec, self.vni);
        std::iter::once(usual).chain(self.also).find(|(codec, _)| codec.kind() == kind)
    }

    /// The peer's underlay address.
    pub fn address(&self) -> IpAddr {
        self.endpoint.ip()
    }
}

/// Packets and bytes of inner traffic with one peer, and when it was last heard.
#[derive(Debug, Default)]
pub struct PeerCounters {
    egress_packets: AtomicU64,
    egress_bytes: AtomicU64,
    ingress_packets: AtomicU64,
    ingress_bytes: AtomicU64,
    /// Milliseconds after the daemon's start, plus one; zero means never.
    last_heard: AtomicU64,
}

/// Packets and inner bytes in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Traffic {
    /// Inner packets.
    pub packets: u64,
    /// Bytes of inner packets.
    pub bytes: u64,
}

impl PeerCounters {
    /// Counts inner packets sent to the peer.
    pub fn add_egress(&self, packets: u64, bytes: u64) {
        self.egress_packets.fetch_add(packets, Ordering::Relaxed);
        self.egress_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts inner packets accepted from the peer, at `elapsed_ms` after the daemon's start.
    pub fn add_ingress(&self, packets: u64, bytes: u64, elapsed_ms: u64) {
        self.ingress_packets.fetch_add(packets, Ordering::Relaxed);
        self.ingress_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.last_heard.store(elapsed_ms.saturating_add(1), Ordering::Relaxed);
    }

    /// What was sent to the peer.
    pub fn egress(&self) -> Traffic {
        Traffic {
            packets: self.egress_packets.load(Ordering::Relaxed),
            bytes: self.egress_bytes.load(Ordering::Relaxed),
        }
    }

    /// What was accepted from the peer.
    pub fn ingress(&self) -> Traffic {
        Traffic {
            packets: self.ingress_packets.load(Ordering::Relaxed),
            bytes: self.ingress_bytes.load(Ordering::Relaxed),
        }
    }

    /// When a packet was last accepted from the peer, in milliseconds after the daemon's start.
    pub fn last_heard_ms(&self) -> Option<u64> {
        self.last_heard.load(Ordering::Relaxed).checked_sub(1)
    }
}

/// The counters and paths of every peer, by name, so that a new table goes on counting where the
/// old one left off. Compiling a table and answering a status request may happen at once.
#[derive(Debug, Default)]
pub struct PeerRegistry {
    peers: DashMap<String, Lasting, RandomState>,
}

/// What stays of a peer from table to table.
#[derive(Clone, Debug, Default)]
pub struct Lasting {
    /// What was sent to it and came from it.
    pub counters: Arc<PeerCounters>,
    /// What is known of the paths to it.
    pub paths: Arc<PeerPaths>,
}

impl PeerRegistry {
    /// What there is of the peer `name`, which is new if there is nothing yet.
    pub fn peer(&self, name: &str) -> Lasting {
        if let Some(lasting) = self.peers.get(name) {
            return lasting.clone();
        }
        self.peers.entry(name.to_owned()).or_default().clone()
    }

    /// How many peers it has something of.
    pub fn len(&self) -> usize {
        self.peers.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    /// Forgets peers that no table has any more, so that the registry is never longer than a table.
    pub fn retain(&self, keep: impl Fn(&str) -> bool) {
        self.peers.retain(|name, _| keep(name));
    }
}
