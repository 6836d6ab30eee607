//! An etcd in memory: revisions, transactions, leases, watches, compaction, backups.

use std::collections::BTreeMap;
use std::time::Duration;

use culvert_claims::etcd::{Change, Compare, Event, Found, KeyValue, Transaction, Watched};

/// A database, as a backup holds it.
#[derive(Clone)]
pub(crate) struct Data {
    pub(crate) cluster: u64,
    pub(crate) revision: i64,
    pub(crate) keys: BTreeMap<String, KeyValue>,
    /// Length and end of each lease.
    pub(crate) leases: BTreeMap<i64, (Duration, Duration)>,
}

pub(crate) struct Store {
    pub(crate) data: Data,
    /// Changes up to this revision are forgotten.
    compacted: i64,
    history: Vec<(i64, Event)>,
    /// When each key was changed last, whether it is there or not.
    pub(crate) changed: BTreeMap<String, i64>,
    /// Counts the databases: one that was restored is another.
    pub(crate) epoch: u64,
    made: i64,
    /// Keys written or deleted by nodes.
    pub(crate) writes: u64,
}

fn text(key: &[u8]) -> String {
    String::from_utf8_lossy(key).into_owned()
}

impl Store {
    pub(crate) fn new() -> Self {
        let data = Data { cluster: 1, revision: 1, keys: BTreeMap::new(), leases: BTreeMap::new() };
        Self {
            data,
            compacted: 0,
            history: Vec::new(),
            changed: BTreeMap::new(),
            epoch: 0,
            made: 0,
            writes: 0,
        }
    }

    pub(crate) fn read(&self, first: &str, end: &str) -> Found {
        let keys = self.data.keys.range(first.to_owned()..end.to_owned());
        Found {
            cluster: self.data.cluster,
            revision: self.data.revision,
            keys: keys.map(|(_, kv)| kv.clone()).collect(),
        }
    }

    pub(crate) fn grant(&mut self, length: Duration, now: Duration) -> i64 {
        self.made += 1;
        // As etcd's, no two leases ever have one id, whatever becomes of the database.
        let id = self.made;
        self.data.leases.insert(id, (length, now + length));
        id
    }

    /// Says until when the lease lives now, if it does.
    pub(crate) fn keep_alive(&mut self, id: i64, now: Duration) -> Option<Duration> {
        let (length, end) = self.data.leases.get_mut(&id)?;
        *end = now + *length;
        Some(*end)
    }

    /// Ends a lease with its keys, if it is over; says whether it was.
    pub(crate) fn expire(&mut self, id: i64, now: Duration) -> bool {
        let is_over = self.data.leases.get(&id).is_some_and(|(_, end)| *end <= now);
        if is_over {
            self.revoke(id);
        }
        is_over
    }

    pub(crate) fn revoke(&mut self, id: i64) {
        self.data.leases.remove(&id);
        let gone: Vec<String> = self
            .data
            .keys
            .iter()
            .filter(|(_, kv)| kv.lease == id)
            .map(|(key, _)| key.clone())
            .collect();
        self.change(gone.into_iter().map(Change::Delete).collect());
    }

    /// What came of a transaction; an error if it names a lease that is gone.
    pub(crate) fn transact(&mut self, transaction: &Transaction) -> Result<bool, ()> {
        let holds = transaction.compare.iter().all(|compare| self.holds(compare));
        let known = |change: &Change| match change {
            Change::Put { lease, .. } => *lease == 0 || self.data.leases.contains_key(lease),
            Change::Delete(_) => true,
        };
        if !holds {
            return Ok(false);
        }
        if !transaction.changes.iter().all(known) {
            return Err(());
        }
        self.writes += transaction.changes.len() as u64;
        self.change(transaction.changes.clone());
        Ok(true)
    }

    fn holds(&self, compare: &Compare) -> bool {
        let keys = &self.data.keys;
        match compare {
            Compare::Absent(key) => !keys.contains_key(key),
            Compare::Value(key, value) => keys.get(key).is_some_and(|kv| kv.value == *value),
            Compare::Written(key, revision) => {
                keys.get(key).is_some_and(|kv| kv.mod_revision == *revision)
            }
            Compare::NotWrittenSince { first, end, revision } => keys
                .range(first.clone()..end.clone())
                .all(|(_, kv)| kv.mod_revision < *revision + 1),
        }
    }

    pub(crate) fn put(&mut self, key: &str, value: &str) {
        let (key, value) = (key.to_owned(), value.as_bytes().to_vec());
        self.change(vec![Change::Put { key, value, lease: 0 }]);
    }

    pub(crate) fn delete(&mut self, key: &str) {
        self.change(vec![Change::Delete(key.to_owned())]);
    }

    /// Deletes every key that begins so.
    pub(crate) fn delete_prefix(&mut self, prefix: &str) {
        let keys = self.data.keys.keys().filter(|key| key.starts_with(prefix)).cloned();
        let changes = keys.map(Change::Delete).collect();
        self.change(changes);
    }

    fn change(&mut self, changes: Vec<Change>) {
        let touched = changes.iter().any(|change| match change {
            Change::Put { .. } => true,
            Change::Delete(key) => self.data.keys.contains_key(key),
        });
        if !touched {
            return;
        }
        self.data.revision += 1;
        let revision = self.data.revision;
        for change in changes {
            let event = match change {
                Change::Put { key, value, lease } => {
                    let before = self.data.keys.get(&key);
                    let created = before.map_or(revision, |kv| kv.create_revision);
                    let kv = KeyValue {
                        key: key.clone().into_bytes(),
                        create_revision: created,
                        mod_revision: revision,
                        value,
                        lease,
                    };
                    self.data.keys.insert(key, kv.clone());
                    Event::Put(kv)
                }
                Change::Delete(key) => {
                    if self.data.keys.remove(&key).is_none() {
                        continue;
                    }
                    Event::Delete { key: key.into_bytes(), revision }
                }
            };
            let (Event::Put(KeyValue { key, .. }) | Event::Delete { key, .. }) = &event;
            self.changed.insert(text(key), revision);
            self.history.push((revision, event));
        }
    }

    /// What a watch of the range tells that has told everything before `from`; and from where it
    /// goes on.
    pub(crate) fn told(&self, first: &str, end: &str, from: i64) -> (Option<Watched>, i64) {
        if from <= self.compacted {
            return (Some(Watched::Compacted), from);
        }
        let start = self.history.partition_point(|(revision, _)| *revision < from);
        let events: Vec<Event> = self.history[start..]
            .iter()
            .filter(|(_, event)| {
                let (Event::Put(KeyValue { key, .. }) | Event::Delete { key, .. }) = event;
                key.as_slice() >= first.as_bytes() && key.as_slice() < end.as_bytes()
            })
            .map(|(_, event)| event.clone())
            .collect();
        let revision = self.data.revision;
        let next = from.max(revision + 1);
        ((!events.is_empty()).then_some(Watched::Events { revision, events }), next)
    }

    pub(crate) fn compact(&mut self) {
        self.compacted = self.data.revision;
        self.history.clear();
    }

    /// Becomes what a backup holds, or an empty one. Leases begin anew, as etcd has it.
    pub(crate) fn restore(&mut self, backup: Option<Data>, cluster: u64, now: Duration) {
        let empty = Data { cluster, revision: 1, keys: BTreeMap::new(), leases: BTreeMap::new() };
        self.data = backup.unwrap_or(empty);
        for (length, end) in self.data.leases.values_mut() {
            *end = now + *length;
        }
        self.history.clear();
        self.changed.clear();
        self.compacted = self.data.revision;
        self.epoch += 1;
    }
}
