//! Which attachment has which address.
//!
//! Owns the record of allocations of this node, kept in one SQLite file under `<stateDir>/ipam/`,
//! and the choice of the next address. Never changes network devices and never asks the daemon. Any
//! number of processes may use the store at once: every change is one transaction, so a process that
//! is killed leaves the state before it or after it. A process that finds the store locked waits for
//! its turn, and gives up after [`BUSY_TIMEOUT`].
//!
//! An address that was never used comes before one that was, and of those that were, the one that
//! was freed first; so an address rests as long as it can before another pod gets it. Each step is a
//! look-up by key, so the cost does not grow with the number of pods.

use std::path::{Path, PathBuf};

use ipnet::IpNet;
use rusqlite::{Connection, TransactionBehavior};

use crate::attachment::Attachment;

use self::change::Change;

mod address;
mod change;
mod error;
mod import;
mod live;
mod range;
mod record;
mod schema;
mod sweep;
#[cfg(test)]
mod tests;

pub use self::error::{Error, Full};
pub use self::import::{HostLocal, Import};
pub use self::live::{LivePod, Pulse, Pulses, live_pods};
pub use self::range::{InvalidRange, Range, Request};
pub use self::record::{Allocation, Namespace, Record, boot_id};
pub use self::schema::{BUSY_TIMEOUT, DATABASE, DIRECTORY, set_aside};
pub use self::sweep::{GRACE, Sweep};

/// The open store.
#[derive(Debug)]
pub struct Store {
    connection: Connection,
    path: PathBuf,
}

impl Store {
    /// Opens the store under `state_dir`, or says `None` if none was made yet.
    ///
    /// # Errors
    ///
    /// A file that cannot be opened or is not ours.
    pub fn open(state_dir: &Path) -> Result<Option<Self>, Error> {
        schema::open(state_dir)
    }

    /// Opens the store under `state_dir`, making it first if there is none.
    ///
    /// # Errors
    ///
    /// A file that cannot be opened, made or is not ours.
    pub fn open_or_create(state_dir: &Path) -> Result<Self, Error> {
        schema::open_or_create(state_dir)
    }

    /// Hands out one address for each family that `subnets` has, in the order of first appearance.
    ///
    /// Of several subnets of one family the first with room gives the address. All addresses are
    /// handed out, or none.
    ///
    /// # Errors
    ///
    /// As [`allocate_from`](Self::allocate_from).
    pub fn allocate(
        &mut self,
        attachment: &Attachment,
        netns: &Path,
        subnets: &[IpNet],
    ) -> Result<Vec<Allocation>, Error> {
        self.allocate_from(attachment, netns, &Request::one_of_each_family(subnets))
    }

    /// Hands out what `request` asks for: one address out of each set, in the order of the sets.
    ///
    /// All addresses are handed out, or none. `netns` is the path of the pod's namespace.
    ///
    /// # Errors
    ///
    /// Nothing to choose from, no room, a requested address that is taken or not for pods, an
    /// attachment that has addresses already, or an unusable store.
    pub fn allocate_from(
        &mut self,
        attachment: &Attachment,
        netns: &Path,
        request: &Request,
    ) -> Result<Vec<Allocation>, Error> {
        if request.sets.is_empty() {
            return Err(Error::NoSubnet);
        }
        self.change("allocate in", |change| change.allocate(attachment, netns, request))
    }

    /// Frees every address of `attachment` and says how many there were.
    ///
    /// # Errors
    ///
    /// An unusable store. That there is nothing to free is no error.
    pub fn release(&mut self, attachment: &Attachment) -> Result<usize, Error> {
        self.change("release in", |change| change.release(attachment))
    }

    /// Frees every address of `network` whose attachment is not in `valid`, which lists container id
    /// and interface name, and says what they were.
    ///
    /// # Errors
    ///
    /// An unusable store.
    pub fn release_except(
        &mut self,
        network: &str,
        valid: &[(String, String)],
    ) -> Result<Vec<Record>, Error> {
        let valid: std::collections::HashSet<(&str, &str)> =
            valid.iter().map(|(container, ifname)| (container.as_str(), ifname.as_str())).collect();
        self.change("release in", |change| {
            let mut records = change.query("WHERE a.network = ?1 ORDER BY a.address", [network])?;
            records.retain(|record| {
                let attachment = &record.attachment;
                !valid.contains(&(attachment.container(), attachment.ifname()))
            });
            for record in &records {
                change.release_address(record.allocation.address)?;
            }
            Ok(records)
        })
    }

    /// Frees the addresses of `records`, except those that have changed hands since they were read.
    ///
    /// Says which were freed.
    ///
    /// # Errors
    ///
    /// An unusable store.
    pub fn release_unchanged(&mut self, records: &[Record]) -> Result<Vec<Record>, Error> {
        self.change("release in", |change| {
            let mut freed = Vec::new();
            for record in records {
                if change.records_of(&record.attachment)?.contains(record) {
                    change.release_address(record.allocation.address)?;
                    freed.push(record.clone());
                }
            }
            Ok(freed)
        })
    }

    /// The addresses of `attachment`, IPv4 first.
    ///
    /// # Errors
    ///
    /// An unusable store.
    pub fn allocations_of(&mut self, attachment: &Attachment) -> Result<Vec<Allocation>, Error> {
        let records = self.records_of(attachment)?;
        Ok(records.into_iter().map(|record| record.allocation).collect())
    }

    /// Everything about the addresses of `attachment`, IPv4 first.
    ///
    /// # Errors
    ///
    /// An unusable store.
    pub fn records_of(&mut self, attachment: &Attachment) -> Result<Vec<Record>, Error> {
        self.read(|change| change.records_of(attachment))
    }

    /// Everything in the store, sorted by family and address.
    ///
    /// # Errors
    ///
    /// An unusable store.
    pub fn records(&mut self) -> Result<Vec<Record>, Error> {
        self.read(|change| change.query("ORDER BY a.address", []))
    }

    /// Looks through the whole file and says what is wrong with it.
    ///
    /// # Errors
    ///
    /// A file so broken that it cannot even be looked through.
    pub fn faults(&mut self) -> Result<Vec<String>, Error> {
        schema::faults(self)
    }

    /// Flushes what was changed to the disk, which a single ADD or DEL does not need.
    fn flush(&mut self) -> Result<(), Error> {
        schema::flush(self)
    }

    /// Runs `work` in one transaction that changes nothing.
    fn read<T>(&mut self, work: impl FnOnce(&Change<'_>) -> Result<T, Error>) -> Result<T, Error> {
        let path = &self.path;
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Deferred)
            .map_err(Error::database("read", path))?;
        work(&Change { transaction, path })
    }

    /// Runs `work` in one transaction that holds the write lock from its first statement.
    ///
    /// A deferred transaction would read first and could then fail to upgrade, which no waiting cures.
    fn change<T>(
        &mut self,
        op: &'static str,
        work: impl FnOnce(&Change<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let value = {
            let path = &self.path;
            let transaction = self
                .connection
                .transaction_with_behavior(TransactionBehavior::Immediate)
                .map_err(Error::database(op, path))?;
            let change = Change { transaction, path };
            let value = work(&change)?;
            change.transaction.commit().map_err(Error::database(op, path))?;
            value
        };
        schema::fold_long_log(self);
        Ok(value)
    }
}
