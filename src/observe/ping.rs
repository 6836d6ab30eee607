//! What `culvert ping` asks the daemon, and what it is told.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// One question by each of some paths.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PingQuestion {
    /// Name of the peer.
    pub node: String,
    /// By which paths, a bit for each.
    pub paths: u16,
    /// How long the underlay packets are to be; as short as can be if not set.
    pub packet_len: Option<u16>,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PingRound {
    /// Name of the peer.
    pub node: String,
    /// Its underlay address.
    pub address: Option<IpAddr>,
    /// In what form it was asked: `stamp` or `echo`.
    pub by: String,
    /// Its version, if it says so.
    pub version: Option<String>,
    /// The hash of its table, if it says so.
    pub table: Option<String>,
    /// Each path that was asked.
    pub paths: Vec<PingPath>,
}

/// One question.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PingPath {
    /// The path, counted from 1.
    pub path: u8,
    /// The UDP source port.
    pub port: u16,
    /// How long the answer took, in microseconds; none if there was none.
    pub rtt_us: Option<u64>,
    /// Why nothing was sent, if nothing was.
    pub unsent: Option<String>,
}
