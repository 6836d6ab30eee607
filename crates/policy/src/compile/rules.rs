//! Chains of rules, each after what it is of.

use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use overlay_proto::Protocol;

use super::names::{hashed, shortened};
use super::sets::{SetKey, Sets};
use super::{prefix, ranges};
use crate::object::{self, ClusterNetworkPolicy, NetworkPolicy, Peer, PortMatch, Tier};
use crate::plan::{Chain, Destination, Direction, Peers, Rule};

/// What a chain is of. A policy is known by the value that the world has of it.
#[derive(Clone, Debug)]
pub(super) enum ChainKey {
    /// Of one NetworkPolicy.
    Network(Arc<NetworkPolicy>, Direction),
    /// Of the policies of a tier that a class has, in order.
    Tier(Tier, Vec<Arc<ClusterNetworkPolicy>>, Direction),
}

/// What a chain is called after: names of policies, whatever they say at the moment, so that a
/// chain keeps its name when its policy changes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct ChainId(Option<Tier>, Direction, Vec<(Arc<str>, Arc<str>)>);

impl ChainKey {
    pub(super) fn id(&self) -> ChainId {
        match self {
            Self::Network(policy, direction) => {
                let name = (policy.namespace.clone(), policy.name.clone());
                ChainId(None, *direction, vec![name])
            }
            Self::Tier(tier, policies, direction) => {
                let names = policies.iter().map(|policy| (Arc::from(""), policy.name.clone()));
                ChainId(Some(*tier), *direction, names.collect())
            }
        }
    }

    /// What it is, apart from the content of policies.
    fn identity(&self) -> (Option<Tier>, Direction, Vec<usize>) {
        match self {
            Self::Network(policy, direction) => {
                (None, *direction, vec![Arc::as_ptr(policy).addr()])
            }
            Self::Tier(tier, policies, direction) => {
                let policies = policies.iter().map(|policy| Arc::as_ptr(policy).addr());
                (Some(*tier), *direction, policies.collect())
            }
        }
    }

    pub(super) fn proposed_name(&self) -> String {
        match self {
            Self::Network(policy, direction) => {
                let name = format!("{}/{}", policy.namespace, policy.name);
                format!("{}{}", prefix(*direction), shortened(&name))
            }
            Self::Tier(tier, policies, direction) => {
                let names: Vec<&str> = policies.iter().map(|policy| &*policy.name).collect();
                hashed(&format!("{}{tier}-", prefix(*direction)), &names)
            }
        }
    }
}

// The key keeps the policy alive, so that no other one gets its place in memory.
impl PartialEq for ChainKey {
    fn eq(&self, other: &Self) -> bool {
        self.identity() == other.identity()
    }
}

impl Eq for ChainKey {}

impl Hash for ChainKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.identity().hash(state);
    }
}

impl Sets {
    /// The chain of `key`.
    pub(super) fn chain(&mut self, key: &ChainKey) -> Chain {
        let mut rules = Vec::new();
        match key {
            ChainKey::Network(policy, direction) => {
                let of = format!("{}/{}", policy.namespace, policy.name);
                self.rules(
                    &of,
                    *direction,
                    policy.rules(*direction).unwrap_or_default(),
                    &mut rules,
                );
            }
            ChainKey::Tier(tier, policies, direction) => {
                for policy in policies {
                    let of = format!("{tier}:{}", policy.name);
                    self.rules(&of, *direction, policy.rules(*direction), &mut rules);
                }
            }
        }
        let (ChainKey::Network(_, direction) | ChainKey::Tier(_, _, direction)) = key;
        Chain { direction: *direction, rules: rules.into() }
    }

    fn rules(
        &mut self,
        of: &str,
        direction: Direction,
        written: &[object::Rule],
        rules: &mut Vec<Rule>,
    ) {
        let of = shortened(of);
        for (number, rule) in written.iter().enumerate() {
            let comment: Arc<str> = format!("{of} {direction}[{number}]").into();
            let destinations = self.destinations(rule.ports.as_deref(), direction);
            let mut peers = Vec::new();
            let mut blocks = Vec::new();
            for peer in &rule.peers {
                let peer = match peer {
                    Peer::Anybody => Peers::Any,
                    Peer::Pods(selection) => {
                        Peers::Pods(self.name(SetKey::Pods(selection.clone())))
                    }
                    Peer::Nodes(selector) => Peers::Net(self.name(SetKey::Nodes(selector.clone()))),
                    Peer::Block(block) => {
                        blocks.push(block.clone());
                        continue;
                    }
                };
                // Of several that are one set one does.
                if !peers.contains(&peer) {
                    peers.push(peer);
                }
            }
            if !blocks.is_empty() {
                peers.push(Peers::Net(self.name(SetKey::Blocks(blocks))));
            }
            if peers.contains(&Peers::Any) {
                peers = vec![Peers::Any];
            }
            for peers in peers {
                rules.extend(destinations.iter().map(|to| Rule {
                    peers: peers.clone(),
                    to: to.clone(),
                    action: rule.action,
                    comment: comment.clone(),
                }));
            }
        }
    }

    fn destinations(
        &mut self,
        ports: Option<&[PortMatch]>,
        direction: Direction,
    ) -> Vec<Destination> {
        let Some(ports) = ports else { return vec![Destination::Any] };
        let mut destinations = Vec::new();
        let numbers = ports.iter().filter_map(|port| match port {
            PortMatch::Range(range) => Some(*range),
            PortMatch::Named(..) => None,
        });
        let numbers = ranges::of_ports(numbers);
        if !numbers.is_empty() {
            destinations.push(Destination::Ports(self.name(SetKey::Ports(numbers))));
        }
        let mut named = BTreeSet::new();
        for port in ports {
            if let PortMatch::Named(name, protocol) = port {
                let protocols = protocol.map_or(Protocol::ALL.to_vec(), |protocol| vec![protocol]);
                named.extend(protocols.into_iter().map(|protocol| (name.clone(), protocol)));
            }
        }
        for (name, protocol) in named {
            let set = match direction {
                Direction::Ingress => SetKey::OwnNamed(name, protocol),
                Direction::Egress => SetKey::Named(name, protocol),
            };
            destinations.push(Destination::Named(self.name(set)));
        }
        destinations
    }
}
