//! Flows as programs read them: what the daemon streams, exports, and `culvert flows` prints.

use std::fmt;
use std::net::IpAddr;

use culvert_dataplane::engine::DropReason;
use serde::{Deserialize, Serialize};

/// The form of the JSON: grows when a program that reads it would have to change.
pub const FLOW_SCHEMA: u32 = 1;

/// How the stream of flows begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowStart {
    /// [`FLOW_SCHEMA`] of the daemon.
    pub schema: u32,
    /// So many packets of each worker are looked at in each second, before they are sampled.
    #[serde(default)]
    pub each: u32,
    /// One packet in so many is looked at of the others.
    pub sample: u32,
}

impl FlowStart {
    /// That nothing of what is looked for was seen in so many seconds.
    pub(crate) fn nothing(&self, what: &str, seconds: f64) -> String {
        let Self { each, sample, .. } = self;
        let looked = match sample {
            1 => "at every packet".to_owned(),
            _ => format!(
                "at the first {each} packets of each second and worker, then at one in {sample}"
            ),
        };
        format!(
            "no {what} was seen in {seconds:.1} s, looking {looked}; packets between pods of this node, and \
             to the world outside, do not pass the daemon"
        )
    }
}

/// The flows of one second.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FlowBatch {
    /// How long it was.
    pub seconds: f64,
    /// The flows, those with most bytes first.
    pub flows: Vec<FlowRecord>,
    /// Packets of flows for which there was no room.
    pub others: u64,
    /// Samples that were lost.
    pub missed: u64,
}

/// What was counted of one flow in one second.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowRecord {
    /// [`FLOW_SCHEMA`] of whoever wrote it.
    pub schema: u32,
    /// The second's end, as RFC 3339 has it, in UTC.
    pub time: String,
    /// From a pod to the wire, or from the wire to a pod.
    pub direction: FlowDirection,
    /// What became of the packets.
    pub verdict: FlowWord,
    /// Why they went no further.
    pub reason: Option<DropReason>,
    /// Where they came from; nothing where they could not be read.
    pub source: Option<IpAddr>,
    /// Where they went; likewise.
    pub destination: Option<IpAddr>,
    /// The protocol's name, or its number; likewise.
    pub protocol: Option<String>,
    /// Source port, of protocols with ports.
    pub source_port: Option<u16>,
    /// Destination port, of protocols with ports.
    pub destination_port: Option<u16>,
    /// The pod of this node that has the source.
    pub source_pod: Option<String>,
    /// The pod of this node that has the destination.
    pub destination_pod: Option<String>,
    /// The peer that they went to or came from.
    pub peer: Option<String>,
    /// The underlay address that they went to or came from.
    pub outer: Option<IpAddr>,
    /// Packets, as far as the sample tells.
    pub packets: u64,
    /// Bytes of inner packets, likewise.
    pub bytes: u64,
}

/// Where packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FlowDirection {
    /// From a pod to the wire.
    Egress,
    /// From the wire to a pod.
    Ingress,
}

/// What becomes of packets, in a word.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum FlowWord {
    /// They go to a peer.
    Forward,
    /// They go to a pod.
    Deliver,
    /// They are dropped, and their sender gets an ICMP error.
    Reply,
    /// They are dropped.
    Drop,
}

impl FlowWord {
    /// Whether the packets go no further.
    #[must_use]
    pub fn is_dropped(self) -> bool {
        matches!(self, Self::Reply | Self::Drop)
    }
}

impl fmt::Display for FlowDirection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Egress => "egress",
            Self::Ingress => "ingress",
        })
    }
}

impl fmt::Display for FlowWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Forward => "forward",
            Self::Deliver => "deliver",
            Self::Reply => "reply",
            Self::Drop => "drop",
        })
    }
}

/// The name of a protocol that people write by name.
pub(crate) fn protocol_name(number: u8) -> String {
    match number {
        1 => "icmp".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        58 => "icmpv6".to_owned(),
        132 => "sctp".to_owned(),
        other => other.to_string(),
    }
}
