//! `drops`: what the daemon has dropped lately, with the likely cause.
//!
//! Of each reason the daemon knows when it last counted, and so what is over is told from what goes
//! on. Reasons without harm are left out.

use std::net::IpAddr;

use culvert_dataplane::engine::{DropReason, SENDERS_KEPT};
use culvert_node::words::counted;
use overlay_proto::DecodeError;

use crate::doctor::facts::Facts;
use crate::doctor::finding::Finding;
use crate::observe::LastDrop;

/// What was dropped within so many seconds is going on: with traffic, peers are asked every ten.
const NOW: f64 = 15.0;

/// Senders that are named.
const NAMED: usize = 4;

/// What was dropped within so many seconds is said.
const LATELY: f64 = 60.0;

pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let Ok(status) = &facts.daemon else {
        return vec![Finding::skip("the daemon knows it, and does not answer")];
    };
    let mut drops: Vec<Drop<'_>> = status
        .last_drops
        .iter()
        .filter_map(|(reason, last)| {
            let from = Sender::of(facts, last.from);
            let spread = Spread::of(facts, last);
            let mut cause = cause(facts, *reason, &from, &spread)?;
            cause.is_of_all = is_of_all(*reason);
            let senders = last.senders.iter().filter(|sender| Some(**sender) != last.from);
            let others = senders.map(|sender| Sender::of(facts, Some(*sender))).collect();
            let over = Over::of(facts, last, &from, &cause);
            Some(Drop { reason: *reason, last, from, others, cause, spread, over })
        })
        .collect();
    drops.sort_by(|one, other| one.last.seconds_ago.total_cmp(&other.last.seconds_ago));
    let mut findings: Vec<Finding> =
        drops.iter().take_while(|drop| drop.last.seconds_ago <= LATELY).map(finding).collect();
    if findings.is_empty() {
        findings.push(Finding::ok(match drops.first() {
            None => "nothing that should have arrived".to_owned(),
            Some(Drop { reason, last, .. }) => format!(
                "nothing in the last minute; the newest before, {}, {} ago",
                reason.as_str(),
                age(last.seconds_ago)
            ),
        }));
    }
    super::some(findings)
}

/// What was dropped for one reason.
struct Drop<'a> {
    reason: DropReason,
    last: &'a LastDrop,
    /// Whom the newest was from.
    from: Sender,
    /// Whom others of the last minute were from.
    others: Vec<Sender>,
    cause: Cause,
    spread: Spread,
    over: Option<Over>,
}

/// Why what was dropped is not said to go on.
enum Over {
    /// The one who sent it was heard since, so many seconds ago.
    Heard(f64),
    /// There was none for a while.
    Silent,
}

impl Over {
    fn of(facts: &Facts, last: &LastDrop, from: &Sender, cause: &Cause) -> Option<Self> {
        let heard = match from {
            Sender::Peer(name, _) if cause.is_of_all && last.senders.len() < 2 => {
                let status = facts.daemon.as_ref().ok()?;
                let peer = status.peers.iter().find(|peer| peer.name == *name);
                peer.and_then(|peer| peer.last_heard_seconds)
            }
            Sender::Peer(..)
            | Sender::OfPeer(..)
            | Sender::Pod(..)
            | Sender::Other(_)
            | Sender::Unknown => None,
        };
        match heard.filter(|heard| *heard < last.seconds_ago) {
            Some(heard) => Some(Self::Heard(heard)),
            None => (last.seconds_ago > NOW).then_some(Self::Silent),
        }
    }
}

fn finding(drop: &Drop<'_>) -> Finding {
    let Drop { reason, last, from, others, cause, spread, over } = drop;
    let now = match over {
        Some(Over::Heard(ago)) => {
            format!("; what it sent was taken since, {} ago, so it may be over", age(*ago))
        }
        Some(Over::Silent) => "; none since, so it may be over".to_owned(),
        None => String::new(),
    };
    let found = format!(
        "{}: {} in the last minute, the last {} ago{now}{}{}: {}",
        reason.as_str(),
        counted(last.last_minute, "packet"),
        age(last.seconds_ago),
        from.text(others),
        spread.text(),
        cause.what
    );
    let finding = if cause.is_certain && over.is_none() {
        Finding::fail(found, &cause.remedy)
    } else {
        Finding::warn(found, &cause.remedy)
    };
    match from {
        Sender::Peer(name, _) if spread.peers < 2 => finding.about(name),
        Sender::Peer(..)
        | Sender::OfPeer(..)
        | Sender::Pod(..)
        | Sender::Other(_)
        | Sender::Unknown => finding,
    }
}

/// Whether such a reason is common to everything that a peer sends.
fn is_of_all(reason: DropReason) -> bool {
    matches!(
        reason,
        DropReason::WrongCodec
            | DropReason::Header(
                DecodeError::Vni
                    | DecodeError::Version
                    | DecodeError::Flags
                    | DecodeError::Reserved
                    | DecodeError::NextProtocol
            )
    )
}

/// How many peers sent what was dropped in the last minute.
#[derive(Default)]
struct Spread {
    peers: usize,
    /// Others that did: pods, or strangers.
    others: usize,
    /// Whether there may be more: so many are remembered.
    is_least: bool,
    all: usize,
}

impl Spread {
    fn of(facts: &Facts, last: &LastDrop) -> Self {
        let peers = facts.expected.as_ref().map_or(&[][..], |expected| &expected.peers);
        let is_peer = |sender: &&IpAddr| peers.iter().any(|peer| peer.address == **sender);
        let found = last.senders.iter().filter(is_peer).count();
        Self {
            peers: found,
            others: last.senders.len() - found,
            is_least: last.senders.len() >= SENDERS_KEPT,
            all: peers.len(),
        }
    }

    /// Whether all peers, and not one of several, send what is dropped: as many as can be told.
    const fn is_of_all(&self) -> bool {
        self.all > 1 && (self.peers == self.all || self.is_least && self.peers == SENDERS_KEPT)
    }

    /// Behind the newest sender.
    fn text(&self) -> String {
        let Self { peers, all, .. } = self;
        match (peers, all) {
            (_, 0 | 1) | (0, _) => String::new(),
            _ if self.is_least && peers < all => format!(" ({peers} or more of {all} peers)"),
            _ => format!(" ({peers} of {all} peers)"),
        }
    }
}

fn age(seconds: f64) -> String {
    match seconds {
        s if s < 90.0 => format!("{s:.0} s"),
        s if s < 5400.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.0} h", s / 3600.0),
    }
}

/// Whom the newest packet was from.
enum Sender {
    /// A peer, by its underlay address.
    Peer(String, IpAddr),
    /// An address that the table gives to pods of this peer.
    OfPeer(String, IpAddr),
    /// A pod of this node.
    Pod(String, IpAddr),
    Other(IpAddr),
    Unknown,
}

impl Sender {
    fn of(facts: &Facts, from: Option<IpAddr>) -> Self {
        let Some(address) = from else { return Self::Unknown };
        let peers = facts.expected.as_ref().map_or(&[][..], |expected| &expected.peers);
        if let Some(peer) = peers.iter().find(|peer| peer.address == address) {
            return Self::Peer(peer.name.clone(), address);
        }
        let has = |peer: &&crate::observe::PeerStatus| {
            peer.subnets.iter().any(|subnet| subnet.contains(&address))
        };
        if let Some(peer) = peers.iter().find(has) {
            return Self::OfPeer(peer.name.clone(), address);
        }
        let pods = facts.pods.as_deref().unwrap_or_default();
        match pods.iter().find(|pod| pod.address == address) {
            Some(pod) => Self::Pod(pod.name.clone(), address),
            None => Self::Other(address),
        }
    }

    /// As the end of "the last … ago", with whom others were from.
    fn text(&self, others: &[Self]) -> String {
        match (self, others) {
            (Self::Unknown, _) => String::new(),
            (Self::Peer(_, address), []) => format!(", from {address}"),
            (one, []) => format!(", from {}", one.name()),
            (one, others) => {
                let all = [one].into_iter().chain(others);
                let names: Vec<String> = all.take(NAMED).map(Self::name).collect();
                let more = match (others.len() + 1).saturating_sub(NAMED) {
                    0 => String::new(),
                    more => format!(" and {more} more"),
                };
                format!(", from {}{more}", names.join(", "))
            }
        }
    }

    /// The one sender among others.
    fn name(&self) -> String {
        match self {
            Self::Peer(name, address) => format!("{address} of {name}"),
            Self::OfPeer(_, address) | Self::Other(address) => address.to_string(),
            Self::Pod(name, address) => format!("{name} ({address})"),
            Self::Unknown => "nobody that is known".to_owned(),
        }
    }

    /// Where to look.
    fn place(&self) -> &str {
        match self {
            Self::Peer(name, _) => name,
            Self::OfPeer(..) | Self::Pod(..) | Self::Other(_) | Self::Unknown => {
                "the sender's node"
            }
        }
    }
}

/// Why packets are dropped.
struct Cause {
    /// Whether nothing else can be meant, and it keeps packets from where they should be.
    is_certain: bool,
    /// Whether all that the sender sends is dropped for it: who is heard again has it no more.
    is_of_all: bool,
    what: String,
    remedy: String,
}

impl Cause {
    fn certain(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { is_certain: true, is_of_all: false, what: what.into(), remedy: remedy.into() }
    }

    fn likely(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { is_certain: false, is_of_all: false, what: what.into(), remedy: remedy.into() }
    }
}

/// Why packets are dropped for it; none where that is no harm.
fn cause(facts: &Facts, reason: DropReason, from: &Sender, spread: &Spread) -> Option<Cause> {
    let there = from.place();
    // What one of many does is not what all others do.
    let odd = if spread.is_of_all() { "; this node is the odd one out" } else { "" };
    let ports = facts.expected.as_ref().map_or(&[][..], |expected| &expected.setup.underlay_ports);
    let ports = ports.iter().map(|port| format!("udp port {port}")).collect::<Vec<_>>();
    let watch = format!("see what it is: tcpdump -nX -i any {}", ports.join(" or "));
    let drops = |reason: DropReason| {
        format!("culvert flows --verdict drop --reason {} shows them", reason.as_str())
    };
    let compare = format!("compare the tables: culvert status here and on {there}");
    Some(match reason {
        // Each path's own work, what kernels send by themselves, and what a full network asks for.
        DropReason::TooBig | DropReason::Multicast | DropReason::Congestion => return None,
        DropReason::UnknownPeer => Cause::likely(
            "no node of this table has the address: another table there, a node that sends from another \
             address than its entry has, or a stranger",
            "compare the tables: culvert status here and there; a node with several addresses sends from \
             underlay.address of its configuration",
        ),
        DropReason::DatagramTruncated => {
            Cause::likely("longer than anything that a node sends: a stranger's", watch)
        }
        DropReason::WrongCodec => Cause::certain(
            format!("they come to the port of another codec than the sender's entry says{odd}"),
            "make codec and port of that entry the same in every table, and those that it listens on",
        ),
        DropReason::PlaintextRefused => Cause::certain(
            format!(
                "they are in plain, and that peer has keys or must have{odd}: it seals no more, or \
                 somebody sends under its address"
            ),
            format!("see sealed.mode and culvert keys show on {there}, and compare with its entry"),
        ),
        DropReason::UnknownSpi => Cause::likely(
            "sealed for a session that this node does not have: some are, after its restart",
            "nothing, if it ends; else keys below says with whom there is no session",
        ),
        DropReason::EspFormat => Cause::likely("no ESP as nodes send it: another IPsec's", watch),
        DropReason::Replayed => Cause::likely(
            "they came twice: the network duplicates, or somebody sends what was recorded",
            watch,
        ),
        DropReason::BadTag | DropReason::BadTrailer => Cause::likely(
            "changed on the way, or sealed by whoever has not the key",
            "look for a machine between that changes datagrams; run culvert doctor on both nodes",
        ),
        DropReason::Header(DecodeError::Vni) => {
            let own = facts.daemon.as_ref().map(|status| status.vni).unwrap_or_default();
            let where_ = if odd.is_empty() { "" } else { " here" };
            Cause::certain(
                format!(
                    "they are of another virtual network than {own}, this node's{odd}: network.vni \
                     differs between the two, or two clusters have each other's addresses"
                ),
                format!(
                    "compare VNI in culvert status here and on {there}; correct network.vni{where_} and \
                     restart the daemon"
                ),
            )
        }
        // Its own culvert doctor --peers, which got no answer, asked so whether anybody is here.
        DropReason::Header(DecodeError::TooShort)
            if matches!(from, Sender::Peer(..)) && spread.others == 0 =>
        {
            return None;
        }
        DropReason::Header(DecodeError::TooShort) => {
            Cause::likely("shorter than a header: something else sends to this port", watch)
        }
        DropReason::Header(DecodeError::EtherType | DecodeError::DestinationMac) => Cause::likely(
            "frames that are no IP packets for this node, of a peer that is not Culvert: it lacks entries \
             for our bridge, or has old ones",
            format!(
                "culvert status has this node's MAC address; ip neigh and bridge fdb on {there}"
            ),
        ),
        DropReason::Header(
            DecodeError::Version
            | DecodeError::Flags
            | DecodeError::Reserved
            | DecodeError::NextProtocol,
        ) => Cause::likely(
            "the header is none that Culvert sends: another program or codec on this port, or a newer \
             Culvert that asks whether this one knows it",
            watch,
        ),
        DropReason::Header(_) | DropReason::Inner(_) => {
            Cause::likely("no whole IP packets: damaged on the way, or made up", drops(reason))
        }
        DropReason::SpoofedSource => Cause::certain(
            format!(
                "what they carry is from an address that is none of {there}'s{odd}: a pod there has an \
                 address of another node, or the tables differ"
            ),
            format!("{}, with the address; {compare}", drops(reason)),
        ),
        DropReason::NotOurDestination => Cause::certain(
            if odd.is_empty() {
                format!("they are for pods that this node does not have: {there} has another table")
            } else {
                format!(
                    "they are for pods that this node does not have{odd}: its table is not theirs"
                )
            },
            compare,
        ),
        DropReason::ForeignSource => match from {
            Sender::OfPeer(owner, address) => Cause::certain(
                format!(
                    "a pod or program of this node has an address of {owner}'s subnet, and {address} may \
                     be in use there too"
                ),
                "find who has it (culvert ipam list; ip -br address), and give it an address of this node",
            ),
            Sender::Peer(..) | Sender::Pod(..) | Sender::Other(_) | Sender::Unknown => {
                Cause::likely(
                    "a program of this node sends to pods from an address that is in no subnet of it: \
                     nobody could answer",
                    "have it send from the node's address in the table, or find it: tcpdump -n -i culvert0",
                )
            }
        },
        DropReason::OwnSubnet => Cause::likely(
            "for this node's own pods, and the kernel has no route to them by the bridge",
            "devices and routes above say what is missing",
        ),
        DropReason::NoOwner => Cause::likely(
            "for addresses of the pod networks that no node of the table has",
            format!("{}, with the address; culvert status has the table", drops(reason)),
        ),
        DropReason::NoKey => Cause::certain(
            "everything must be sealed here, and the entry of the peer has no key",
            "give the peer's entry its key (culvert keys show there), or set sealed.mode = \"prefer\"",
        ),
        DropReason::NoSession => Cause::likely(
            "the peer does not answer handshakes: it is down, or has other keys",
            "keys below says which, and why",
        ),
        DropReason::VnetHeader => Cause::likely(
            "the kernel's header contradicts the packet: a fault of the kernel or of Culvert",
            "set tun.offload = false, restart the daemon, and report it",
        ),
        DropReason::UnderlayFull => Cause::likely(
            "the network card does not keep up, or a way that has become narrow takes none as long",
            "nothing for short bursts; else ip -s link, and more capacity",
        ),
        DropReason::UnderlayRefused => Cause::likely(
            "the kernel did not send the datagrams",
            "routes, output and peer say which peer; ip route show table all match ADDRESS with its address",
        ),
        DropReason::TunFull => {
            Cause::likely("the kernel had no memory for them", "look at the machine's memory: free")
        }
        DropReason::TunRefused => Cause::likely(
            "the TUN device was down or gone, or did not believe a packet",
            "devices above says whether it is back; else the daemon's log at level debug",
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::said;
    use super::*;
    use crate::doctor::facts::fixture::healthy;
    use crate::doctor::finding::Verdict;

    fn with(reason: DropReason, seconds_ago: f64, from: &str) -> Finding {
        let mut facts = healthy();
        let status = facts.daemon.as_mut().unwrap();
        status.vni = 7;
        status.peers.iter_mut().for_each(|peer| peer.last_heard_seconds = Some(3.0));
        let from: Option<IpAddr> = from.parse().ok();
        let senders = from.into_iter().collect();
        let last = LastDrop { seconds_ago, last_minute: 31, from, senders };
        status.last_drops = [(reason, last)].into();
        said("drops", &facts).remove(0)
    }

    #[test]
    fn who_differs_from_all_others_is_named_and_not_the_newest_of_them() {
        const VNI: DropReason = DropReason::Header(DecodeError::Vni);
        let with = |senders: &[&str]| {
            let senders: Vec<IpAddr> = senders.iter().map(|it| it.parse().unwrap()).collect();
            let mut facts = healthy();
            let from = senders.first().copied();
            let last = LastDrop { seconds_ago: 1.0, last_minute: 9, from, senders };
            facts.daemon.as_mut().unwrap().last_drops = [(VNI, last)].into();
            said("drops", &facts).remove(0)
        };
        let all = with(&["192.168.1.13", "192.168.1.12"]);
        assert_eq!((all.verdict, all.peer.as_deref()), (Verdict::Fail, None));
        let words = "from 192.168.1.13 of node3, 192.168.1.12 of node2 (2 of 2 peers): they are of another virtual network than 0, this \
                     node's; this node is the odd one out";
        assert!(all.found.contains(words), "{all:?}");
        assert!(all.remedy.unwrap().contains("correct network.vni here"));
        let one = with(&["192.168.1.12"]);
        assert_eq!(one.peer.as_deref(), Some("node2"));
        assert!(one.found.contains("(1 of 2 peers)") && !one.found.contains("odd"), "{one:?}");
    }

    #[test]
    fn what_a_peers_doctor_asks_so_is_no_warning_here() {
        const SHORT: DropReason = DropReason::Header(DecodeError::TooShort);
        assert_eq!(with(SHORT, 1.0, "192.168.1.12").verdict, Verdict::Ok);
        assert_eq!(with(SHORT, 1.0, "192.168.1.99").verdict, Verdict::Warn);
    }

    #[test]
    fn what_goes_on_fails_what_was_is_a_warning_and_what_is_long_over_is_good() {
        const VNI: DropReason = DropReason::Header(DecodeError::Vni);
        let now = with(VNI, 2.0, "192.168.1.12");
        assert_eq!((now.verdict, now.peer.as_deref()), (Verdict::Fail, Some("node2")));
        assert!(now.found.starts_with(
            "vni: 31 packets in the last minute, the last 2 s ago, from 192.168.1.12 (1 of 2 peers): \
             they are of another virtual network than 7"
        ), "{now:?}");
        assert!(now.remedy.unwrap().contains("network.vni"));
        let heard = with(VNI, 5.0, "192.168.1.12");
        assert_eq!(heard.verdict, Verdict::Warn, "it was heard since");
        assert!(
            heard.found.contains("the last 5 s ago; what it sent was taken since"),
            "{heard:?}"
        );
        let was = with(VNI, 40.0, "192.168.1.13");
        assert_eq!(was.verdict, Verdict::Warn);
        assert!(was.found.contains("the last 40 s ago; "), "{was:?}");
        let over = with(VNI, 7200.0, "192.168.1.12");
        assert_eq!(over.verdict, Verdict::Ok);
        assert_eq!(over.found, "nothing in the last minute; the newest before, vni, 2 h ago");
    }

    #[test]
    fn stranger_makes_nothing_fail_and_what_is_usual_is_not_said() {
        assert_eq!(with(DropReason::UnknownPeer, 1.0, "192.168.1.99").verdict, Verdict::Warn);
        for reason in [DropReason::Multicast, DropReason::TooBig, DropReason::Congestion] {
            assert_eq!(with(reason, 1.0, "").verdict, Verdict::Ok);
        }
    }

    #[test]
    fn sender_is_named_as_far_as_it_is_known() {
        let pod = with(DropReason::NoOwner, 1.0, "10.244.1.2");
        assert!(pod.found.contains("from pod2 (10.244.1.2)"), "{pod:?}");
        let taken = with(DropReason::ForeignSource, 1.0, "10.244.3.7");
        assert_eq!(taken.verdict, Verdict::Fail);
        assert!(taken.found.contains("an address of node3's subnet"), "{taken:?}");
        assert_eq!(with(DropReason::ForeignSource, 1.0, "10.9.9.9").verdict, Verdict::Warn);
    }

    #[test]
    fn every_reason_that_harms_has_cause_and_remedy() {
        let facts = healthy();
        let causes = DropReason::ALL
            .into_iter()
            .filter_map(|reason| cause(&facts, reason, &Sender::Unknown, &Spread::default()));
        let causes: Vec<Cause> = causes.collect();
        assert_eq!(causes.len(), DropReason::COUNT - 3);
        assert!(causes.iter().all(|it| it.what.len() > 10 && it.remedy.len() > 10));
    }
}
