//! Why packets are dropped: a closed list that counters, tests and people share.

use std::cmp;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use culvert_seal::session::OpenError;
use overlay_proto::esp::EspError;
use overlay_proto::{DecodeError, InnerError};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Why a packet went no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// The outer source is no node of the table.
    UnknownPeer,
    /// The datagram was longer than any the overlay sends.
    DatagramTruncated,
    /// The datagram came to the port of another codec than its sender's.
    WrongCodec,
    /// The datagram was sent in plain by a peer that seals, or has to.
    PlaintextRefused,
    /// The datagram is of no session of this node's.
    UnknownSpi,
    /// The datagram is no ESP as we send it.
    EspFormat,
    /// The datagram was opened before, or is too far behind to tell.
    Replayed,
    /// The datagram was sealed with another key, or changed on the way.
    BadTag,
    /// What was sealed does not end as it should.
    BadTrailer,
    /// The overlay header is not what we send.
    Header(DecodeError),
    /// What was carried is not one whole IP packet.
    Inner(InnerError),
    /// The inner source does not belong to the node that sent it.
    SpoofedSource,
    /// The inner destination is not in a subnet of this node.
    NotOurDestination,
    /// Congestion was marked on a packet whose sender does not understand marks (RFC 6040 §4.2).
    Congestion,
    /// A packet to a multicast group: groups do not span nodes. The kernel itself sends such
    /// packets when a device comes up.
    Multicast,
    /// A packet to the overlay whose source is not in a subnet of this node.
    ForeignSource,
    /// A packet to the overlay for a subnet of this node: no pod has the address.
    OwnSubnet,
    /// No node owns the destination; its sender is told, within limits.
    NoOwner,
    /// Longer than the path to the peer carries; its sender is told, within limits.
    TooBig,
    /// The peer must not be spoken to in plain and has no key; its sender is told, within limits.
    NoKey,
    /// The peer has not answered handshakes for as long as packets to it wait, or more came than
    /// may wait; its sender is told, within limits.
    NoSession,
    /// A virtio-net header that contradicts its packet.
    VnetHeader,
    /// The underlay's queue was full.
    UnderlayFull,
    /// The underlay refused the datagram: no route, filtered, address gone.
    UnderlayRefused,
    /// The pods' side took no more packets.
    TunFull,
    /// The TUN device refused the packet: it is down or gone.
    TunRefused,
}

impl DropReason {
    /// How many reasons there are.
    pub const COUNT: usize = 39;

    /// Every reason, in the order in which a packet may meet them, ingress first.
    pub const ALL: [Self; Self::COUNT] = [
        Self::UnknownPeer,
        Self::DatagramTruncated,
        Self::WrongCodec,
        Self::PlaintextRefused,
        Self::UnknownSpi,
        Self::EspFormat,
        Self::Replayed,
        Self::BadTag,
        Self::BadTrailer,
        Self::Header(DecodeError::ALL[0]),
        Self::Header(DecodeError::ALL[1]),
        Self::Header(DecodeError::ALL[2]),
        Self::Header(DecodeError::ALL[3]),
        Self::Header(DecodeError::ALL[4]),
        Self::Header(DecodeError::ALL[5]),
        Self::Header(DecodeError::ALL[6]),
        Self::Header(DecodeError::ALL[7]),
        Self::Inner(InnerError::ALL[0]),
        Self::Inner(InnerError::ALL[1]),
        Self::Inner(InnerError::ALL[2]),
        Self::Inner(InnerError::ALL[3]),
        Self::Inner(InnerError::ALL[4]),
        Self::Inner(InnerError::ALL[5]),
        Self::Inner(InnerError::ALL[6]),
        Self::SpoofedSource,
        Self::NotOurDestination,
        Self::Congestion,
        Self::Multicast,
        Self::ForeignSource,
        Self::OwnSubnet,
        Self::NoOwner,
        Self::TooBig,
        Self::NoKey,
        Self::NoSession,
        Self::VnetHeader,
        Self::UnderlayFull,
        Self::UnderlayRefused,
        Self::TunFull,
        Self::TunRefused,
    ];

    /// The reason's name in metrics and status.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::UnknownPeer => "unknown_peer",
            Self::DatagramTruncated => "datagram_truncated",
            Self::WrongCodec => "wrong_codec",
            Self::PlaintextRefused => "plaintext_refused",
            Self::UnknownSpi => "unknown_spi",
            Self::EspFormat => "esp_format",
            Self::Replayed => "replayed",
            Self::BadTag => "bad_tag",
            Self::BadTrailer => "bad_trailer",
            Self::Header(error) => error.as_str(),
            Self::Inner(error) => error.as_str(),
            Self::SpoofedSource => "spoofed_source",
            Self::NotOurDestination => "not_our_destination",
            Self::Congestion => "congestion",
            Self::Multicast => "multicast",
            Self::ForeignSource => "foreign_source",
            Self::OwnSubnet => "own_subnet",
            Self::NoOwner => "no_owner",
            Self::TooBig => "too_big",
            Self::NoKey => "no_key",
            Self::NoSession => "no_session",
            Self::VnetHeader => "vnet_header",
            Self::UnderlayFull => "underlay_full",
            Self::UnderlayRefused => "underlay_refused",
            Self::TunFull => "tun_full",
            Self::TunRefused => "tun_refused",
        }
    }

    /// The reason's place in [`ALL`](Self::ALL). Who sends what is dropped chooses how often this
    /// is asked, so it must not be a search.
    pub const fn index(self) -> usize {
        const HEADER: usize = 9;
        const INNER: usize = HEADER + DecodeError::ALL.len();
        const REST: usize = INNER + InnerError::ALL.len();
        match self {
            Self::UnknownPeer => 0,
            Self::DatagramTruncated => 1,
            Self::WrongCodec => 2,
            Self::PlaintextRefused => 3,
            Self::UnknownSpi => 4,
            Self::EspFormat => 5,
            Self::Replayed => 6,
            Self::BadTag => 7,
            Self::BadTrailer => 8,
            Self::Header(error) => HEADER + error as usize,
            Self::Inner(error) => INNER + error as usize,
            Self::SpoofedSource => REST,
            Self::NotOurDestination => REST + 1,
            Self::Congestion => REST + 2,
            Self::Multicast => REST + 3,
            Self::ForeignSource => REST + 4,
            Self::OwnSubnet => REST + 5,
            Self::NoOwner => REST + 6,
            Self::TooBig => REST + 7,
            Self::NoKey => REST + 8,
            Self::NoSession => REST + 9,
            Self::VnetHeader => REST + 10,
            Self::UnderlayFull => REST + 11,
            Self::UnderlayRefused => REST + 12,
            Self::TunFull => REST + 13,
            Self::TunRefused => REST + 14,
        }
    }
}

/// By name, as people look for them.
impl Ord for DropReason {
    fn cmp(&self, other: &Self) -> cmp::Ordering {
        self.as_str().cmp(other.as_str())
    }
}

impl PartialOrd for DropReason {
    fn partial_cmp(&self, other: &Self) -> Option<cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Serialize for DropReason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for DropReason {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        let known = Self::ALL.into_iter().find(|reason| reason.as_str() == name);
        known.ok_or_else(|| de::Error::custom(format_args!("unknown drop reason {name}")))
    }
}

impl From<DecodeError> for DropReason {
    fn from(error: DecodeError) -> Self {
        Self::Header(error)
    }
}

impl From<InnerError> for DropReason {
    fn from(error: InnerError) -> Self {
        Self::Inner(error)
    }
}

impl From<EspError> for DropReason {
    fn from(_: EspError) -> Self {
        Self::EspFormat
    }
}

impl From<OpenError> for DropReason {
    fn from(error: OpenError) -> Self {
        match error {
            // The peer has announced none with this number.
            OpenError::Lane => Self::UnknownSpi,
            OpenError::Replayed => Self::Replayed,
            OpenError::BadTag => Self::BadTag,
            OpenError::BadTrailer => Self::BadTrailer,
        }
    }
}

/// The newest of the packets that were dropped for a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastDrop {
    /// When it was.
    pub at: Instant,
    /// Whom it was from: by its outer source if it came from the wire, else by the packet's own;
    /// none where that is not known any more.
    pub from: Option<IpAddr>,
}

/// Senders that are remembered for each reason: enough to tell one from several, and in a small
/// cluster several from all.
pub const SENDERS_KEPT: usize = 8;

/// The newest packets that were dropped for a reason, one of each sender, the newest first.
pub type LastDrops = [Option<LastDrop>; SENDERS_KEPT];

/// How many packets were dropped for each reason, and the newest of them. Shared by the worker that
/// counts and by those who look.
#[derive(Debug)]
pub struct DropCounters {
    counts: [AtomicU64; DropReason::COUNT],
    last: [Mutex<LastDrops>; DropReason::COUNT],
}

impl DropCounters {
    /// Starts at zero.
    pub fn new() -> Self {
        Self {
            counts: [const { AtomicU64::new(0) }; DropReason::COUNT],
            last: [const { Mutex::new([None; SENDERS_KEPT]) }; DropReason::COUNT],
        }
    }

    /// Counts `packets` more, the last of them `last`. While somebody looks at the one before, that
    /// one stays.
    pub fn add(&self, reason: DropReason, packets: u64, last: LastDrop) {
        self.counts[reason.index()].fetch_add(packets, Ordering::Relaxed);
        if let Ok(mut places) = self.last[reason.index()].try_lock() {
            let is_its = |place: &Option<LastDrop>| place.is_none_or(|it| it.from == last.from);
            let place = places.iter().position(is_its).unwrap_or(SENDERS_KEPT - 1);
            places[..=place].rotate_right(1);
            places[0] = Some(last);
        }
    }

    /// The count so far.
    pub fn count(&self, reason: DropReason) -> u64 {
        self.counts[reason.index()].load(Ordering::Relaxed)
    }

    /// The newest drop of each sender that is remembered, the newest first.
    pub fn last(&self, reason: DropReason) -> LastDrops {
        *self.last[reason.index()].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for DropCounters {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::platform::clock;

    #[test]
    fn every_reason_has_a_counter_and_a_name_of_its_own() {
        let names: BTreeSet<_> = DropReason::ALL.iter().map(|reason| reason.as_str()).collect();
        assert_eq!(names.len(), DropReason::COUNT);
        for (index, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason.index(), index);
        }
    }

    #[test]
    fn counting_one_reason_leaves_the_others() {
        let counters = DropCounters::new();
        let last = LastDrop { at: clock::now(), from: Some([10, 244, 1, 2].into()) };
        counters.add(DropReason::TooBig, 3, last);
        let total: u64 = DropReason::ALL.into_iter().map(|reason| counters.count(reason)).sum();
        assert_eq!((counters.count(DropReason::TooBig), total), (3, 3));
        assert_eq!(counters.last(DropReason::TooBig)[0], Some(last));
        assert_eq!(counters.last(DropReason::NoKey), [None; SENDERS_KEPT]);
    }

    #[test]
    fn newest_of_each_sender_is_kept_and_the_longest_ago_goes_first() {
        let counters = DropCounters::new();
        let start = clock::now();
        let from = |second: u64, sender: u8| {
            let at = start + std::time::Duration::from_secs(second);
            LastDrop { at, from: Some([10, 0, 0, sender].into()) }
        };
        for (second, sender) in [(0, 1), (1, 2), (2, 1)] {
            counters.add(DropReason::NoKey, 1, from(second, sender));
        }
        let kept = || counters.last(DropReason::NoKey).into_iter().flatten().collect::<Vec<_>>();
        assert_eq!(kept(), [from(2, 1), from(1, 2)]);
        for sender in 3..=9 {
            counters.add(DropReason::NoKey, 1, from(sender.into(), sender));
        }
        assert_eq!(kept().len(), SENDERS_KEPT);
        assert_eq!((kept()[0], kept()[SENDERS_KEPT - 1]), (from(9, 9), from(2, 1)));
    }

    #[test]
    fn who_looks_holds_nobody_up_who_counts() {
        let counters = DropCounters::new();
        let looking = counters.last[DropReason::TooBig.index()].lock().unwrap();
        counters.add(DropReason::TooBig, 1, LastDrop { at: clock::now(), from: None });
        drop(looking);
        assert_eq!(
            (counters.count(DropReason::TooBig), counters.last(DropReason::TooBig)),
            (1, [None; SENDERS_KEPT])
        );
    }
}
