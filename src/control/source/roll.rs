//! What is known of the nodes at this moment, kept from a source's updates.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Candidate, Snapshot, Update};
use crate::engine::{Membership, NodeEntry, Overlay, Rejected, TableError};

/// The nodes that a source told of, by name, and what it could not understand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roll {
    nodes: BTreeMap<String, Candidate>,
    foreign: BTreeMap<String, String>,
}

impl Roll {
    /// Takes an update; says whether the nodes may be others than before.
    pub fn take(&mut self, update: Update) -> bool {
        match update {
            Update::Snapshot(Snapshot { nodes, foreign, .. }) => {
                let named = nodes.into_iter().map(|node| (node.entry.name.clone(), node));
                self.nodes = named.collect();
                self.foreign = foreign;
                true
            }
            Update::Put(node) => {
                let before = self.nodes.insert(node.entry.name.clone(), node.clone());
                before.as_ref() != Some(&node)
            }
            Update::Remove(name) => self.nodes.remove(&name).is_some(),
            Update::Foreign { key, problem: Some(problem) } => {
                self.foreign.insert(key, problem);
                false
            }
            Update::Foreign { key, problem: None } => {
                self.foreign.remove(&key);
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
    pub fn foreign(&self) -> &BTreeMap<String, String> {
        &self.foreign
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

    fn roll(nodes: Vec<Candidate>) -> Roll {
        let mut roll = Roll::default();
        assert!(roll.take(Update::Snapshot(Snapshot { nodes, ..Snapshot::default() })));
        roll
    }

    #[test]
    fn changes_follow_a_snapshot() {
        let mut roll = roll(vec![node(1, 1), node(2, 2)]);
        assert!(roll.take(Update::Put(node(3, 3))));
        assert!(!roll.take(Update::Put(node(3, 3))), "said twice is no change");
        assert!(roll.take(Update::Remove("node2".into())));
        assert!(!roll.take(Update::Remove("node2".into())));
        let (members, rejected) = roll.members(&overlay(), "node1").unwrap();
        assert_eq!(members.peers().map(|peer| peer.name.as_str()).collect::<Vec<_>>(), ["node3"]);
        assert!(rejected.is_empty());
    }

    #[test]
    fn a_lost_source_changes_nothing() {
        let mut roll = roll(vec![node(1, 1), node(2, 2)]);
        let before = roll.clone();
        for update in [
            Update::Lost("away".into()),
            Update::Refused("broken".into()),
            Update::Contested(Some("taken".into())),
        ] {
            assert!(!roll.take(update));
        }
        assert_eq!(roll, before);
    }

    #[test]
    fn of_two_rivals_the_older_stays_whatever_their_names() {
        let mut rival = node(2, 9);
        Arc::make_mut(&mut rival.entry).name = "a".into();
        let (members, rejected) =
            roll(vec![node(1, 5), node(2, 1), rival]).members(&overlay(), "node1").unwrap();
        assert_eq!(members.peers().map(|peer| peer.name.as_str()).collect::<Vec<_>>(), ["node2"]);
        assert_eq!(rejected.len(), 1);
        assert_eq!(rejected[0].name, "a");
    }
}
