//! The daemon's state at one moment, as programs read it.

mod paths;
mod text;
mod verdict;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use culvert_dataplane::engine::{DropReason, Traffic};
use culvert_dataplane::platform::tun::Offload;
use ipnet::IpNet;
use overlay_proto::CodecKind;
use serde::{Deserialize, Serialize};

use super::policy::PolicyStatus;
use crate::lifecycle::Missing;
pub use paths::{LostPath, PathStatus, ProbeStatus, Told};
use text::duration;
pub(crate) use text::{Selection, Sort};

/// The form of the JSON: grows when a program that reads it would have to change.
pub const SCHEMA: u32 = 1;

/// Everything `culvert status` shows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// [`SCHEMA`] of the daemon.
    pub schema: u32,
    /// Version of the daemon.
    pub version: String,
    /// This node's name.
    pub node: String,
    /// Whether packets flow.
    pub ready: bool,
    /// What is missing, if not.
    pub missing: Vec<Missing>,
    /// Seconds since the daemon's start.
    pub uptime_seconds: f64,
    /// MTU of the overlay, in bytes.
    pub mtu: u16,
    /// Virtual network identifier.
    pub vni: u32,
    /// This node's pod subnets.
    pub subnets: Vec<IpNet>,
    /// The sockets.
    pub underlay: UnderlayStatus,
    /// Where the subnet table stands.
    pub table: TableStatus,
    /// Addresses of pods that are in none of this node's subnets, and what to do.
    #[serde(default)]
    pub stranded: Vec<String>,
    /// What works less well on this machine than it could, and what to do.
    #[serde(default)]
    pub hints: Vec<String>,
    /// How it stands with this node's keys.
    #[serde(default)]
    pub sealed: SealedStatus,
    /// How it stands with network policies.
    #[serde(default)]
    pub policy: PolicyStatus,
    /// What the kernel granted on the TUN device.
    pub offload: Offload,
    /// Worker threads.
    pub workers: usize,
    /// Every other node.
    pub peers: Vec<PeerStatus>,
    /// What was counted of questions to peers.
    #[serde(default)]
    pub probes: ProbeStatus,
    /// Dropped packets by reason; reasons that never occurred are listed too.
    pub drops: BTreeMap<DropReason, u64>,
    /// The newest of them, by reasons that occurred.
    #[serde(default)]
    pub last_drops: BTreeMap<DropReason, LastDrop>,
    /// Datagrams of peers that the kernel dropped because the daemon did not fetch them in time;
    /// none where the kernel does not tell.
    #[serde(default)]
    pub receive_drops: Option<u64>,
    /// Datagrams that the kernel dropped at the daemon's sockets because their checksum was wrong;
    /// none where the kernel does not tell.
    #[serde(default)]
    pub receive_damaged: Option<u64>,
    /// Packets of pods that the kernel dropped because the daemon did not fetch them in time, as
    /// the TUN device counts them; up to ten seconds old, and none where the kernel does not tell.
    #[serde(default)]
    pub tun_drops: Option<u64>,
    /// How many addresses of this node's subnets are given to pods.
    #[serde(default)]
    pub addresses: Vec<AddressUse>,
    /// What the daemon takes of the machine.
    #[serde(default)]
    pub process: ProcessStatus,
    /// ICMP errors sent to pods.
    pub icmp_replies: u64,
    /// Packets of pods that were longer than the path to their peer carries, and left in fragments.
    #[serde(default)]
    pub fragmented_packets: u64,
    /// The fragments that these became.
    #[serde(default)]
    pub fragments: u64,
    /// Times that an offload was refused and given up.
    pub offload_refusals: u64,
    /// Times that something of this node's set-up was found missing and put back.
    pub repairs: u64,
}

/// The newest of the packets that were dropped for a reason.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LastDrop {
    /// Seconds since then.
    pub seconds_ago: f64,
    /// How many were dropped in about the last minute.
    pub last_minute: u64,
    /// Whom it was from: a machine of the underlay if it came from the wire, else a pod; none where
    /// that is not known.
    pub from: Option<IpAddr>,
    /// Whom those of the last minute were from, the newest first: eight at most.
    #[serde(default)]
    pub senders: Vec<IpAddr>,
}

/// How many addresses of a subnet are given to pods.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AddressUse {
    /// The subnet.
    pub subnet: IpNet,
    /// Addresses that the store holds; up to a minute old.
    pub used: u64,
    /// Those that pods may get besides. As a decimal number, since a subnet of IPv6 has more than
    /// an integer of most programs.
    pub free: f64,
}

/// What the daemon takes of the machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ProcessStatus {
    /// Seconds of CPU time, its own and the kernel's for it.
    pub cpu_seconds: f64,
    /// Bytes of memory in use.
    pub resident_bytes: u64,
    /// Bytes of address space.
    pub virtual_bytes: u64,
    /// Open files, sockets and devices.
    pub open_files: u64,
    /// How many of them it may have; nothing if there is no limit.
    pub open_files_limit: Option<u64>,
    /// Threads.
    pub threads: u64,
    /// When it was started, in seconds since 1970.
    pub started: f64,
}

/// Where the underlay sockets are bound.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnderlayStatus {
    /// This node's underlay address; none before the table is known.
    pub address: Option<IpAddr>,
    /// UDP port of this node's own codec, or of what is sealed where nothing plain is taken; 0
    /// before the table is known.
    pub port: u16,
    /// UDP port of what is sealed, on a node that seals.
    #[serde(default)]
    pub sealed_port: Option<u16>,
    /// Everything that it listens for, its own codec first; nothing before the table is known.
    pub tunnels: Vec<TunnelStatus>,
    /// Its Ethernet address in tunnels that have frames; none before the table is known.
    pub mac: Option<String>,
}

/// One port that is listened on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelStatus {
    /// The codec that is spoken there.
    #[serde(with = "word")]
    pub codec: CodecKind,
    /// The UDP port.
    pub port: u16,
}

/// How it stands with this node's keys.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SealedStatus {
    /// The mode: off, prefer or require; nothing before the start has come so far.
    pub mode: String,
    /// By what peers are to know this node, the one first that handshakes begin with: of those that
    /// the table has.
    pub public_keys: Vec<String>,
    /// For how many seconds handshakes have begun with it.
    #[serde(default)]
    pub in_use_seconds: Option<f64>,
    /// Why the keys on disk are not used, or the table has others, and what to do.
    pub error: Option<String>,
    /// Peers with which there is no session, and why.
    #[serde(default)]
    pub failing: Vec<String>,
    /// The file that the keys of sessions are written to, if they are.
    #[serde(default)]
    pub key_log: Option<String>,
    /// What was counted of handshakes.
    #[serde(default)]
    pub handshakes: Handshakes,
}

/// What was counted of handshakes since the start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Handshakes {
    /// Those that came to a session, by this node's role and the session's suite, as two words.
    pub made: BTreeMap<String, u64>,
    /// Times that they began to fail with a peer for another reason than before, by this node's
    /// role and the reason, as two words.
    pub failed: BTreeMap<String, u64>,
    /// Datagrams that were no peer's, or more than are looked at.
    pub refused: u64,
    /// Sessions that ended without a successor.
    pub sessions_ended: u64,
    /// How long those took that came to a session, by this node's role.
    #[serde(default)]
    pub seconds: BTreeMap<String, Times>,
}

/// How long something took.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Times {
    /// Bounds in seconds, and how many took no longer than theirs and longer than the one before.
    pub buckets: Vec<(f64, u64)>,
    /// How many took longer than the last bound.
    pub longer: u64,
    /// What they took together, in seconds.
    pub sum: f64,
}

/// What is spoken with a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoken {
    /// A codec, in plain.
    Plain(CodecKind),
    /// ESP in UDP.
    Esp,
}

impl Spoken {
    const ESP: &str = "esp";
}

impl fmt::Display for Spoken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(codec) => codec.fmt(f),
            Self::Esp => f.pad(Self::ESP),
        }
    }
}

impl FromStr for Spoken {
    type Err = <CodecKind as FromStr>::Err;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == Self::ESP { Ok(Self::Esp) } else { text.parse().map(Self::Plain) }
    }
}

/// A session with a peer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SessionStatus {
    /// What it seals with.
    pub suite: String,
    /// Whether its handshake withstands who can break X25519.
    pub post_quantum: bool,
    /// This node's role in the handshake.
    pub role: String,
    /// Seconds since it was made.
    pub age_seconds: f64,
    /// Seconds until it is renewed, if there is traffic; 0 when that is due.
    pub renewal_in_seconds: f64,
    /// Whether it was made with a key that this node does not begin with any more.
    #[serde(default)]
    pub with_former_key: bool,
}

/// Where the subnet table stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TableStatus {
    /// The source.
    pub source: String,
    /// Whether the source is being followed, so that the table is as it has it.
    pub current: bool,
    /// Seconds since the table was last known to be current; 0 while it is.
    pub age_seconds: f64,
    /// Why the source cannot be followed, if it cannot.
    pub source_error: Option<String>,
    /// Eight digits that two nodes with the same entries have in common; empty before the first
    /// table.
    #[serde(default)]
    pub hash: String,
    /// How many tables have been taken since the start.
    pub generation: u64,
    /// Nodes in the table, this one included.
    pub nodes: usize,
    /// Why the newest version of the table was refused, if it was.
    pub error: Option<String>,
    /// Entries of the source that were left out, and why.
    pub left_out: Vec<String>,
    /// What is wrong with this node's own entry, if anything.
    pub contested: Option<String>,
}

/// One peer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// The node's name.
    pub name: String,
    /// Its underlay address.
    pub address: IpAddr,
    /// Its pod subnets.
    pub subnets: Vec<IpNet>,
    /// What it and this node speak now: a codec, or `esp` where packets are sealed or wait for a
    /// session.
    #[serde(with = "word")]
    pub codec: Spoken,
    /// UDP port of the tunnel with it.
    pub port: u16,
    /// What its packets are sealed with; nothing while they are plain or wait for a session.
    #[serde(default)]
    pub sealed: Option<String>,
    /// Whether its packets may be plain.
    #[serde(default)]
    pub plain: bool,
    /// The session with it, if there is one.
    #[serde(default)]
    pub session: Option<SessionStatus>,
    /// Why the last handshake with it failed, if none has come to a session since.
    #[serde(default)]
    pub session_error: Option<String>,
    /// Longest inner packet toward it, in bytes.
    pub mtu: u16,
    /// Sent to it.
    pub egress: Traffic,
    /// Accepted from it.
    pub ingress: Traffic,
    /// Seconds since a packet was accepted from it; `None` if never.
    pub last_heard_seconds: Option<f64>,
    /// What is known of the paths to it.
    #[serde(default)]
    pub path: PathStatus,
}

impl TableStatus {
    /// What an operator should know of the table, one thing a line.
    pub(crate) fn remarks(&self) -> Vec<String> {
        let lost = (!self.current).then(|| {
            let reason = self.source_error.as_deref().unwrap_or("not reached yet");
            format!("as of {} ago, the source is away: {reason}", duration(self.age_seconds))
        });
        let refused = self.error.as_ref().map(|error| format!("newest refused: {error}"));
        let contested = self.contested.as_ref().map(|why| format!("this node: {why}"));
        let left_out =
            self.left_out.iter().take(LEFT_OUT_SHOWN).map(|why| format!("left out: {why}"));
        let more = self.left_out.len().checked_sub(LEFT_OUT_SHOWN).filter(|more| *more > 0);
        let more = more.map(|more| format!("left out: {more} more (`culvert status --json`)"));
        lost.into_iter().chain(refused).chain(contested).chain(left_out).chain(more).collect()
    }
}

/// Entries that were left out and are listed for people.
const LEFT_OUT_SHOWN: usize = 8;

/// A closed set as its words.
mod word {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<T: Display, S: Serializer>(of: &T, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(of)
    }

    pub(super) fn deserialize<'de, T, D>(from: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}
