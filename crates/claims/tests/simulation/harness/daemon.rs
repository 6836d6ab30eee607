//! A daemon: takes what its source tells, late and in parts, and says whether pods may be attached.

use std::collections::{BTreeSet, VecDeque};

use culvert_claims::{Proposal, Update};
use ipnet::IpNet;

/// What the daemon makes of what it is told.
#[derive(Default)]
pub(crate) struct Daemon {
    /// What was told; of a whole table, whether it must have every node of the one before.
    pub(crate) queue: VecDeque<(Update, bool)>,
    pub(crate) table: Proposal,
    pub(crate) contested: Option<String>,
    /// Whether the source has told everything.
    pub(crate) heard: bool,
    /// Whether the plugin may attach pods.
    pub(crate) ready: bool,
    /// Whether it ever could with this daemon.
    pub(crate) was_ready: bool,
}

/// What changed when updates were taken.
pub(crate) struct Taken {
    /// Whether pods may be attached now and could not before, or the other way round.
    pub(crate) turned: bool,
    /// A node that the table lost, and should not have.
    pub(crate) dropped: Option<String>,
}

impl Daemon {
    /// The subnets that the node `name` goes by.
    pub(crate) fn in_force(&self, name: &str) -> Vec<IpNet> {
        let own = self.table.nodes().find(|node| node.entry.name == name);
        own.map(|node| node.entry.subnets.clone()).unwrap_or_default()
    }

    /// Takes of what waits at most so much; `name` is its node's.
    pub(crate) fn take_updates(&mut self, name: &str, most: usize) -> Taken {
        let mut dropped = None;
        for _ in 0..most.min(self.queue.len()) {
            let Some((update, keeps)) = self.queue.pop_front() else { break };
            match &update {
                Update::Contested(reason) => self.contested.clone_from(reason),
                Update::Everything(_) => self.heard = true,
                _ => {}
            }
            let before = if keeps { self.names() } else { BTreeSet::new() };
            self.table.take(update);
            if keeps {
                dropped = dropped.or_else(|| before.difference(&self.names()).next().cloned());
            }
        }
        let ready = self.contested.is_none() && !self.in_force(name).is_empty();
        self.was_ready |= ready;
        Taken { turned: std::mem::replace(&mut self.ready, ready) != ready, dropped }
    }

    /// A subnet of the node `name` of which pods may get addresses, although it is about to go.
    pub(crate) fn about_to_go(&self, name: &str) -> Option<IpNet> {
        if !self.ready || self.queue.is_empty() {
            return None;
        }
        let in_force = self.in_force(name);
        let closed = |update: &Update| matches!(update, Update::Contested(Some(_)));
        let next = self.queue.iter().map(|(update, _)| update).take_while(|update| !closed(update));
        let mut own = next.filter_map(|update| own_subnets(update, name));
        own.find_map(|kept| in_force.iter().find(|subnet| !kept.contains(subnet)).copied())
    }

    fn names(&self) -> BTreeSet<String> {
        self.table.nodes().map(|node| node.entry.name.clone()).collect()
    }
}

/// What an update says of the subnets of the node `name`, if anything.
fn own_subnets<'a>(update: &'a Update, name: &str) -> Option<&'a [IpNet]> {
    let own = match update {
        Update::Everything(proposal) => proposal.nodes().find(|node| node.entry.name == name),
        Update::Put(node) => (node.entry.name == name).then_some(node),
        _ => None,
    };
    own.map(|node| node.entry.subnets.as_slice())
}
