//! What happens to one packet on this node, step by step.
//!
//! The packet is made up from a question and played to the data path in memory with the table at
//! hand: the verdict is the data path's own, and the steps say what it looked at. Never sends
//! anything, never counts anything of the daemon's.

mod packet;
mod way;

use std::fmt;
use std::net::IpAddr;

use culvert_dataplane::engine::{Owner, Table};
use serde::{Deserialize, Serialize};


pub use packet::{Impossible, Protocol};

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

/// Names of the node's devices, for the steps.
#[derive(Clone, Debug)]
pub struct Devices {
    /// The bridge.
    pub bridge: String,
    /// The TUN device.
    pub tun: String,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The node that is asked.
    pub node: String,
    /// What happens to the packet, and where the source is remote to an answer to it as well.
    pub ways: Vec<Way>,
}

/// One packet's way through the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Way {
    /// Which packet.
    pub packet: String,
    /// `egress`, `ingress`, or `local` if the data path never sees it.
    pub direction: String,
    /// What is looked at, in order.
    pub steps: Vec<Step>,
    /// `forward`, `deliver`, `reply`, `drop`, or `local`.
    pub verdict: String,
    /// Why it goes no further.
    pub reason: Option<String>,
    /// The peer that it goes to or comes from.
    pub peer: Option<String>,
    /// Bytes on the wire, outer IP header included; 0 if it never gets there.
    pub wire_bytes: usize,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What is looked at, in a word.
    pub what: String,
    /// What is found.
    pub found: String,
}

/// Answers `question` by `table`.
///
/// # Errors
///
/// Addresses of two families, or a size that no such packet has.
pub fn explain(
    table: &Table,
    devices: &Devices,
    question: &Question,
) -> Result<Explanation, Impossible> {
    let bytes = packet::build(question)?;
    let mut ways = Vec::new();
    match table.owner(question.source) {
        Some(Owner::Peer(peer)) => {
            let back = question.answered();
            ways.push(way::ingress(table, devices, question, peer, &bytes));
            ways.push(way::egress(table, devices, &back, &packet::build(&back)?));
        }
        Some(Owner::Local) | None => ways.push(way::egress(table, devices, question, &bytes)),
    }
    Ok(Explanation { node: table.local().name.clone(), ways })
}

impl Question {
    fn answered(&self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            ..self.clone()
        }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, way) in self.ways.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            writeln!(f, "{} on {}: {}", way.packet, self.node, way.direction)?;
            for step in &way.steps {
                writeln!(f, "  {:<12} {}", step.what, step.found)?;
            }
            write!(f, "  {:<12} {}", "verdict", way.verdict)?;
            if let Some(reason) = &way.reason {
                write!(f, ", {reason}")?;
            }
            if let Some(peer) = &way.peer {
                write!(f, ", peer {peer}")?;
            }
            if way.wire_bytes > 0 {
                write!(f, ", {} bytes on the wire", way.wire_bytes)?;
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
