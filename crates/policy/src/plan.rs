//! What a node's kernel enforces, as a value: the sets, chains and maps of one table.
//!
//! A plan mirrors the table, and says nothing of families that are not there: a set whose half of a
//! family is empty is still a set. What is better said without a set, the table knows. Two plans of
//! one node are compared to find what to change, so everything in it is sorted, and contents are
//! shared: comparing what did not change costs a look at two pointers.
//!
//! How a packet goes through it, once the kernel does not know the connection already:
//!
//! 1. A packet of the node itself passes, and so does one between the addresses of one pod
//!    ([`Plan::selves`]).
//! 2. [`Plan::egress`] leads from the source address to a class, or to a drop. A source that is not
//!    in the map goes on with 4.
//! 3. The class goes through its chains in order ([`Class::steps`]). The first rule that matches
//!    decides: [`Action::Accept`] goes on with 4, [`Action::Deny`] drops, [`Action::Pass`] leaves
//!    the chain for the next one. After the last chain [`Class::end`] decides.
//! 4. [`Plan::ingress`] leads from the destination address to a class, in the same way; what is
//!    accepted there, or is not in the map, passes.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::sync::Arc;

use overlay_proto::Protocol;

/// Name of a set, of a chain or of a class.
///
/// It begins with a letter, goes on with letters, digits and `/-_.`, all of which `nft` prints and
/// reads, and is at most [`Name::MAX_LEN`] bytes long, so that a family or a prefix may be added.
/// Names of things of different kinds differ as well. A name follows from what it is for, and stays
/// the same when the daemon restarts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

impl Name {
    /// Bytes of the longest name. A log prefix has room for 127.
    pub const MAX_LEN: usize = 100;

    pub(crate) fn new(name: &str) -> Self {
        debug_assert!(name.len() <= Self::MAX_LEN, "{name}");
        Self(name.into())
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The direction that a rule is about, as the pod sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// What comes to a pod.
    Ingress,
    /// What a pod sends.
    Egress,
}

impl Direction {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Ingress, Self::Egress];

    /// The word in comments and reports.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What the kernel of one node enforces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Addresses of the pods that a selector selects: `pods-HASH`.
    pub pods: BTreeMap<Name, Addresses>,
    /// Addresses of the ipBlocks of a rule, each without its exceptions (`net-HASH`), or of nodes
    /// (`node-HASH`).
    pub nets: BTreeMap<Name, Ranges>,
    /// Ports by number: `port-HASH`.
    pub ports: BTreeMap<Name, Ports>,
    /// Where pods have a port of one name and protocol: all pods (`name-PORT-PROTOCOL`), which
    /// rules of egress ask for, or those of the node (`own-PORT-PROTOCOL`), of ingress.
    pub named_ports: BTreeMap<Name, NamedPorts>,
    /// The rules of a policy in one direction (`i-NAMESPACE/NAME`, `e-NAMESPACE/NAME`), or of all
    /// ClusterNetworkPolicies of a tier that a class has (`i-admin-HASH`, `e-baseline-HASH`).
    pub chains: BTreeMap<Name, Chain>,
    /// What pods share to which the same policies apply in one direction: `i-HASH`, `e-HASH`.
    pub classes: BTreeMap<Name, Class>,
    /// Where what a pod of this node sends is judged.
    pub egress: BTreeMap<IpAddr, Target>,
    /// Where what comes to a pod of this node is judged.
    pub ingress: BTreeMap<IpAddr, Target>,
    /// Those of them that may have something dropped: not pods to which only policies apply that
    /// are being tried out, or that deny nothing.
    pub isolated: BTreeSet<IpAddr>,
    /// Source and destination that are one pod, for each address in either map.
    pub selves: BTreeSet<(IpAddr, IpAddr)>,
}

impl Plan {
    /// The map of one direction.
    #[must_use]
    pub const fn targets(&self, direction: Direction) -> &BTreeMap<IpAddr, Target> {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }
}

/// Where a map leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// To one of [`Plan::classes`].
    Class(Name),
    /// To a drop, whatever the packet.
    Closed,
}

/// Single addresses, sorted, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// Those of IPv4.
    pub v4: Arc<[Ipv4Addr]>,
    /// Those of IPv6.
    pub v6: Arc<[Ipv6Addr]>,
}

/// Ranges of addresses, sorted; none touches the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges {
    /// Those of IPv4.
    pub v4: Arc<[RangeInclusive<Ipv4Addr>]>,
    /// Those of IPv6.
    pub v6: Arc<[RangeInclusive<Ipv6Addr>]>,
}

/// Ranges of ports, sorted by protocol and port; none touches the next of its protocol.
pub type Ports = Arc<[PortRange]>;

/// Ports of one protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    /// Whose ports.
    pub protocol: Protocol,
    /// The first port.
    pub first: u16,
    /// The last port, which may be the first.
    pub last: u16,
}

/// Where pods have a port of one name and protocol, sorted. One pod may have several numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedPorts {
    /// The protocol of all of them, which the key of the set repeats.
    pub protocol: Protocol,
    /// Address and number, of IPv4.
    pub v4: Arc<[(Ipv4Addr, u16)]>,
    /// Address and number, of IPv6.
    pub v6: Arc<[(Ipv6Addr, u16)]>,
}

/// Rules of which the first that matches decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Where its classes are.
    pub direction: Direction,
    /// In the order in which they are asked.
    pub rules: Arc<[Rule]>,
}

/// One rule. It is for both families, where its sets have both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Whom the other end of the connection must be.
    pub peers: Peers,
    /// Which ports of the destination.
    pub to: Destination,
    /// What happens.
    pub action: Action,
    /// Where the rule was written, such as `default/web ingress[0]`, `admin:deny-all egress[2]` or
    /// `baseline:default ingress[0]`, by which hits are counted. Several rules may have one, also
    /// in several chains. At most [`Rule::MAX_COMMENT`] bytes, printable, without quotation marks.
    pub comment: Arc<str>,
}

impl Rule {
    /// Bytes of the longest comment: what the kernel and `nft` keep.
    pub const MAX_COMMENT: usize = 127;
}

/// Whom the other end of a connection must be: its source for ingress, its destination for egress.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peers {
    /// Anybody.
    Any,
    /// Somebody in one of [`Plan::pods`].
    Pods(Name),
    /// Somebody in one of [`Plan::nets`].
    Net(Name),
}

/// Which ports of the destination.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Destination {
    /// Any protocol, with or without ports.
    Any,
    /// Protocol and port in one of [`Plan::ports`].
    Ports(Name),
    /// Address, protocol and port in one of [`Plan::named_ports`].
    Named(Name),
}

/// What a rule does with what it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// This direction allows it. In an egress chain: go to the chain `ingress`. In an ingress
    /// chain: accept.
    Accept,
    /// Log and drop.
    Deny,
    /// This chain has nothing to say: return.
    Pass,
}

/// What pods share to which the same policies apply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Class {
    /// In which direction.
    pub direction: Direction,
    /// Chains of [`Plan::chains`] that are jumped to in this order.
    pub steps: Arc<[Name]>,
    /// What happens to what no chain decides.
    pub end: End,
}

/// What happens to what no chain of a class decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum End {
    /// Log (with the name of the class as prefix) and drop: a NetworkPolicy isolates these pods.
    Deny,
    /// Log, and allow as [`Action::Accept`] does: every policy that isolates these pods is only
    /// being tried out.
    Audit,
    /// Allow as [`Action::Accept`] does: only ClusterNetworkPolicies apply, and none objects.
    Accept,
}
