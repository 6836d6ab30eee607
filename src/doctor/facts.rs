//! What checks go by: gathered once, plain values.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use culvert_netlink::Neighbour;
use culvert_nft::Rules;
use overlay_proto::Mac;

use super::sockets::UdpSocket;
use crate::app::Examination;
use crate::ipam::Check;
use crate::observe::{PeerStatus, PeerTable, Setup, Status};
use crate::platform::arp::Claim;
use crate::platform::listener::Listener;

/// An answer, or why there is none.
pub(super) type Answer<T> = Result<T, String>;

/// Everything that was looked at.
#[derive(Debug)]
pub(super) struct Facts {
    /// What the daemon says, or why it says nothing.
    pub(super) daemon: Answer<Status>,
    /// What the system said when it was asked, if that is why.
    pub(super) unanswered: Option<io::ErrorKind>,
    /// Who listens at the daemon's socket, if anybody does.
    pub(super) listener: Option<Listener>,
    /// How the node is to be, by the daemon or by its configuration.
    pub(super) expected: Answer<Expected>,
    pub(super) kernel: Answer<Examination>,
    pub(super) firewall: Answer<Firewall>,
    /// The node's UDP sockets, at two moments.
    pub(super) sockets: Answer<[Vec<UdpSocket>; 2]>,
    /// How often any of them had no room, at the same moments; none where the kernel does not tell.
    pub(super) overflows: Option<[u64; 2]>,
    /// Packets that the kernel could not queue for the daemon, at two moments.
    pub(super) tun_drops: Option<[u64; 2]>,
    /// Connections that are tracked, and how many may be; none where nothing is tracked.
    pub(super) tracked: Answer<Option<[u64; 2]>>,
    /// Parameters by name, those that checks ask for and that there are.
    pub(super) parameters: Answer<Vec<(String, String)>>,
    pub(super) clock: Clock,
    /// Who else on the underlay's link says that he has this node's address, and who that he has a
    /// peer's.
    pub(super) holders: Answer<Vec<Claim>>,
    /// Who says that he has an IPv4 address of this node's pods.
    pub(super) pod_holders: Answer<Vec<Claim>>,
    pub(super) ipam: Answer<Check>,
    /// What peers answered; none where nobody asked them.
    pub(super) peers: Option<Answer<Vec<Asked>>>,
    /// Which tables they have; none where nobody asked them.
    pub(super) tables: Option<Answer<Vec<PeerTable>>>,
    /// What pods of this node answered.
    pub(super) pods: Answer<Vec<AskedPod>>,
    /// What the kernel knows of neighbours on the underlay's device, after everybody was asked.
    pub(super) neighbours: Answer<Neighbours>,
}

/// The neighbours behind a device.
#[derive(Clone, Debug, Default)]
pub(super) struct Neighbours {
    pub(super) device: String,
    pub(super) known: Vec<Neighbour>,
}

/// An address of a pod that was asked.
#[derive(Clone, Debug)]
pub(super) struct AskedPod {
    /// Whose pod it is, for people.
    pub(super) name: String,
    pub(super) address: IpAddr,
    /// The bridge's address in its subnet.
    pub(super) gateway: IpAddr,
    /// The port's device, and its index.
    pub(super) port: String,
    pub(super) link: u32,
    /// Whether the pod's end of the cable is up.
    pub(super) is_plugged: bool,
    /// Whether it answered the bridge's address.
    pub(super) near: bool,
    /// Whether it answered an address outside of its subnet; none if this node has none.
    pub(super) far: Option<bool>,
    /// Why it could not be asked, if this machine is what is in the way.
    pub(super) unasked: Option<String>,
    /// The hardware address that it was given.
    pub(super) mac: Mac,
    /// What the kernel knows of it.
    pub(super) neighbour: Option<Neighbour>,
    /// The command before another that runs it where the pod is; known of those only with which
    /// something is wrong.
    pub(super) way_in: Option<String>,
}

/// How the node is to be.
#[derive(Clone, Debug)]
pub(super) struct Expected {
    pub(super) setup: Setup,
    pub(super) peers: Vec<PeerStatus>,
    /// Hash of the table.
    pub(super) table: String,
    /// Whether the daemon says so, and not a file.
    pub(super) is_in_force: bool,
}

/// The rules of other programs.
#[derive(Debug, Default)]
pub(super) struct Firewall {
    pub(super) rules: Rules,
    /// Tables of iptables-legacy, which are not followed.
    pub(super) legacy: Vec<String>,
    /// Why it is not known which there are, if it is not.
    pub(super) unread: Vec<String>,
}

/// What is known of this machine's time.
#[derive(Clone, Debug)]
pub(super) struct Clock {
    /// Whether somebody keeps it right.
    pub(super) is_synchronised: Answer<bool>,
    /// A file of the node that was written later than now, and how much.
    pub(super) future: Option<(PathBuf, Duration)>,
}

/// A peer that was asked.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) name: String,
    /// Where its tunnel ends.
    pub(super) address: IpAddr,
    pub(super) port: u16,
    /// Whether every path was asked.
    pub(super) all_paths: bool,
    /// What was asked through the tunnel.
    pub(super) questions: Vec<Question>,
    /// Why it could not be asked, if this program is what is in the way.
    pub(super) unasked: Option<String>,
    /// Whether its kernel says that nobody has the port; asked only where nothing was answered.
    pub(super) is_refused: bool,
    /// Whether packets came from it while it was asked.
    pub(super) is_heard: bool,
    /// A small packet and one of the full size, and whether they were answered.
    pub(super) sizes: Option<Sizes>,
}

/// One question through the tunnel.
#[derive(Clone, Debug)]
pub(super) struct Question {
    /// Which of our paths it takes, from 0.
    pub(super) ours: usize,
    /// Which of the peer's the answer takes.
    pub(super) theirs: usize,
    /// How long it took; none while there is no answer.
    pub(super) answered: Option<Duration>,
    /// What came instead of an answer.
    pub(super) error: Option<String>,
}

/// Whether packets of two sizes were answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sizes {
    pub(super) full: u16,
    pub(super) small_answered: bool,
    pub(super) full_answered: bool,
}

impl Sizes {
    /// Whether full packets vanish where small ones arrive.
    pub(super) fn is_black_hole(self) -> bool {
        self.small_answered && !self.full_answered
    }
}

/// After so long the kernel has repeated a question.
const REPEATED: Duration = Duration::from_millis(900);

impl Question {
    /// Whether it, or its answer, was lost at least once.
    pub(super) fn is_lost(&self) -> bool {
        self.answered.is_none_or(|time| time >= REPEATED)
    }
}

impl Facts {
    /// The hardware addresses at which `address` is said to be on the underlay's link.
    pub(super) fn holders_of(&self, address: IpAddr) -> Vec<Mac> {
        let claims = self.holders.as_deref().unwrap_or_default();
        claims.iter().filter(|claim| claim.address == address).map(|claim| claim.mac).collect()
    }

    /// A hardware address with whose it is, as far as that is known here otherwise than by
    /// `address`: a peer's or a pod's of this node.
    pub(super) fn named(&self, mac: Mac, address: IpAddr) -> String {
        let peers = self.expected.as_ref().map_or(&[][..], |expected| &expected.peers);
        let known = self.neighbours.as_ref().map_or(&[][..], |neighbours| &neighbours.known);
        let by_neighbours = known.iter().filter(|it| it.mac == Some(mac)).map(|it| it.address);
        let claims = self.holders.as_deref().unwrap_or_default();
        let by_claims =
            claims.iter().filter(|claim| claim.mac == mac).map(|claim| claim.address.into());
        let node = by_neighbours.chain(by_claims).filter(|it| *it != address).find_map(|address| {
            peers.iter().find(|peer| peer.address == address).map(|peer| peer.name.clone())
        });
        let pods = self.pods.as_deref().unwrap_or_default();
        let pod = || pods.iter().find(|pod| pod.mac == mac).map(|pod| pod.name.clone());
        match node.or_else(pod) {
            Some(name) => format!("{mac} ({name})"),
            None => mac.to_string(),
        }
    }

    /// Whether the daemon runs and keeps the node as it should be.
    pub(super) fn is_kept(&self) -> bool {
        self.daemon.as_ref().is_ok_and(|status| status.ready)
    }

    /// What shows what the daemon is busy with, where it does not fetch what waits for it.
    pub(super) fn busy(&self) -> String {
        match self.listener {
            Some(Listener { pid, state: Some('T') }) => {
                format!("the daemon is stopped: kill -CONT {pid}")
            }
            Some(Listener { pid, .. }) => {
                format!("the daemon has too little CPU: top -H -p {pid}; see its log")
            }
            None => {
                "the daemon is stopped or has too little CPU: ps, top -H; see its log".to_owned()
            }
        }
    }

    /// The value of a parameter, written with slashes.
    pub(super) fn parameter(&self, key: &str) -> Option<&str> {
        let known = self.parameters.as_deref().unwrap_or_default();
        let found = known.iter().find(|(name, _)| name == key);
        found.map(|(_, value)| value.as_str())
    }
}

#[cfg(test)]
pub(super) mod fixture {
    use super::*;

    /// A node with two peers on which nothing is wrong.
    pub(in crate::doctor) fn healthy() -> Facts {
        let setup = Setup {
            tun: "culvert0".to_owned(),
            bridge: "v-net-0".to_owned(),
            cluster_networks: vec!["10.244.0.0/16".parse().unwrap()],
            local_subnets: vec!["10.244.1.0/24".parse().unwrap()],
            mtu: 1464,
            address: "192.168.1.11".parse().ok(),
            underlay_ports: vec![4790],
            codec_ports: vec![4790],
            source_ports: (40_000..40_016).collect(),
            ..Setup::default()
        };
        let peers: Vec<PeerStatus> = [2, 3].map(peer).into();
        let mut status = Status { ready: true, peers: peers.clone(), ..Status::default() };
        status.table.hash = "9f31c2aa".to_owned();
        let expected = Expected { setup, peers, table: "9f31c2aa".to_owned(), is_in_force: true };
        let socket = UdpSocket {
            address: "192.168.1.11".parse().unwrap(),
            port: 4790,
            queued: 0,
            dropped: 0,
        };
        Facts {
            daemon: Ok(status),
            listener: None,
            unanswered: None,
            expected: Ok(expected),
            kernel: Ok(Examination {
                carrying: true,
                pods: 2,
                addresses: vec![culvert_netlink::Address {
                    link: 2,
                    net: "192.168.1.11/24".parse().unwrap(),
                    protocol: None,
                    detection: culvert_netlink::Detection::Passed,
                    has_route: true,
                }],
                ways: vec![vec!["eth0".to_owned()]; 2],
                ..Examination::default()
            }),
            firewall: Ok(Firewall::default()),
            sockets: Ok([vec![socket.clone()], vec![socket]]),
            overflows: Some([0, 0]),
            tun_drops: Some([0, 0]),
            tracked: Ok(Some([10, 65_536])),
            parameters: Ok(Vec::new()),
            clock: Clock { is_synchronised: Ok(true), future: None },
            holders: Ok(Vec::new()),
            pod_holders: Ok(Vec::new()),
            ipam: Ok(Check { addresses: 2, not_compared: None, findings: Vec::new() }),
            peers: Some(Ok([2, 3].map(asked).into())),
            tables: Some(Ok([2, 3].map(table_of).into())),
            pods: Ok([2, 3].map(pod).into()),
            neighbours: Ok(Neighbours { device: "eth0".to_owned(), known: Vec::new() }),
        }
    }

    fn table_of(number: u8) -> PeerTable {
        let node = format!("node{number}");
        let table = Some("9f31c2aa".to_owned());
        PeerTable {
            node,
            table,
            is_ready: Some(true),
            clock_ahead: Some(0.0),
            failing: Some(Vec::new()),
            unasked: None,
        }
    }

    fn pod(number: u8) -> AskedPod {
        AskedPod {
            name: format!("pod{number}"),
            address: IpAddr::from([10, 244, 1, number]),
            gateway: IpAddr::from([10, 244, 1, 1]),
            port: format!("culv{number}"),
            link: number.into(),
            is_plugged: true,
            near: true,
            far: Some(true),
            unasked: None,
            mac: Mac::new([2, 0, 0, 0, 0, number]),
            neighbour: None,
            way_in: None,
        }
    }

    fn peer(number: u8) -> PeerStatus {
        PeerStatus {
            name: format!("node{number}"),
            address: IpAddr::from([192, 168, 1, 10 + number]),
            subnets: vec![format!("10.244.{number}.0/24").parse().unwrap()],
            codec: crate::observe::Spoken::Plain(overlay_proto::CodecKind::VxlanGpe),
            port: 4790,
            sealed: None,
            session: None,
            session_error: None,
            plain: true,
            mtu: 1464,
            egress: Default::default(),
            ingress: Default::default(),
            last_heard_seconds: Some(1.0),
            path: Default::default(),
        }
    }

    /// A peer that answers by all paths, each by two ways back.
    fn asked(number: u8) -> Asked {
        let answered = Some(Duration::from_millis(1));
        let question = |ours, theirs| Question { ours, theirs, answered, error: None };
        let questions =
            (0..16).flat_map(|ours| [question(ours, ours), question(ours, (ours + 5) % 16)]);
        Asked {
            name: format!("node{number}"),
            address: IpAddr::from([192, 168, 1, 10 + number]),
            port: 4790,
            all_paths: true,
            questions: questions.collect(),
            unasked: None,
            is_refused: false,
            is_heard: true,
            sizes: Some(Sizes { full: 1464, small_answered: true, full_answered: true }),
        }
    }
}
