//! What the followed keys say, kept from a reading and the changes after it.
//!
//! Owns the way from keys to nodes. A value that makes no sense is skipped and reported, and costs
//! nobody else anything. Knows nothing of connections.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use serde::de::DeserializeOwned;

use super::choose::Occupied;
use super::keys::{Claim, Key, Keys, Problem, Reservation, Settings};
use super::protocol::{Event, KeyValue};
use crate::{Candidate, Update};

/// A claim, and when it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) claim: Claim,
    /// The value, where it is not written as this node would write it.
    text: Option<Vec<u8>>,
    pub(super) created: i64,
    pub(super) modified: i64,
    pub(super) lease: i64,
}

impl Held {
    fn new(kv: &KeyValue) -> Result<Self, Problem> {
        let claim: Claim = value(kv)?;
        let text = (claim.encode() != kv.value).then(|| kv.value.clone());
        let (created, modified, lease) = (kv.create_revision, kv.mod_revision, kv.lease);
        Ok(Self { claim, text, created, modified, lease })
    }

    /// The value of the key.
    pub(super) fn value(&self) -> Vec<u8> {
        self.text.clone().unwrap_or_else(|| self.claim.encode())
    }
}

/// The content of the followed keys.
#[derive(Clone, Debug)]
pub(super) struct Store {
    keys: Keys,
    /// With the key as it stands in etcd.
    pub(super) settings: Option<(Settings, KeyValue)>,
    pub(super) claims: BTreeMap<IpNet, Held>,
    pub(super) reservations: BTreeMap<IpNet, Option<String>>,
    by_node: BTreeMap<String, BTreeSet<IpNet>>,
    pub(super) foreign: BTreeMap<String, Problem>,
    /// Everything up to this revision is known.
    pub(super) revision: i64,
    /// The cluster's port, which nodes are checked against.
    port: u16,
}

impl Store {
    pub(super) fn load(keys: Keys, revision: i64, found: &[KeyValue]) -> Self {
        let mut store = Self {
            keys,
            settings: None,
            claims: BTreeMap::new(),
            reservations: BTreeMap::new(),
            by_node: BTreeMap::new(),
            foreign: BTreeMap::new(),
            revision,
            port: 0,
        };
        for key in found {
            store.put(key);
        }
        store
    }

    /// Goes by this port from now on.
    pub(super) fn set_port(&mut self, port: u16) {
        self.port = port;
    }

    /// Takes a change; says which nodes that concerns.
    pub(super) fn take(&mut self, event: &Event) -> BTreeSet<String> {
        let (Event::Put(KeyValue { mod_revision: revision, .. }) | Event::Delete { revision, .. }) =
            event;
        self.revision = self.revision.max(*revision);
        match event {
            Event::Put(kv) => self.put(kv),
            Event::Delete { key, .. } => self.delete(key),
        }
    }

    /// Takes a key as it is now; says which nodes that concerns.
    fn put(&mut self, kv: &KeyValue) -> BTreeSet<String> {
        let name = String::from_utf8_lossy(&kv.key).into_owned();
        let mut concerned = BTreeSet::new();
        self.foreign.remove(&name);
        let taken = self.keys.parse(&name).and_then(|key| match key {
            Key::Settings => {
                let settings: Settings = value(kv)?;
                match settings.fault() {
                    Some(fault) => return Err(fault.into()),
                    None => self.settings = Some((settings, kv.clone())),
                }
                Ok(())
            }
            Key::Reservation(subnet) => {
                self.reservations.insert(subnet, None);
                let reservation: Reservation = value(kv)?;
                self.reservations.insert(subnet, reservation.node);
                Ok(())
            }
            Key::Subnet(subnet) => {
                concerned.extend(self.forget(&subnet));
                let held = Held::new(kv)?;
                let node = &held.claim.node;
                concerned.insert(node.clone());
                self.by_node.entry(node.clone()).or_default().insert(subnet);
                self.claims.insert(subnet, held);
                Ok(())
            }
        });
        if let Err(problem) = taken {
            self.foreign.insert(name, problem);
        }
        concerned
    }

    /// Takes note that a key is gone; says which nodes that concerns.
    fn delete(&mut self, key: &[u8]) -> BTreeSet<String> {
        let name = String::from_utf8_lossy(key).into_owned();
        self.foreign.remove(&name);
        match self.keys.parse(&name) {
            Ok(Key::Settings) => self.settings = None,
            Ok(Key::Reservation(subnet)) => drop(self.reservations.remove(&subnet)),
            Ok(Key::Subnet(subnet)) => return self.forget(&subnet).into_iter().collect(),
            Err(_foreign) => {}
        }
        BTreeSet::new()
    }

    fn forget(&mut self, subnet: &IpNet) -> Option<String> {
        let node = self.claims.remove(subnet)?.claim.node;
        if let Some(subnets) = self.by_node.get_mut(&node) {
            subnets.remove(subnet);
            if subnets.is_empty() {
                self.by_node.remove(&node);
            }
        }
        Some(node)
    }

    /// The revision at which the settings were written last.
    pub(super) fn settings_revision(&self) -> Option<i64> {
        self.settings.as_ref().map(|(_, kv)| kv.mod_revision)
    }

    /// Every node that has a claim.
    pub(super) fn names(&self) -> impl Iterator<Item = &String> {
        self.by_node.keys()
    }

    /// The node `name` as its claims tell it; none if it has none, an error if they make no sense.
    pub(super) fn candidate(&self, name: &str) -> Option<Result<Candidate, (String, Problem)>> {
        let subnets = self.by_node.get(name)?;
        let held: Vec<(&IpNet, &Held)> =
            subnets.iter().filter_map(|subnet| self.claims.get_key_value(subnet)).collect();
        // While a node moves, its claims differ for a moment; the one written last is right.
        let (subnet, newest) = held.iter().max_by_key(|(_, held)| held.modified)?;
        let since = held.iter().map(|(_, held)| held.created).min()?;
        let entry =
            newest.claim.published.entry(name, subnets.iter().copied().collect(), self.port);
        Some(match entry {
            Ok(entry) => Ok(Candidate { since: since.unsigned_abs(), entry: entry.into() }),
            Err(problem) => Err((self.keys.subnet(subnet), Problem::Entry(problem))),
        })
    }

    /// What to say of the node `name`.
    pub(super) fn update(&self, name: &str) -> Update {
        match self.candidate(name) {
            Some(Ok(candidate)) => Update::Put(candidate),
            Some(Err(_)) | None => Update::Remove(name.to_owned()),
        }
    }

    /// Everything that cannot be understood.
    pub(super) fn problems(&self) -> BTreeMap<String, String> {
        let of_nodes = self.names().filter_map(|name| self.candidate(name)?.err());
        let all = self.foreign.clone().into_iter().chain(of_nodes);
        all.map(|(key, problem)| (key, problem.to_string())).collect()
    }

    /// What is wrong with `key` itself.
    pub(super) fn problem(&self, key: &[u8]) -> (String, Option<String>) {
        let key = String::from_utf8_lossy(key).into_owned();
        let problem = self.foreign.get(&key).map(Problem::to_string);
        (key, problem)
    }

    /// What nobody may claim but those for whom `is_ours` says so.
    pub(super) fn occupied(&self, name: &str, is_ours: impl Fn(&Claim) -> bool) -> Occupied {
        let mut occupied = Occupied::default();
        let claimed = self.claims.iter().filter(|(_, held)| !is_ours(&held.claim));
        let reserved = self.reservations.iter().filter(|(_, node)| node.as_deref() != Some(name));
        let foreign = self.foreign.keys().filter_map(|key| match self.keys.parse(key) {
            // Somebody wrote half a claim; what it is about is not free.
            Ok(Key::Subnet(subnet)) => Some(subnet),
            Ok(Key::Settings | Key::Reservation(_)) | Err(_) => None,
        });
        claimed
            .map(|(subnet, _)| *subnet)
            .chain(reserved.map(|(subnet, _)| *subnet))
            .chain(foreign)
            .for_each(|subnet| occupied.add(subnet));
        occupied
    }
}

pub(super) fn value<T: DeserializeOwned>(kv: &KeyValue) -> Result<T, Problem> {
    serde_json::from_slice(&kv.value).map_err(|error| Problem::Value(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kv(key: &str, value: &str, revision: i64) -> KeyValue {
        KeyValue {
            key: key.as_bytes().to_vec(),
            create_revision: revision,
            mod_revision: revision,
            value: value.as_bytes().to_vec(),
            lease: 7,
        }
    }

    fn claim(node: u8) -> String {
        format!(r#"{{"node":"node{node}","instance":"i{node}","address":"192.168.1.1{node}"}}"#)
    }

    fn store(found: &[KeyValue]) -> Store {
        let mut store = Store::load(Keys::new("/c"), 0, found);
        store.set_port(4790);
        store
    }

    #[test]
    fn claims_of_one_node_are_one_entry() {
        let store = store(&[
            kv("/c/subnets/10.244.1.0-24", &claim(1), 5),
            kv("/c/subnets/fd00:10:244:1::-64", &claim(1), 4),
            kv("/c/subnets/10.244.2.0-24", &claim(2), 6),
        ]);
        let one = store.candidate("node1").unwrap().unwrap();
        assert_eq!((one.entry.subnets.len(), one.since), (2, 4));
        assert_eq!(store.names().count(), 2);
    }

    #[test]
    fn half_written_and_foreign_values_are_reported_and_cost_nobody_else_anything() {
        let text = claim(1);
        let store = store(&[
            kv("/c/subnets/10.244.1.0-24", &text, 1),
            kv("/c/subnets/10.244.2.0-24", &text[..text.len() / 2], 2),
            kv("/c/subnets/10.244.3.0-24", "\u{fffd}", 3),
            kv("/c/subnets/elsewhere", &text, 4),
            kv("/c/reservations/10.244.9.0-24", "[", 5),
            kv("/c/config", "{}", 6),
        ]);
        assert_eq!(store.names().collect::<Vec<_>>(), ["node1"]);
        let problems = store.problems();
        assert_eq!(problems.len(), 5, "{problems:?}");
        assert!(problems["/c/subnets/10.244.2.0-24"].contains("correct or delete it"));
        let occupied = store.occupied("node2", |_| false);
        for subnet in ["10.244.1.0/24", "10.244.2.0/24", "10.244.9.0/24"] {
            assert!(!occupied.is_free(&subnet.parse().unwrap()), "{subnet}");
        }
        assert!(occupied.is_free(&"10.244.4.0/24".parse().unwrap()));
    }

    #[test]
    fn a_subnet_that_changes_hands_concerns_both() {
        let mut store = store(&[kv("/c/subnets/10.244.1.0-24", &claim(1), 1)]);
        let concerned = store.put(&kv("/c/subnets/10.244.1.0-24", &claim(2), 2));
        assert_eq!(concerned.into_iter().collect::<Vec<_>>(), ["node1", "node2"]);
        assert_eq!(store.update("node1"), Update::Remove("node1".into()));
        assert!(matches!(store.update("node2"), Update::Put(_)));
        let gone = store.delete(b"/c/subnets/10.244.1.0-24");
        assert_eq!(gone.into_iter().collect::<Vec<_>>(), ["node2"]);
        assert_eq!(store.names().count(), 0);
    }

    #[test]
    fn a_value_that_is_mended_is_no_problem_any_more() {
        let mut store = store(&[kv("/c/subnets/10.244.1.0-24", "{", 1)]);
        assert_eq!(store.problems().len(), 1);
        store.put(&kv("/c/subnets/10.244.1.0-24", &claim(1), 2));
        assert!(store.problems().is_empty());
        store.put(&kv("/c/subnets/bad", "{", 3));
        store.delete(b"/c/subnets/bad");
        assert!(store.problems().is_empty());
    }

    #[test]
    fn a_reservation_is_free_for_its_node_only() {
        let store = store(&[
            kv("/c/reservations/10.244.7.0-24", r#"{"node":"node7"}"#, 1),
            kv("/c/reservations/10.244.8.0-24", "{}", 1),
        ]);
        let free = |name: &str, subnet: &str| {
            store.occupied(name, |_| false).is_free(&subnet.parse().unwrap())
        };
        assert!(free("node7", "10.244.7.0/24") && !free("node6", "10.244.7.0/24"));
        assert!(!free("node7", "10.244.8.0/24"));
    }
}
