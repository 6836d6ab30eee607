//! Rules that almost allowed a packet.

use std::fmt;

use super::{Judge, Packet, PolicyName, RuleName, Traffic, matches_port};
use crate::plan::Direction;

/// How many are told. More would not help.
const TOLD: usize = 3;

/// A rule that matches half of what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NearMiss {
    /// The rule.
    pub rule: RuleName,
    /// Which half it matches.
    pub half: Half,
    traffic: Traffic,
    wanted: String,
}

/// Which half of a rule matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Half {
    /// Whom the packet comes from, or where it goes.
    Peer,
    /// What it carries.
    Traffic,
}

impl Judge<'_> {
    /// The rules that came nearest to allowing `packet` at one end, the nearest first.
    #[must_use]
    pub fn near_misses(&self, packet: Packet, direction: Direction) -> Vec<NearMiss> {
        let Some(pod) = self.subject(packet, direction) else { return Vec::new() };
        let ends = self.ends(packet, direction);
        let mut found = Vec::new();
        for policy in &self.applying(pod, direction).network {
            let rules = policy.rules(direction).unwrap_or_default();
            for (number, rule) in rules.iter().enumerate() {
                let (half, wanted) =
                    match (self.matches_peer(rule, ends), matches_port(rule, ends, packet.traffic))
                    {
                        (true, false) => (Half::Peer, list(rule.ports.iter().flatten())),
                        // A rule for any port says nothing that almost was.
                        (false, true) if rule.ports.is_some() || rule.peers.len() == 1 => {
                            (Half::Traffic, list(rule.peers.iter()))
                        }
                        (true, true) | (false, _) => continue,
                    };
                let policy = PolicyName::of_network(policy);
                let rule = RuleName { policy, direction, number };
                found.push(NearMiss { rule, half, traffic: packet.traffic, wanted });
            }
        }
        found.sort_by(|one, other| (one.half, &one.rule).cmp(&(other.half, &other.rule)));
        found.truncate(TOLD);
        found
    }
}

fn list(items: impl Iterator<Item = impl fmt::Display>) -> String {
    let items: Vec<String> = items.map(|item| item.to_string()).collect();
    if items.is_empty() { "nothing".to_owned() } else { items.join(" or ") }
}

impl fmt::Display for NearMiss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rule, half, traffic, wanted } = self;
        match half {
            Half::Peer => {
                write!(f, "{rule} matches the peer, but not {traffic}: it is for {wanted}")
            }
            Half::Traffic => {
                write!(f, "{rule} matches {traffic}, but not the peer: it is for {wanted}")
            }
        }
    }
}

impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(protocol, port) => write!(f, "{protocol} port {port}"),
            Self::Other => f.write_str("a protocol without ports"),
        }
    }
}
