//! What becomes of one packet, and why.
//!
//! It looks at the objects themselves, and at no plan. Each end is asked by itself: what a pod
//! sends by the policies that apply to it, what comes to a pod by those that apply to that. In a
//! cluster each is asked on its own node.

mod near;
mod verdict;

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use overlay_proto::Protocol;

use crate::object::{Block, ClusterNetworkPolicy, NetworkPolicy, Peer, Pod, PortMatch, Rule};
use crate::openings::Openings;
use crate::plan::{Action, Direction, PortRange};
use crate::world::{Applying, NodeView, World};

pub use near::{Half, NearMiss};
pub use verdict::{Ground, Opinion, PolicyName, RuleName, Verdict};

/// A packet that begins a connection: what comes back passes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Where it comes from, before a translation.
    pub source: IpAddr,
    /// Where it goes, after a translation.
    pub destination: IpAddr,
    /// What it carries.
    pub traffic: Traffic,
}

/// What a packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Traffic {
    /// Something for a port of the destination.
    Port(Protocol, u16),
    /// Something else, such as ICMP.
    Other,
}

/// Judges packets by a world as it was when this value was made.
#[derive(Debug)]
pub struct Judge<'w> {
    world: &'w World,
    nodes: HashMap<IpAddr, NodeView<'w>>,
    applying: RefCell<HashMap<(*const Pod, Direction), Rc<Applying>>>,
}

/// One end of a packet, and the other, as a rule sees them.
#[derive(Clone, Copy)]
struct Ends<'a> {
    direction: Direction,
    peer: IpAddr,
    peer_pod: Option<&'a Pod>,
    destination_pod: Option<&'a Pod>,
}

impl<'w> Judge<'w> {
    /// One who judges by `world`.
    #[must_use]
    pub fn new(world: &'w World) -> Self {
        let nodes = world.nodes();
        let nodes = nodes.flat_map(|node| node.addresses().map(move |address| (address, node)));
        Self { world, nodes: nodes.collect(), applying: RefCell::default() }
    }

    /// The pod whose policies count for `address`: also one of this node that has ended, or whose
    /// object is gone, as long as it has the address.
    #[must_use]
    pub fn subject_at(&self, address: IpAddr) -> Option<&'w Arc<Pod>> {
        self.world.holder(address).or_else(|| self.pod(address))
    }

    /// The pod that has `address`, as peers see it.
    #[must_use]
    pub fn pod(&self, address: IpAddr) -> Option<&'w Arc<Pod>> {
        self.world.owner(address)
    }

    /// What becomes of `packet`.
    #[must_use]
    pub fn judge(&self, packet: Packet) -> Verdict {
        Verdict {
            egress: self.opinion(packet, Direction::Egress),
            ingress: self.opinion(packet, Direction::Ingress),
        }
    }

    /// What one end says to `packet`.
    #[must_use]
    pub fn opinion(&self, packet: Packet, direction: Direction) -> Opinion {
        let Some(pod) = self.subject(packet, direction) else {
            return Opinion { pod: None, isolated_by: Vec::new(), ground: Ground::NoPod };
        };
        let name = Some((pod.namespace.clone(), pod.name.clone()));
        let applying = self.applying(pod, direction);
        let mut opinion =
            Opinion { pod: name, isolated_by: isolating(&applying), ground: Ground::Unrestricted };
        let ends = self.ends(packet, direction);
        opinion.ground = match self.exempt(packet) {
            Some(ground) => ground,
            None => self.ground(&applying, ends, packet.traffic),
        };
        opinion
    }

    /// Protocols and ports that may go from one address to another.
    #[must_use]
    pub fn openings(&self, source: IpAddr, destination: IpAddr) -> Openings {
        let packet = Packet { source, destination, traffic: Traffic::Other };
        if self.exempt(packet).is_some() {
            return Openings::all();
        }
        let one = |direction| match self.subject(packet, direction) {
            None => Openings::all(),
            Some(pod) => {
                let applying = self.applying(pod, direction);
                self.open(&applying, self.ends(packet, direction))
            }
        };
        one(Direction::Egress).and(&one(Direction::Ingress))
    }

    /// The pod whose policies are asked.
    fn subject(&self, packet: Packet, direction: Direction) -> Option<&'w Arc<Pod>> {
        self.subject_at(match direction {
            Direction::Egress => packet.source,
            Direction::Ingress => packet.destination,
        })
    }

    fn ends(&self, packet: Packet, direction: Direction) -> Ends<'w> {
        let peer = match direction {
            Direction::Egress => packet.destination,
            Direction::Ingress => packet.source,
        };
        let pod = |address| self.pod(address).map(|pod| &**pod);
        let (peer_pod, destination_pod) = (pod(peer), pod(packet.destination));
        Ends { direction, peer, peer_pod, destination_pod }
    }

    fn applying(&self, pod: &Arc<Pod>, direction: Direction) -> Rc<Applying> {
        let mut known = self.applying.borrow_mut();
        let applying = known.entry((Arc::as_ptr(pod), direction));
        applying.or_insert_with(|| self.world.applying(pod, direction).into()).clone()
    }

    /// Why policies are not asked.
    fn exempt(&self, packet: Packet) -> Option<Ground> {
        let Packet { source, destination, traffic: _ } = packet;
        if source.is_ipv4() != destination.is_ipv4() {
            return None;
        }
        let (from, to) = (self.subject_at(source), self.subject_at(destination));
        if let (Some(from), Some(to)) = (from, to)
            && Arc::ptr_eq(from, to)
        {
            return Some(Ground::Itself);
        }
        // What a node sends to its own pods, and what they send to it, never leaves it.
        let is_own = |pod: Option<&Arc<Pod>>, other: IpAddr| {
            let Some(pod) = pod else { return false };
            let node = self.nodes.get(&other).map(|node| node.name);
            self.world.is_local(other) || node.is_some() && node == pod.node.as_ref()
        };
        (is_own(to, source) || is_own(from, destination)).then_some(Ground::OwnNode)
    }

    fn ground(&self, applying: &Applying, ends: Ends<'_>, traffic: Traffic) -> Ground {
        if applying.is_empty() {
            return Ground::Unrestricted;
        }
        if let Some(ground) = self.tier(&applying.admin, ends, traffic) {
            return ground;
        }
        let allowing = |policies: &[Arc<NetworkPolicy>]| {
            policies.iter().find_map(|policy| {
                let rules = policy.rules(ends.direction).unwrap_or_default();
                let number = rules.iter().position(|rule| self.matches(rule, ends, traffic))?;
                let policy = PolicyName::of_network(policy);
                Some(RuleName { policy, direction: ends.direction, number })
            })
        };
        if !applying.network.is_empty() {
            return match allowing(&applying.network) {
                Some(rule) => Ground::Rule(rule, Action::Accept),
                None => Ground::NothingAllows,
            };
        }
        if let Some(ground) = self.tier(&applying.baseline, ends, traffic) {
            return ground;
        }
        if applying.baseline.is_empty()
            && !applying.audit.is_empty()
            && allowing(&applying.audit).is_none()
        {
            return Ground::TriedOut;
        }
        Ground::NothingDenies
    }

    /// What a tier of cluster policies decides; nothing if it passes the packet on.
    fn tier(
        &self,
        policies: &[Arc<ClusterNetworkPolicy>],
        ends: Ends<'_>,
        traffic: Traffic,
    ) -> Option<Ground> {
        for policy in policies {
            for (number, rule) in policy.rules(ends.direction).iter().enumerate() {
                if self.matches(rule, ends, traffic) {
                    let policy = PolicyName::of_cluster(policy);
                    let name = RuleName { policy, direction: ends.direction, number };
                    return match rule.action {
                        Action::Accept | Action::Deny => Some(Ground::Rule(name, rule.action)),
                        Action::Pass => None,
                    };
                }
            }
        }
        None
    }

    fn matches(&self, rule: &Rule, ends: Ends<'_>, traffic: Traffic) -> bool {
        matches_port(rule, ends, traffic) && self.matches_peer(rule, ends)
    }

    fn matches_peer(&self, rule: &Rule, ends: Ends<'_>) -> bool {
        rule.peers.iter().any(|peer| match peer {
            Peer::Anybody => true,
            Peer::Pods(selection) => ends
                .peer_pod
                .is_some_and(|pod| selection.selects(pod, self.world.namespace(&pod.namespace))),
            Peer::Block(block) => self.is_in_block(block, ends.peer),
            Peer::Nodes(selector) => {
                let labels = self.nodes.get(&ends.peer).and_then(|node| node.labels());
                labels.is_some_and(|labels| selector.matches(labels))
            }
        })
    }

    fn is_in_block(&self, block: &Block, address: IpAddr) -> bool {
        let node = self.nodes.get(&address);
        let node = node.filter(|node| node.overlay().any(|overlay| overlay == address));
        // An address that a node has in the pod network stands for the node, where the network says
        // something of it.
        let meant = node.into_iter().flat_map(|node| node.internal());
        let mut meant = meant.filter(|internal| block.cidr.contains(internal)).peekable();
        if meant.peek().is_none() {
            return block.contains(address);
        }
        address.is_ipv4() == block.cidr.addr().is_ipv4()
            && meant.any(|internal| block.contains(internal))
    }

    fn open(&self, applying: &Applying, ends: Ends<'_>) -> Openings {
        let open = |rule: &Rule| {
            if self.matches_peer(rule, ends) { ports(rule, ends) } else { Openings::none() }
        };
        let mut allowed = Openings::none();
        // What no rule has decided yet.
        let mut rest = Openings::all();
        let mut tier = |policies: &[Arc<ClusterNetworkPolicy>], rest: &mut Openings| {
            let mut passed = Openings::none();
            for rule in policies.iter().flat_map(|policy| policy.rules(ends.direction)) {
                let decided = open(rule).and(rest);
                match rule.action {
                    Action::Accept => allowed = allowed.or(&decided),
                    Action::Deny => {}
                    Action::Pass => passed = passed.or(&decided),
                }
                *rest = rest.without(&decided);
            }
            *rest = rest.or(&passed);
        };
        tier(&applying.admin, &mut rest);
        if applying.network.is_empty() {
            tier(&applying.baseline, &mut rest);
            return allowed.or(&rest);
        }
        let rules = applying.network.iter().flat_map(|it| it.rules(ends.direction));
        for rule in rules.flatten() {
            allowed = allowed.or(&open(rule).and(&rest));
        }
        allowed
    }
}

fn isolating(applying: &Applying) -> Vec<PolicyName> {
    let cluster = |policies: &[Arc<ClusterNetworkPolicy>]| {
        policies.iter().map(|policy| PolicyName::of_cluster(policy)).collect::<Vec<_>>()
    };
    let mut names = cluster(&applying.admin);
    names.extend(applying.network.iter().map(|policy| PolicyName::of_network(policy)));
    if applying.network.is_empty() {
        names.extend(cluster(&applying.baseline));
    }
    names
}

fn matches_port(rule: &Rule, ends: Ends<'_>, traffic: Traffic) -> bool {
    let Some(ports) = &rule.ports else { return true };
    let Traffic::Port(protocol, number) = traffic else { return false };
    ports.iter().any(|port| match port {
        PortMatch::Range(range) => {
            range.protocol == protocol && (range.first..=range.last).contains(&number)
        }
        PortMatch::Named(name, of) => {
            let pod = ends.destination_pod.into_iter();
            let mut named = pod.flat_map(|pod| pod.ports.iter());
            of.is_none_or(|of| of == protocol)
                && named.any(|port| {
                    port.name == *name && port.protocol == protocol && port.port == number
                })
        }
    })
}

/// What the ports of a rule are for this destination.
fn ports(rule: &Rule, ends: Ends<'_>) -> Openings {
    let Some(ports) = &rule.ports else { return Openings::all() };
    Openings::of(ports.iter().flat_map(|port| match port {
        PortMatch::Range(range) => vec![*range],
        PortMatch::Named(name, of) => {
            let pod = ends.destination_pod.into_iter();
            let named = pod
                .flat_map(|pod| pod.ports.iter())
                .filter(|port| port.name == *name && of.is_none_or(|of| of == port.protocol));
            let range = named.map(|port| PortRange {
                protocol: port.protocol,
                first: port.port,
                last: port.port,
            });
            range.collect()
        }
    }))
}
