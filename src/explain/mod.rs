//! What happens to one packet on this node, step by step.
//!
//! The packet is made up from a question and played to the data path in memory with the table at
//! hand: its part of the verdict is the data path's own. What is before and behind the data path,
//! the node's kernel is asked, where there is one. Each step says on what it rests. Never sends
//! anything, never counts anything of the daemon's.

mod kernel;
mod packet;
mod policy;
mod service;
mod steps;
mod trace;

use std::fmt;
use std::net::IpAddr;

use culvert_dataplane::engine::{DropReason, Owner, Table};
use serde::{Deserialize, Serialize};

pub use culvert_nft::Target;
pub use kernel::{Holder, Hurdle, Kernel, Passage, Redirected, Underlay, Way};
pub use packet::{Impossible, Protocol};
pub use policy::Judgement;
use steps::Steps;

/// A packet that somebody asks about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// Inner source.
    pub source: IpAddr,
    /// Inner destination, of the same family.
    pub destination: IpAddr,
    /// What the packet carries.
    pub protocol: Protocol,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// Length of the IP packet, in bytes.
    pub size: u16,
    /// Whether routers may fragment it (IPv4).
    pub may_fragment: bool,
}

/// What steps say of the node besides its table.
#[derive(Clone, Debug)]
pub struct Node {
    /// Name of the bridge.
    pub bridge: String,
    /// Name of the TUN device.
    pub tun: String,
    /// Whether what leaves the cluster gets the node's address.
    pub masquerade: bool,
    /// The source ports of the tunnel, one for each path; empty where no daemon has them.
    pub source_ports: Vec<u16>,
    /// What of other nodes is dropped here for a reason that all they send has in common.
    pub refused: Vec<Refused>,
}

/// That what a node sends is dropped here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The node, by its underlay address.
    pub from: IpAddr,
    /// Why.
    pub reason: DropReason,
    /// Seconds since the last time.
    pub seconds_ago: u64,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The node that is asked.
    pub node: String,
    /// What happens to the packet, and where the source is remote and the packet arrives to an
    /// answer to it as well.
    pub ways: Vec<Trace>,
    /// The packet as rules of services make it, if they do.
    #[serde(skip)]
    pub becomes: Option<Question>,
}

/// One packet's way through the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// Which packet.
    pub packet: String,
    /// Where it goes through the data path.
    pub direction: Direction,
    /// What is looked at, in order.
    pub steps: Vec<Step>,
    /// The step that decides; none, if that is the last one.
    #[serde(skip)]
    pub decided_by: Option<usize>,
    /// What becomes of it.
    pub verdict: Verdict,
    /// Why the data path lets it go no further.
    pub reason: Option<DropReason>,
    /// What may change the verdict, because it was seen and not followed.
    #[serde(default)]
    pub unless: Vec<String>,
    /// The peer that it goes to or comes from.
    pub peer: Option<String>,
    /// Bytes on the wire, outer IP header included; 0 if it never gets there.
    pub wire_bytes: usize,
}

impl Trace {
    /// What was found that decides.
    pub(crate) fn decisive(&self) -> &str {
        let step = match self.decided_by {
            Some(place) => self.steps.get(place),
            None => self.steps.last(),
        };
        step.map(|step| step.found.as_str()).unwrap_or_default()
    }

    /// Puts down what a pod was asked, which decides.
    pub(crate) fn beyond(&mut self, found: &str) {
        self.steps.truncate(self.decided_by.map_or(usize::MAX, |last| last + 1));
        self.decided_by = None;
        self.steps.push(Step {
            what: "sender".to_owned(),
            found: found.to_owned(),
            by: Basis::Kernel,
        });
    }
}

/// Where a packet goes through the data path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// From a pod to the wire.
    Egress,
    /// From the wire to a pod.
    Ingress,
    /// Nowhere: it stays among the pods of the node.
    Local,
    /// Nowhere: the node's kernel takes it elsewhere.
    Kernel,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It is sent to a peer.
    Forward,
    /// It is delivered to a pod.
    Deliver,
    /// It is dropped, and its sender gets an ICMP error.
    Reply,
    /// It is dropped.
    #[default]
    Drop,
    /// The bridge delivers it, and the data path never sees it.
    Local,
    /// The node's kernel routes it elsewhere, and the data path never sees it.
    Kernel,
    /// The node's kernel drops it, by a route or by a rule.
    KernelDrops,
    /// The pod that is to send it was asked, and does not answer beyond its subnet. Only `culvert
    /// trace` asks pods.
    NoAnswer,
}

impl Verdict {
    /// Whether the packet goes no further, so that nothing is to be told of what comes behind.
    pub(crate) const fn has_ended(self) -> bool {
        match self {
            Self::Reply | Self::Drop | Self::KernelDrops | Self::NoAnswer => true,
            Self::Forward | Self::Deliver | Self::Local | Self::Kernel => false,
        }
    }
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What is looked at, in a word.
    pub what: String,
    /// What is found.
    pub found: String,
    /// On what that rests.
    pub by: Basis,
}

/// What a step rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Basis {
    /// The subnet table and the data path, which were asked.
    Table,
    /// The node's kernel, which was asked.
    Kernel,
    /// The network policies that the node knows, which were asked.
    Policy,
    /// How a node is set up; nobody was asked.
    Assumed,
}

/// Answers `question` by `table` and, where a node is at hand, by its kernel.
///
/// # Errors
///
/// Addresses of two families, or a size that no such packet has.
pub fn explain(
    table: &Table,
    node: &Node,
    mut kernel: Option<&mut dyn Kernel>,
    question: &Question,
) -> Result<Explanation, Impossible> {
    let table = &table.with_own_counters();
    let bytes = packet::build(question)?;
    let (mut ways, mut becomes) = (Vec::new(), None);
    match table.owner(question.source) {
        Some(Owner::Peer(peer)) => {
            let back = question.answered();
            let steps = Steps::new(kernel.as_mut().map(|kernel| &mut **kernel as &mut dyn Kernel));
            let there = trace::ingress(table, node, question, peer, &bytes, steps);
            let arrives = !there.verdict.has_ended();
            ways.push(there);
            if arrives {
                // What answers is part of a connection, of which rules of services do not decide.
                ways.push(trace::egress(table, node, &back, false, Steps::new(kernel))?.0);
            }
        }
        Some(Owner::Local) | None => {
            let (way, into) = trace::egress(table, node, question, true, Steps::new(kernel))?;
            ways.push(way);
            becomes = into;
        }
    }
    Ok(Explanation { node: table.local().name.clone(), ways, becomes })
}

impl Question {
    /// A short packet of TCP from one address to another.
    pub(crate) const fn between(source: IpAddr, destination: IpAddr) -> Self {
        Self {
            source,
            destination,
            protocol: Protocol::Tcp,
            source_port: 40_000,
            destination_port: 80,
            size: 100,
            may_fragment: false,
        }
    }

    /// The packet that answers this one.
    #[must_use]
    pub fn answered(&self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            ..self.clone()
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Egress => "egress",
            Self::Ingress => "ingress",
            Self::Local => "local",
            Self::Kernel => "kernel",
        })
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Forward => "forward",
            Self::Deliver => "deliver",
            Self::Reply => "reply",
            Self::Drop => "drop",
            Self::Local => "local",
            Self::Kernel => "kernel",
            Self::KernelDrops => "kernel_drops",
            Self::NoAnswer => "no_answer",
        })
    }
}

/// What is said of the way of an answer to a packet that does not arrive.
pub(crate) const NO_ANSWER_FOLLOWED: &str =
    "its way was not looked at: nothing arrives that could be answered";

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, way) in self.ways.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            writeln!(f, "{} on {}: {}", way.packet, self.node, way.direction)?;
            for step in &way.steps {
                let basis = match step.by {
                    Basis::Table => "",
                    Basis::Kernel => " [kernel]",
                    Basis::Policy => " [policy]",
                    Basis::Assumed => " [assumed]",
                };
                writeln!(f, "  {:<12} {}{basis}", step.what, step.found)?;
            }
            write!(f, "  {:<12} {}", "verdict", way.verdict)?;
            if let Some(reason) = &way.reason {
                write!(f, ", {}", reason.as_str())?;
            }
            if let Some(peer) = &way.peer {
                write!(f, ", peer {peer}")?;
            }
            if way.wire_bytes > 0 {
                write!(f, ", {} bytes on the wire", way.wire_bytes)?;
            }
            for unless in &way.unless {
                write!(f, "; unless {unless}")?;
            }
            if way.direction == Direction::Ingress && way.verdict.has_ended() {
                write!(f, "\n  {:<12} {NO_ANSWER_FOLLOWED}", "answer")?;
            }
            if index + 1 < self.ways.len() {
                writeln!(f)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
