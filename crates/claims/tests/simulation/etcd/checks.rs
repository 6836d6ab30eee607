//! What must hold of claims.

use std::collections::BTreeMap;

use culvert_claims::NodeKeys;
use culvert_claims::etcd::{Change, Compare, KeyValue, Transaction};
use ipnet::IpNet;

use super::Etcd;
use super::marks::{self, Marks};
use super::protocol::Answered;
use crate::harness::{Held, World};
use crate::report::Violation;

/// A key that a transaction is about, as it was before.
struct Before {
    subnet: IpNet,
    put: bool,
    owner: Option<Marks>,
}

impl World<Etcd> {
    /// Makes a transaction of a node, unless it does what no node may. `asker` are the marks of the
    /// node when it asked: by the time that this arrives it can have moved, or have another disk.
    pub(super) fn transact(
        &mut self,
        node: usize,
        transaction: &Transaction,
        asker: &Marks,
    ) -> Result<Answered, Violation> {
        let before = self.protocol.touched(transaction);
        let Ok(done) = self.protocol.store.transact(transaction) else {
            self.say(|| format!("node {node}: no such lease"));
            self.count("a lease was gone when it was used");
            return Ok(Answered::NoLease);
        };
        self.say(|| format!("node {node}: {}", if done { "done" } else { "too late" }));
        if transaction.compare.iter().any(|it| matches!(it, Compare::NotWrittenSince { .. })) {
            self.count(if done {
                "a subnet of another length was claimed"
            } else {
                "a claim of another length was too late"
            });
        }
        if done {
            for key in before {
                self.check_change(node, &key, asker)?;
            }
        }
        Ok(Answered::Done(done))
    }

    /// No node takes a subnet from another, or claims one beside an overlapping one.
    fn check_change(&mut self, node: usize, key: &Before, asker: &Marks) -> Held {
        let Before { subnet, put, owner } = key;
        if let Some(owner) = owner {
            if !asker.own(owner) {
                return Err(Violation::new(
                    "two nodes never own one subnet",
                    format!("node {node} takes {subnet} from {}", owner.node),
                ));
            }
            let it = &self.nodes[node];
            if !(Marks { address: it.own.address, ..Marks::of(it) }).own(owner) {
                self.count("a node kept its subnet by a mark that it had lost meanwhile");
            }
        }
        if !put {
            return Ok(());
        }
        self.count("a subnet was claimed");
        match self.protocol.overlapping(subnet, asker) {
            Some(other) => Err(Violation::new(
                "two nodes never own one subnet",
                format!("node {node} claims {subnet} beside {other}"),
            )),
            None => Ok(()),
        }
    }

    /// A node that knows everything of its subnets, and has nothing to do, owns them or says that
    /// it does not.
    pub(super) fn check_followed(&self, node: usize) -> Held {
        let (it, store) = (&self.nodes[node], &self.protocol.store);
        if it.own.seen.0 != store.epoch || it.contested.is_some() || !it.watched.is_empty() {
            return Ok(());
        }
        for subnet in it.own.claims.memory().subnets() {
            let key = marks::key(subnet);
            let changed = store.changed.get(&key).copied().unwrap_or_default();
            if changed <= it.own.seen.1 && !self.is_held_by(node, subnet) {
                return Err(Violation::new(
                    "the loser of a conflict says so",
                    format!("node {node} knows that {key} is not its own, and says nothing"),
                ));
            }
        }
        Ok(())
    }

    /// Whether the store has the subnet as that node's.
    fn is_held_by(&self, node: usize, subnet: &IpNet) -> bool {
        let owner = self.protocol.owner(&marks::key(subnet));
        owner.is_some_and(|owner| Marks::of(&self.nodes[node]).own(&owner))
    }

    /// Every node owns what it goes by, or says that it does not.
    pub(super) fn check_owners(&self) -> Held {
        let silent = |node: &usize| self.nodes[*node].runs && self.nodes[*node].contested.is_none();
        (0..self.nodes.len()).filter(silent).try_for_each(|node| self.check_owner(node))
    }

    fn check_owner(&self, node: usize) -> Held {
        let own = self.nodes[node].in_force();
        match own.iter().find(|subnet| !self.is_held_by(node, subnet)) {
            Some(subnet) => Err(Violation::new(
                "the loser of a conflict says so",
                format!("node {node} has {subnet}, which is not its own in the store"),
            )),
            None => Ok(()),
        }
    }

    /// Every node that runs has a subnet of each network, and all know the same.
    pub(super) fn check_all(&self) -> Held {
        let running = || self.nodes.iter().enumerate().filter(|(_, node)| node.runs);
        let mut expected: BTreeMap<String, (Vec<IpNet>, NodeKeys)> = BTreeMap::new();
        for (number, node) in running() {
            let in_force = node.in_force();
            let networks = self.protocol.written.networks.iter();
            let missing = networks
                .map(|network| network.parse::<IpNet>().unwrap())
                .find(|network| !in_force.iter().any(|subnet| network.contains(subnet)));
            let fault = match (&node.contested, missing) {
                (Some(reason), _) => Some(reason.clone()),
                (None, Some(network)) => Some(format!("none of {network}")),
                (None, None) => None,
            };
            if let Some(fault) = fault {
                let detail = format!("node {number} has {in_force:?}: {fault}");
                return Err(Violation::new("every node ends with a subnet", detail));
            }
            self.check_owner(number)?;
            let keys = node.public_keys();
            expected.insert(node.name.clone(), (sorted(in_force), keys));
        }
        let all = sorted(expected.values().flat_map(|(subnets, _)| subnets).copied().collect());
        if let Some(pair) = all.windows(2).find(|pair| pair[0].contains(&pair[1])) {
            return Err(Violation::new("two nodes never own one subnet", format!("{pair:?}")));
        }
        for (number, node) in running() {
            let entries = node.daemon.table.nodes().map(|node| &node.entry);
            let entries = entries.filter(|entry| entry.name != "thief");
            let known: BTreeMap<String, (Vec<IpNet>, NodeKeys)> = entries
                .map(|entry| {
                    let keys = entry.tunnel_options.keys;
                    (entry.name.clone(), (sorted(entry.subnets.clone()), keys))
                })
                .collect();
            let unreadable = node.daemon.table.unreadable();
            if known != expected || !unreadable.is_empty() {
                let detail = format!(
                    "node {number} knows {known:?}, and there is {expected:?}; {unreadable:?}"
                );
                return Err(Violation::new("all nodes know the same in the end", detail));
            }
        }
        Ok(())
    }
}

impl Etcd {
    /// Who has the key, if that is somebody.
    fn owner(&self, key: &str) -> Option<Marks> {
        Marks::read(&self.store.data.keys.get(key)?.value)
    }

    /// The subnets' keys that a transaction changes, as they are.
    fn touched(&self, transaction: &Transaction) -> Vec<Before> {
        let changes = transaction.changes.iter().filter_map(|change| {
            let (Change::Put { key, .. } | Change::Delete(key)) = change;
            let put = matches!(change, Change::Put { .. });
            Some(Before { subnet: marks::subnet(key)?, put, owner: self.owner(key) })
        });
        changes.collect()
    }

    /// The key of a claim of somebody else that has addresses in common with the subnet.
    fn overlapping(&self, subnet: &IpNet, asker: &Marks) -> Option<&String> {
        let foreign = |kv: &KeyValue| {
            let owner = Marks::read(&kv.value);
            owner.is_some_and(|owner| !asker.own(&owner) && !owner.instance.starts_with("thief"))
        };
        let overlaps = |key: &str| {
            let other = marks::subnet(key);
            other.is_some_and(|other| other.contains(subnet) || subnet.contains(&other))
        };
        let mut keys = self.store.data.keys.iter();
        keys.find(|(key, kv)| overlaps(key) && foreign(kv)).map(|(key, _)| key)
    }
}

fn sorted(mut subnets: Vec<IpNet>) -> Vec<IpNet> {
    subnets.sort();
    subnets
}
