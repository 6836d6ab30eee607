//! The other nodes, as this one has told the daemon of them.
//!
//! Pure. Owns the patience with a database that is not the one it was: nodes that it lacks stay for
//! a while, because each of them needs a moment to claim again what it had.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::store::Store;
use crate::{Candidate, Update};

/// If etcd was reset or restored, nodes missing from it stay in the table this long, so that they
/// can claim their subnets again.
const GRACE: Duration = Duration::from_secs(300);

#[derive(Debug, Default)]
pub(super) struct Peers {
    /// What was told of them.
    told: BTreeMap<String, Candidate>,
    /// Nodes that stay although the database does not have them, and until when.
    retained: BTreeMap<String, Candidate>,
    retained_until: Option<Instant>,
    /// Nodes that this one cannot speak to, and the key that says so.
    unspoken: BTreeMap<String, String>,
}

impl Peers {
    /// Peers that an earlier daemon of the node `own` knew.
    pub(super) fn new(own: &str, known: Vec<Candidate>) -> Self {
        let others = known.into_iter().filter(|found| found.entry.name != own);
        let told = others.map(|found| (found.entry.name.clone(), found)).collect();
        Self { told, ..Self::default() }
    }

    /// Whether a node is in the table that the database does not have.
    pub(super) fn is_patient(&self) -> bool {
        !self.retained.is_empty()
    }

    /// Subnets of nodes that stay although the database does not have them, or, if it is `another`
    /// than before, are about to.
    pub(super) fn missing_subnets(&self, store: &Store, another: bool) -> Vec<IpNet> {
        let told = self.told.values().filter(|_| another);
        let missing = told
            .chain(self.retained.values())
            .filter(|node| store.candidate(&node.entry.name).is_none());
        missing.flat_map(|node| node.entry.subnets.clone()).collect()
    }

    /// Takes everything that was read. In a database that is `another` than before, nodes that are
    /// missing stay.
    pub(super) fn read(&mut self, own: &str, store: &Store, another: bool, now: Instant) {
        let known: BTreeMap<String, Candidate> = store
            .names()
            .filter(|name| *name != own)
            .filter_map(|name| Some((name.clone(), store.candidate(name)?.ok()?)))
            .collect();
        if another {
            self.retained.append(&mut self.told);
            self.retained_until = Some(now + GRACE);
            tracing::warn!(
                nodes = self.retained.len(),
                "etcd is not the database it was; nodes that it lacks stay for {} minutes",
                GRACE.as_secs() / 60
            );
        }
        self.retained.retain(|name, _| !known.contains_key(name));
        self.told = known;
        let unspoken = store.names().filter_map(|name| {
            let (key, _) = store.candidate(name)?.err()?;
            Some((name.clone(), key))
        });
        self.unspoken = unspoken.collect();
    }

    /// All of them, for a snapshot.
    pub(super) fn all(&self) -> impl Iterator<Item = Candidate> {
        self.told.values().chain(self.retained.values()).cloned()
    }

    /// What to tell of a node that has changed.
    pub(super) fn change(&mut self, name: &str, store: &Store) -> Vec<Update> {
        let mut updates = Vec::new();
        if let Some(key) = self.unspoken.remove(name) {
            updates.push(Update::Unreadable { key, problem: None });
        }
        if let Some(Err((key, problem))) = store.candidate(name) {
            self.unspoken.insert(name.to_owned(), key.clone());
            updates.push(Update::Unreadable { key, problem: Some(problem.to_string()) });
        }
        let update = store.update(name);
        if let Update::Put(candidate) = &update {
            self.told.insert(name.to_owned(), candidate.clone());
        } else {
            self.told.remove(name);
        }
        self.retained.remove(name);
        updates.push(update);
        updates
    }

    /// Lets go of nodes that have not come back in time.
    pub(super) fn forget(&mut self, now: Instant, store: &Store) -> Vec<Update> {
        if self.retained_until.is_none_or(|until| now < until) {
            return Vec::new();
        }
        self.retained_until = None;
        std::mem::take(&mut self.retained).keys().map(|name| store.update(name)).collect()
    }
}
