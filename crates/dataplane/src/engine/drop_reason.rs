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

/// Makes [`DropReason`] of a table: a row has what it means, the variant, and its name in metrics
/// and status. A reason that has an error with it takes a place in [`DropReason::ALL`] for each
/// error.
macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $reason:ident $(($error:ident: $Error:ident))? = $name:expr,)+) => {
        /// Why a packet went no further.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum DropReason {
            $($(#[doc = $doc])+ $reason $(($Error))?,)+
        }

        /// The rows of the table.
        enum Row {
            $($reason,)+
        }

        /// How many places each row takes.
        const PLACES: &[usize] = &[$(drop_reasons!(@places $($Error)?)),+];

        impl DropReason {
            /// Every reason, in the order in which a packet may meet them, ingress first.
            pub const ALL: [Self; Self::COUNT] = {
                let mut all = [Self::UnknownPeer; Self::COUNT];
                $(drop_reasons!(@fill all[FIRST[Row::$reason as usize]] $reason $($Error)?);)+
                all
            };

            /// The reason's name in metrics and status.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$reason $(($error))? => $name,)+
                }
            }

            /// The reason's place in [`ALL`](Self::ALL). Who sends what is dropped chooses how
            /// often this is asked, so it must not be a search.
            pub const fn index(self) -> usize {
                match self {
                    $(Self::$reason $(($error))? => {
                        FIRST[Row::$reason as usize] $(+ $error as usize)?
                    })+
                }
            }
        }
    };
    (@places) => { 1 };
    (@places $Error:ident) => { $Error::ALL.len() };
    (@fill $all:ident[$first:expr] $reason:ident) => { $all[$first] = Self::$reason };
    (@fill $all:ident[$first:expr] $reason:ident $Error:ident) => {{
        let mut error = 0;
        while error < $Error::ALL.len() {
            $all[$first + error] = Self::$reason($Error::ALL[error]);
            error += 1;
        }
    }};
}

drop_reasons! {
    /// The outer source is no node of the table.
    UnknownPeer = "unknown_peer",
    /// The datagram was longer than any the overlay sends.
    DatagramTruncated = "datagram_truncated",
    /// The datagram came to the port of another codec than its sender's.
    WrongCodec = "wrong_codec",
    /// The datagram was sent in plain by a peer that seals, or has to.
    PlaintextRefused = "plaintext_refused",
    /// The datagram is of no session of this node's.
    UnknownSpi = "unknown_spi",
    /// The datagram is no ESP as we send it.
    EspFormat = "esp_format",
    /// The datagram was opened before, or is too far behind to tell.
    Replayed = "replayed",
    /// The datagram was sealed with another key, or changed on the way.
    BadTag = "bad_tag",
    /// What was sealed does not end as it should.
    BadTrailer = "bad_trailer",
    /// The overlay header is not what we send.
    Header(error: DecodeError) = error.as_str(),
    /// What was carried is not one whole IP packet.
    Inner(error: InnerError) = error.as_str(),
    /// The inner source does not belong to the node that sent it.
    SpoofedSource = "spoofed_source",
    /// The inner destination is not in a subnet of this node.
    NotOurDestination = "not_our_destination",
    /// Congestion was marked on a packet whose sender does not understand marks (RFC 6040 §4.2).
    Congestion = "congestion",
    /// A packet to a multicast group: groups do not span nodes. The kernel itself sends such
    /// packets when a device comes up.
    Multicast = "multicast",
    /// A packet to the overlay whose source is not in a subnet of this node.
    ForeignSource = "foreign_source",
    /// A packet to the overlay for a subnet of this node: no pod has the address.
    OwnSubnet = "own_subnet",
    /// No node owns the destination; its sender is told, within limits.
    NoOwner = "no_owner",
    /// Longer than the path to the peer carries; its sender is told, within limits.
    TooBig = "too_big",
    /// The peer must not be spoken to in plain and has no key; its sender is told, within limits.
    NoKey = "no_key",
    /// The peer has not answered handshakes for as long as packets to it wait, or more came than
    /// may wait; its sender is told, within limits.
    NoSession = "no_session",
    /// A virtio-net header that contradicts its packet.
    VnetHeader = "vnet_header",
    /// The underlay's queue was full.
    UnderlayFull = "underlay_full",
    /// The underlay refused the datagram: no route, filtered, address gone.
    UnderlayRefused = "underlay_refused",
    /// The pods' side took no more packets.
    TunFull = "tun_full",
    /// The TUN device refused the packet: it is down or gone.
    TunRefused = "tun_refused",
}

/// The first place of each row in [`DropReason::ALL`].
const FIRST: [usize; PLACES.len()] = {
    let mut first = [0; PLACES.len()];
    let mut row = 1;
    while row < first.len() {
        first[row] = first[row - 1] + PLACES[row - 1];
        row += 1;
    }
    first
};

impl DropReason {
    /// How many reasons there are.
    pub const COUNT: usize = FIRST[FIRST.len() - 1] + PLACES[PLACES.len() - 1];
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
