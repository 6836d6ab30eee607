//! What the claim protocol asks of etcd and of this machine, and what it hears, as plain values.
//!
//! A driver carries them out and brings back the answers; a simulation does the same with a store
//! in memory. Nothing here knows of connections.

use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::failure::Failure;
use super::memory::Memory;

/// A key, with its value and when it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: Vec<u8>,
    /// The revision at which it was written first.
    pub create_revision: i64,
    /// The revision at which it was written last.
    pub mod_revision: i64,
    /// Its value.
    pub value: Vec<u8>,
    /// Id of the lease that it lives with; 0 if none.
    pub lease: i64,
}

/// What a range of keys held at one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Id of the etcd cluster.
    pub cluster: u64,
    /// The revision at which everything was read.
    pub revision: i64,
    /// The keys, in their order.
    pub keys: Vec<KeyValue>,
}

/// What must hold for a transaction to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compare {
    /// There is no such key.
    Absent(String),
    /// The key has this value. Unlike a revision, a value with the owner in it cannot mean another
    /// thing in a database that was restored meanwhile.
    Value(String, Vec<u8>),
    /// The key was written last at this revision.
    Written(String, i64),
    /// No key of a range that there is was written after a revision.
    NotWrittenSince {
        /// First key of the range.
        first: String,
        /// First key after the range.
        end: String,
        /// The revision.
        revision: i64,
    },
}

/// What a transaction does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Writes a key, for as long as the lease lives (for ever, if 0).
    Put {
        /// The key.
        key: String,
        /// Its new value.
        value: Vec<u8>,
        /// Id of the lease.
        lease: i64,
    },
    /// Removes a key.
    Delete(String),
}

/// Does all of `changes` if all of `compare` holds, and otherwise nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transaction {
    /// What must hold.
    pub compare: Vec<Compare>,
    /// What is done then.
    pub changes: Vec<Change>,
}

/// A change of a key that is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The key was written.
    Put(KeyValue),
    /// The key is gone.
    Delete {
        /// The key.
        key: Vec<u8>,
        /// The revision at which it went.
        revision: i64,
    },
}

/// What a watch tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Watched {
    /// Changes, in their order.
    Events {
        /// The database's revision when they were sent.
        revision: i64,
        /// The changes.
        events: Vec<Event>,
    },
    /// Changes that were not told yet are forgotten.
    Compacted,
    /// etcd has ended the watch, for this reason.
    Canceled(String),
}

/// What is to be done next. Updates that the machine has ready are told first.
#[derive(Debug)]
pub enum Request {
    /// Read every key from `first` to before `end`.
    Read {
        /// First key of the range.
        first: String,
        /// First key after the range.
        end: String,
    },
    /// Read these keys.
    Keys(Vec<String>),
    /// Ask for a lease of this length.
    Grant(Duration),
    /// Renew a lease.
    KeepAlive(i64),
    /// Make a transaction.
    Transact(Transaction),
    /// Wait until the daemon has heard every update so far.
    Heard,
    /// Look which addresses in these subnets pods hold.
    Pods(Vec<IpNet>),
    /// Write this to the disk.
    Remember(Memory),
    /// Have the changes of the keys from `first` to before `end` told, from `revision` on.
    Watch {
        /// First key of the range.
        first: String,
        /// First key after the range.
        end: String,
        /// The first revision to tell of.
        revision: i64,
    },
    /// Nothing: wait for the watch, for news of this machine, or for this moment.
    Wait(Instant),
    /// End the session.
    End(Ended),
}

/// Why a session ended.
#[derive(Debug)]
pub enum Ended {
    /// Everything is to be read again.
    Asked,
    /// Another node was faster; what is known is out of date.
    Raced,
    /// Something failed, which is tried again after a while.
    Failed(Failure),
}
