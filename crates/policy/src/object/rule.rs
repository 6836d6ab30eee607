//! Rules, as policies of both kinds have them.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use overlay_proto::Protocol;

use super::{PodSelection, Selector};
use crate::plan::{Action, PortRange};

/// One rule of a policy in one direction. Its place in the list is its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What happens to what matches.
    pub action: Action,
    /// Whom it is about: any of these. No peer at all matches nobody.
    pub peers: Vec<Peer>,
    /// Which ports of the destination: any of these; nothing if every port that was written is not
    /// understood. `None` is every protocol, with or without ports.
    pub ports: Option<Vec<PortMatch>>,
}

/// The other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peer {
    /// Anybody, inside the cluster or not.
    Anybody,
    /// Some pods.
    Pods(PodSelection),
    /// Some addresses.
    Block(Block),
    /// Some nodes.
    Nodes(Selector),
}

/// The addresses of a network without those of some others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Block {
    /// The network, without bits beyond its length.
    pub cidr: IpNet,
    /// What is left out, within it.
    pub except: BTreeSet<IpNet>,
}

/// A port of the destination.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PortMatch {
    /// By number.
    Range(PortRange),
    /// By the name that the destination's pod gives it, of one protocol or of any.
    Named(Arc<str>, Option<Protocol>),
}

impl Block {
    /// Whether `address` is in the network, and in none that is left out.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.cidr.contains(&address) && !self.except.iter().any(|net| net.contains(&address))
    }
}

impl Rule {
    /// Whether it can match a packet at all.
    #[must_use]
    pub fn can_match(&self) -> bool {
        !self.peers.is_empty() && self.ports.as_ref().is_none_or(|ports| !ports.is_empty())
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.cidr)?;
        for (at, net) in self.except.iter().enumerate() {
            write!(f, "{}{net}", if at == 0 { " except " } else { "," })?;
        }
        Ok(())
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anybody => f.write_str("anybody"),
            Self::Pods(selection) => write!(f, "{selection}"),
            Self::Block(block) => write!(f, "{block}"),
            Self::Nodes(all) if all.is_everything() => f.write_str("all nodes"),
            Self::Nodes(selector) => write!(f, "nodes {selector}"),
        }
    }
}

impl fmt::Display for PortMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Range(PortRange { protocol, first: 0, last: u16::MAX }) => {
                write!(f, "{protocol}")
            }
            Self::Range(PortRange { protocol, first, last }) if first == last => {
                write!(f, "{protocol} {first}")
            }
            Self::Range(PortRange { protocol, first, last }) => {
                write!(f, "{protocol} {first}-{last}")
            }
            Self::Named(name, Some(protocol)) => write!(f, "{protocol} \"{name}\""),
            Self::Named(name, None) => write!(f, "\"{name}\""),
        }
    }
}
