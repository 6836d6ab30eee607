//! What is right by the letter and probably not what was meant.

use std::fmt;

use crate::judge::{PolicyName, RuleName};
use crate::object::{Peer, PodSelection, PortMatch, Rule};
use crate::plan::Direction;
use crate::world::World;

/// Something about a policy that its author may want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// It is about no pod that there is.
    NoSubject(PolicyName),
    /// A peer of a rule is no pod that there is.
    NoPeer(RuleName, String),
    /// No pod has a port of this name.
    NoPort(RuleName, String),
}

/// What there is to say of the policies of `world`. Nothing if it has no pods, which then nobody
/// wrote down.
#[must_use]
pub fn notes(world: &World) -> Vec<Note> {
    let mut notes = Vec::new();
    if world.pods().next().is_none() {
        return notes;
    }
    for policy in world.network_policies() {
        let name = PolicyName::of_network(policy);
        let rules = |direction| policy.rules(direction).unwrap_or_default();
        about(world, &name, &policy.selection(), rules, &mut notes);
    }
    for policy in world.cluster_policies() {
        let name = PolicyName::of_cluster(policy);
        about(world, &name, &policy.subjects, |direction| policy.rules(direction), &mut notes);
    }
    notes
}

fn about<'a>(
    world: &World,
    policy: &PolicyName,
    subjects: &PodSelection,
    rules: impl Fn(Direction) -> &'a [Rule],
    notes: &mut Vec<Note>,
) {
    if !is_somebody(world, subjects) {
        notes.push(Note::NoSubject(policy.clone()));
    }
    for direction in Direction::ALL {
        for (number, rule) in rules(direction).iter().enumerate() {
            let name = || RuleName { policy: policy.clone(), direction, number };
            for peer in &rule.peers {
                if let Peer::Pods(selection) = peer
                    && !is_somebody(world, selection)
                {
                    notes.push(Note::NoPeer(name(), selection.to_string()));
                }
            }
            for port in rule.ports.iter().flatten() {
                if let PortMatch::Named(wanted, protocol) = port {
                    let mut ports = world.pods().flat_map(|pod| pod.ports.iter());
                    let has_it = ports.any(|port| {
                        port.name == *wanted && protocol.is_none_or(|it| it == port.protocol)
                    });
                    if !has_it {
                        notes.push(Note::NoPort(name(), port.to_string()));
                    }
                }
            }
        }
    }
}

fn is_somebody(world: &World, selection: &PodSelection) -> bool {
    let mut pods = world.pods().filter(|pod| pod.is_selectable());
    pods.any(|pod| selection.selects(pod, world.namespace(&pod.namespace)))
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSubject(policy) => write!(f, "{policy} selects no pod"),
            Self::NoPeer(rule, peer) => write!(f, "{rule}: there are no {peer}"),
            Self::NoPort(rule, port) => write!(f, "{rule}: no pod has the port {port}"),
        }
    }
}
