//! What a source proposes: what the table should be made of, at this moment.
//!
//! Kept from the source's updates. Proposes only: what is in force is the daemon's.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Candidate, Parameters, Update};
use crate::engine::{Membership, NodeEntry, Overlay, Rejected, TableError};

/// Everything that a source knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proposal {
    /// What all nodes share, if the source holds it.
    pub parameters: Option<Parameters>,
    /// The nodes, by name.
    nodes: BTreeMap<String, Candidate>,
    /// Values that cannot be understood: where, and why.
    unreadable: BTreeMap<String, String>,
}

impl Proposal {
    /// The nodes `nodes`, and nothing else.
    pub fn of_nodes(nodes: impl IntoIterator<Item = Candidate>) -> Self {
        let named = nodes.into_iter().map(|node| (node.entry.name.clone(), node));
        Self { nodes: named.collect(), ..Self::default() }
    }

    /// The same with `parameters`.
    #[must_use]
    pub fn with_parameters(self, parameters: Parameters) -> Self {
        Self { parameters: Some(parameters), ..self }
    }

    /// The same with what cannot be understood: where it stands, and why.
    #[must_use]
    pub fn with_unreadable(self, unreadable: BTreeMap<String, String>) -> Self {
        Self { unreadable, ..self }
    }

    /// Takes an update; says whether the table may have to be another than before.
    pub fn take(&mut self, update: Update) -> bool {
        match update {
            Update::Everything(proposal) => {
                *self = proposal;
                true
            }
            Update::Put(node) => {
                let before = self.nodes.insert(node.entry.name.clone(), node.clone());
                before.as_ref() != Some(&node)
            }
            Update::Remove(name) => self.nodes.remove(&name).is_some(),
            Update::Unreadable { key, problem: Some(problem) } => {
                self.unreadable.insert(key, problem);
                false
            }
            Update::Unreadable { key, problem: None } => {
                self.unreadable.remove(&key);
                false
            }
            Update::Contested(_) | Update::Differs(_) | Update::Refused(_) | Update::Lost(_) => {
                false
            }
        }
    }

    /// The nodes, checked, and those that were left out.
    ///
    /// # Errors
    ///
    /// The node `local` is not among them, or is one that would be left out.
    pub fn members(
        &self,
        overlay: &Overlay,
        local: &str,
    ) -> Result<(Membership, Vec<Rejected>), TableError> {
        let entries: Vec<Arc<NodeEntry>> =
            self.nodes.values().map(|node| Arc::clone(&node.entry)).collect();
        // Almost always nothing is wrong, and then nobody's age matters.
        if let Ok(members) = Membership::check(overlay.clone(), local, entries) {
            return Ok((members, Vec::new()));
        }
        let mut by_age: Vec<&Candidate> = self.nodes.values().collect();
        by_age.sort_by_key(|node| node.since);
        let entries = by_age.into_iter().map(|node| Arc::clone(&node.entry)).collect::<Vec<_>>();
        Membership::admit(overlay.clone(), local, entries)
    }

    /// What the source could not understand: where, and why.
    pub fn unreadable(&self) -> &BTreeMap<String, String> {
        &self.unreadable
    }

    /// The nodes.
    pub fn nodes(&self) -> impl Iterator<Item = &Candidate> {
        self.nodes.values()
    }
}

#[cfg(test)]
mod tests {
    use overlay_proto::Vni;

    use super::*;
    use crate::engine::{Foreign, Speech};

    fn overlay() -> Overlay {
        let networks = vec!["10.244.0.0/16".parse().unwrap()];
        Overlay { vni: Vni::new(1).unwrap(), networks, port: 4790, foreign: Foreign::default() }
    }

    fn node(number: u8, since: u64) -> Candidate {
        let entry = NodeEntry {
            name: format!("node{number}"),
            address: [192, 168, 1, 10 + number].into(),
            subnets: vec![format!("10.244.{number}.0/24").parse().unwrap()],
            speech: Speech::default(),
        };
        Candidate { since, entry: entry.into() }
    }

    fn proposal(nodes: Vec<Candidate>) -> Proposal {
        let mut proposal = Proposal::default();
        assert!(proposal.take(Update::Everything(Proposal::of_nodes(nodes))));
        proposal
    }

    #[test]
    fn changes_follow_a_snapshot() {
        let mut proposal = proposal(vec![node(1, 1), node(2, 2)]);
        assert!(proposal.take(Update::Put(node(3, 3))));
        assert!(!proposal.take(Update::Put(node(3, 3))), "said twice is no change");
        assert!(proposal.take(Update::Remove("node2".into())));
        assert!(!proposal.take(Update::Remove("node2".into())));
        let (members, rejected) = proposal.members(&overlay(), "node1").unwrap();
        assert_eq!(members.peers().map(|peer| peer.name.as_str()).collect::<Vec<_>>(), ["node3"]);
        assert!(rejected.is_empty());
    }

    #[test]
    fn a_lost_source_changes_nothing() {
        let mut proposal = proposal(vec![node(1, 1), node(2, 2)]);
        let before = proposal.clone();
        for update in [
            Update::Lost("away".into()),
            Update::Refused("broken".into()),
            Update::Contested(Some("taken".into())),
        ] {
            assert!(!proposal.take(update));
        }
        assert_eq!(proposal, before);
    }

    #[test]
    fn of_two_rivals_the_older_stays_whatever_their_names() {
        let mut rival = node(2, 9);
        Arc::make_mut(&mut rival.entry).name = "a".into();
        let (members, rejected) =
            proposal(vec![node(1, 5), node(2, 1), rival]).members(&overlay(), "node1").unwrap();
        assert_eq!(members.peers().map(|peer| peer.name.as_str()).collect::<Vec<_>>(), ["node2"]);
        assert_eq!(rejected.len(), 1);
        assert_eq!(rejected[0].name, "a");
    }
}
