//! Which attachment has which address.
//!
//! Owns the record of allocations of this node, kept in one SQLite file under `<stateDir>/ipam/`,
//! and the choice of the next address. Never changes network devices and never asks the daemon. Any
//! number of processes may use the store at once: every change is one transaction, so a process
//! that is killed leaves the state before it or after it. A process that finds the store locked
//! waits for its turn, and gives up after [`BUSY_TIMEOUT`].
//!
//! The notes on the pods' ports ([`Ports`]) are the truth about running pods, and the store is what
//! makes a choice quick and what remembers the order in which addresses were freed. So a store that
//! is lost is made anew from the notes, and an address that a note holds is never given away: see
//! [`Store::follow`].
//!
//! An address that was never used comes before one that was, and of those that were, the one that
//! was freed first; so an address rests as long as it can before another pod gets it. Each step is
//! a look-up by key, so the cost does not grow with the number of pods.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, TransactionBehavior};

use crate::attachment::Attachment;

use self::change::Change;

mod address;
mod change;
mod error;
mod export;
mod import;
mod live;
mod noted;
mod ports;
mod range;
mod record;
mod schema;
mod stamp;
mod sweep;
#[cfg(test)]
mod tests;

use self::noted::Noted;
use self::stamp::Stamp;

pub use self::change::Grant;
pub use self::error::{Error, Full};
pub use self::export::to_host_local;
pub use self::import::{HostLocal, Import};
pub use self::live::{LivePod, LivePods, Pulse, live_pods};
pub use self::ports::{Ports, Survey, Surveyor};
pub use self::range::{Range, Request};
pub use self::record::{Allocation, Namespace, Record, boot_id};
pub use self::schema::{BUSY_TIMEOUT, DATABASE, DIRECTORY, Restored};
pub use self::sweep::{GRACE, Sweep, Swept};

/// The open store.
#[derive(Debug)]
pub struct Store {
    connection: Connection,
    path: PathBuf,
    /// What makes the file another one than any that was at this path before.
    file: (u64, u64),
    restored: Option<Restored>,
    stamp: Option<Stamp>,
}

impl Store {
    /// Opens the store under `state_dir`, or says `None` if there is no file.
    ///
    /// That there is no file does not mean that there are no pods.
    ///
    /// # Errors
    ///
    /// A file that cannot be opened or is not ours.
    pub fn open(state_dir: &Path) -> Result<Option<Self>, Error> {
        schema::open(state_dir)
    }

    /// Opens the store under `state_dir`; one that is missing or damaged is first made anew, with
    /// the pods that `survey` finds.
    ///
    /// # Errors
    ///
    /// A file that cannot be opened or made, or is of a later version, or a kernel that does not
    /// answer.
    pub fn open_or_create(state_dir: &Path, survey: &mut dyn Survey) -> Result<Self, Error> {
        match schema::open(state_dir) {
            Ok(Some(store)) => Ok(store),
            Err(error) if !error.is_damage() => Err(error),
            Ok(None) | Err(_) => schema::restore(state_dir, survey),
        }
    }

    /// As [`open_or_create`](Self::open_or_create), but says `None` where there is neither a file
    /// nor a pod; nothing is made then.
    ///
    /// # Errors
    ///
    /// As [`open_or_create`](Self::open_or_create).
    pub fn open_unless_unused(
        state_dir: &Path,
        survey: &mut dyn Survey,
    ) -> Result<Option<Self>, Error> {
        match schema::open(state_dir) {
            Ok(Some(store)) => Ok(Some(store)),
            Ok(None) if survey.look()?.pods.is_empty() => Ok(None),
            Err(error) if !error.is_damage() => Err(error),
            Ok(None) | Err(_) => schema::restore(state_dir, survey).map(Some),
        }
    }

    /// Looks through the whole file; one that is damaged is made anew, with the pods that `survey`
    /// finds.
    ///
    /// # Errors
    ///
    /// A file that cannot be read, moved or made, or a kernel that does not answer.
    pub fn examined(mut self, survey: &mut dyn Survey) -> Result<Self, Error> {
        match schema::whole_records(&mut self) {
            Ok(_) => Ok(self),
            Err(error) if !error.is_damage() => Err(error),
            Err(_) => schema::restore(&self.state_dir(), survey),
        }
    }

    fn state_dir(&self) -> PathBuf {
        let state_dir = self.path.ancestors().nth(2);
        state_dir.expect("the file is two levels down").to_owned()
    }

    /// Makes the store under `state_dir` anew, sound or not, with the pods that `survey` finds. The
    /// old file is kept beside it.
    ///
    /// # Errors
    ///
    /// A file that cannot be moved or made, or a kernel that does not answer.
    pub fn rebuild(state_dir: &Path, survey: &mut dyn Survey) -> Result<Self, Error> {
        schema::rebuild(state_dir, survey)
    }

    /// Goes by what `run_dir` says of the store's last change, and says there what is changed here.
    ///
    /// As long as all do that who change the store, an allocation need not ask the kernel which
    /// addresses the notes on ports hold. A store that is changed in any other way, replaced or put
    /// back from a copy is compared with the notes by the next allocation.
    pub fn follow(&mut self, run_dir: &Path) {
        self.stamp = Some(Stamp::in_directory(run_dir));
    }

    /// What was done to open a store that was lost; nothing, if it was not lost.
    #[must_use]
    pub fn restored(&self) -> Option<&Restored> {
        self.restored.as_ref()
    }

    /// Hands out what `request` asks for: one address out of each set, in the order of the sets,
    /// and a MAC address.
    ///
    /// All of it is handed out, or nothing, and nothing that a note of `survey` holds. `netns` is
    /// the path of the pod's namespace. A store that turns out to be damaged is made anew first.
    ///
    /// # Errors
    ///
    /// Nothing to choose from, no room, a requested address that is taken or not for pods, an
    /// attachment that has addresses already, an unusable store, or a kernel that does not answer.
    pub fn allocate(
        &mut self,
        attachment: &Attachment,
        netns: &Path,
        request: &Request,
        survey: &mut dyn Survey,
    ) -> Result<Grant, Error> {
        if request.sets.is_empty() {
            return Err(Error::NoSubnet);
        }
        match self.try_allocate(attachment, netns, request, survey) {
            Err(error) if error.is_damage() => {
                let stamp = self.stamp.take();
                *self = Self { stamp, ..schema::restore(&self.state_dir(), survey)? };
                self.try_allocate(attachment, netns, request, survey)
            }
            outcome => outcome,
        }
    }

    fn try_allocate(
        &mut self,
        attachment: &Attachment,
        netns: &Path,
        request: &Request,
        survey: &mut dyn Survey,
    ) -> Result<Grant, Error> {
        let mut noted = Noted::new(survey);
        self.change("allocate in", |change| change.allocate(attachment, netns, request, &mut noted))
    }

    /// Makes sure that `attachment` still holds what it was given, now that its port bears a note.
    ///
    /// If the store was lost in between, whoever made it anew did not see the note, and may have
    /// given the addresses to another pod.
    ///
    /// # Errors
    ///
    /// The file was replaced, or does not have the addresses any more.
    pub fn confirm(
        &mut self,
        attachment: &Attachment,
        allocations: &[Allocation],
    ) -> Result<(), Error> {
        let is_same_file = schema::identity(&self.path).is_ok_and(|file| file == self.file);
        let held = self.allocations_of(attachment)?;
        if is_same_file && allocations.iter().all(|allocation| held.contains(allocation)) {
            return Ok(());
        }
        Err(Error::Replaced { path: self.path.clone() })
    }

    /// Writes down every address that a note of `survey` holds and the store does not; says how
    /// many there were.
    ///
    /// # Errors
    ///
    /// An unusable store, or a kernel that does not answer.
    pub fn adopt(&mut self, survey: &mut dyn Survey) -> Result<usize, Error> {
        let ports = survey.look()?;
        let lacks = self.read(|change| {
            for (_, address) in ports.addresses() {
                if change.holder(address.addr())?.is_none() {
                    return Ok(true);
                }
            }
            Ok(false)
        })?;
        if !lacks {
            return Ok(0);
        }
        // Once more, while no pod comes or goes in the store.
        self.change("rebuild", |change| change.adopt_notes(&survey.look()?))
    }

    /// Frees every address of `attachment` and says how many there were.
    ///
    /// # Errors
    ///
    /// An unusable store. That there is nothing to free is no error.
    pub fn release(&mut self, attachment: &Attachment) -> Result<usize, Error> {
        self.change("release in", |change| change.release(attachment))
    }

    /// Frees every address of `network` whose attachment is not in `valid`, which lists container
    /// id and interface name, and says what they were.
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

    /// Everything about the addresses of `attachment`, and about `addresses`, whoever holds them.
    ///
    /// # Errors
    ///
    /// An unusable store.
    pub fn records_at(
        &mut self,
        attachment: &Attachment,
        addresses: &BTreeSet<IpAddr>,
    ) -> Result<Vec<Record>, Error> {
        self.read(|change| {
            let mut records = change.records_of(attachment)?;
            for address in addresses {
                let found = change.query("WHERE a.address = ?1", [address::to_key(*address)])?;
                records.extend(found.into_iter().filter(|found| found.attachment != *attachment));
            }
            Ok(records)
        })
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
        work(&Change::new(transaction, path))
    }

    /// Runs `work` in one transaction that holds the write lock from its first statement.
    ///
    /// A deferred transaction would read first and could then fail to upgrade, which no waiting
    /// cures.
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
            let change = Change::new(transaction, path);
            if let Some(stamp) = &self.stamp
                && stamp.is_of(change.edition()?)
            {
                change.set_complete();
            }
            let value = work(&change)?;
            if let Some(stamp) = &self.stamp
                && change.is_complete()
            {
                stamp.set(change.edition()?)?;
            }
            change.transaction.commit().map_err(Error::database(op, path))?;
            value
        };
        schema::fold_long_log(self);
        Ok(value)
    }
}
