//! What a source proposes: what the table should be made of, at this moment.
//!
//! Kept from the source's updates. Proposes only: what is in force is the daemon's.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::PathBuf;
use std::sync::Arc;

use culvert_membership::{Membership, NodeEntry, Overlay, Rejected, TableError};

use crate::{Candidate, Parameters, Update};

/// A table file as it was read, to say where in it a fault is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableText {
    /// The file.
    pub path: PathBuf,
    /// What stood in it.
    pub text: String,
}

/// Everything that a source knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proposal {
    /// What all nodes share, if the source holds it.
    pub parameters: Option<Parameters>,
    /// The nodes, by name.
    nodes: BTreeMap<String, Candidate>,
    /// Nodes of names that an older one has: a list may say anything.
    namesakes: Vec<Candidate>,
    /// Values that cannot be understood: where, and why.
    unreadable: BTreeMap<String, String>,
    /// The file that all of it stands in, if it is one. Such a list has one author, and is good or
    /// bad as a whole.
    file: Option<Arc<TableText>>,
}

impl Proposal {
    /// The nodes `nodes`, and nothing else.
    pub fn of_nodes(nodes: impl IntoIterator<Item = Candidate>) -> Self {
        let mut proposal = Self::default();
        for node in nodes {
            match proposal.nodes.entry(node.entry.name.clone()) {
                Entry::Vacant(place) => drop(place.insert(node)),
                Entry::Occupied(_) => proposal.namesakes.push(node),
            }
        }
        proposal
    }

    /// The `entries` of a table file, in its order.
    pub fn of_file(file: TableText, entries: Vec<NodeEntry>) -> Self {
        let nodes =
            (0..).zip(entries).map(|(since, entry)| Candidate { since, entry: entry.into() });
        Self { file: Some(file.into()), ..Self::of_nodes(nodes) }
    }

    /// The same with `parameters`.
    #[must_use]
    pub fn with_parameters(self, parameters: Parameters) -> Self {
        Self { parameters: Some(parameters), ..self }
    }

    /// The same with what cannot be understood: where it stands, and why.
    #[must_use]
    pub(crate) fn with_unreadable(self, unreadable: BTreeMap<String, String>) -> Self {
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

    /// The file that all of it stands in, if it is one: it is good or bad as a whole.
    pub fn file(&self) -> Option<&TableText> {
        self.file.as_deref()
    }

    /// The nodes, checked, and those that were left out.
    ///
    /// # Errors
    ///
    /// The node `local` is not among them, or is one that would be left out; or any would be, and
    /// the list is one author's.
    pub fn members(
        &self,
        overlay: &Overlay,
        local: &str,
    ) -> Result<(Membership, Vec<Rejected>), TableError> {
        let mut nodes: Vec<&Candidate> = self.nodes.values().chain(&self.namesakes).collect();
        let admit = |nodes: &[&Candidate]| {
            let entries: Vec<_> = nodes.iter().map(|node| Arc::clone(&node.entry)).collect();
            Membership::admit(overlay.clone(), local, entries)
        };
        let mut admitted = admit(&nodes);
        // Almost always nothing is wrong, and then nobody's age matters.
        if !matches!(&admitted, Ok((_, rejected)) if rejected.is_empty()) {
            nodes.sort_by_key(|node| node.since);
            admitted = admit(&nodes);
        }
        let (members, mut rejected) = admitted?;
        if self.file.is_some() && !rejected.is_empty() {
            return Err(rejected.swap_remove(0).error);
        }
        Ok((members, rejected))
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
    use culvert_membership::{Fault, Foreign, TunnelOptions};
    use overlay_proto::Vni;

    use super::*;

    fn overlay() -> Overlay {
        let networks = vec!["10.244.0.0/16".parse().unwrap()];
        Overlay { vni: Vni::new(1).unwrap(), networks, port: 4790, foreign: Foreign::default() }
    }

    fn node(number: u8, since: u64) -> Candidate {
        let entry = NodeEntry {
            name: format!("node{number}"),
            address: [192, 168, 1, 10 + number].into(),
            subnets: vec![format!("10.244.{number}.0/24").parse().unwrap()],
            tunnel_options: TunnelOptions::default(),
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
    fn of_a_list_with_one_name_twice_the_first_counts() {
        let mut twice = node(3, 2);
        Arc::make_mut(&mut twice.entry).name = "node2".into();
        let proposal = proposal(vec![node(1, 0), node(2, 1), twice]);
        let (members, rejected) = proposal.members(&overlay(), "node1").unwrap();
        assert_eq!(members.peers().next().unwrap().address, node(2, 1).entry.address);
        assert_eq!(rejected[0].error.fault, Fault::DuplicateName);
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
