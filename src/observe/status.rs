//! The daemon's state at one moment, as programs read it.

mod text;

use std::collections::BTreeMap;
use std::net::IpAddr;

use culvert_dataplane::engine::{DropReason, Traffic};
use culvert_dataplane::platform::tun::Offload;
use ipnet::IpNet;
use overlay_proto::CodecKind;
use serde::{Deserialize, Serialize};

use crate::lifecycle::Missing;
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
    /// What the kernel granted on the TUN device.
    pub offload: Offload,
    /// Worker threads.
    pub workers: usize,
    /// Every other node.
    pub peers: Vec<PeerStatus>,
    /// Dropped packets by reason; reasons that never occurred are listed too.
    pub drops: BTreeMap<DropReason, u64>,
    /// Datagrams of peers that the kernel dropped because the daemon did not fetch them in time;
    /// none where the kernel does not tell.
    #[serde(default)]
    pub receive_drops: Option<u64>,
    /// ICMP errors sent to pods.
    pub icmp_replies: u64,
    /// Times that an offload was refused and given up.
    pub offload_refusals: u64,
    /// Times that something of this node's set-up was found missing and put back.
    pub repairs: u64,
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
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedStatus {
    /// The mode: off, prefer or require; nothing before the start has come so far.
    pub mode: String,
    /// By what peers are to know this node, the key in use first.
    pub public_keys: Vec<String>,
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
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handshakes {
    /// Those that came to a session, by this node's role and the session's suite, as two words.
    pub made: BTreeMap<String, u64>,
    /// Times that they began to fail with a peer, for another reason than before.
    pub failed: u64,
    /// Datagrams that were no peer's, or more than are looked at.
    pub refused: u64,
    /// Sessions that ended without a successor.
    pub sessions_ended: u64,
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
    /// The codec that it and this node speak.
    #[serde(with = "word")]
    pub codec: CodecKind,
    /// UDP port of the tunnel with it.
    pub port: u16,
    /// What its packets are sealed with; nothing while they are plain or wait for a session.
    #[serde(default)]
    pub sealed: Option<String>,
    /// Whether its packets may be plain.
    #[serde(default)]
    pub plain: bool,
    /// Longest inner packet toward it, in bytes.
    pub mtu: u16,
    /// Sent to it.
    pub egress: Traffic,
    /// Accepted from it.
    pub ingress: Traffic,
    /// Seconds since a packet was accepted from it; `None` if never.
    pub last_heard_seconds: Option<f64>,
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
