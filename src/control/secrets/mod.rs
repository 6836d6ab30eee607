//! What this node proves who it is with, on disk: its keys, and the secrets of its cluster.
//!
//! Owns the names of the files, the order in which a key follows another, and noticing that a file
//! is another. Never decides whether anything is sealed. Reading waits for the disk; the caller
//! does it where that holds up nobody.

mod change;
mod ring;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use culvert_claims::NodeKeys;
use culvert_dataplane::platform::clock;
use culvert_seal::keys::{Error, Psk};
use culvert_seal::mesh::Identity;

pub(crate) use self::change::{retire, rotate, since_switch, switch};
pub(crate) use self::ring::{KeyRing, Use};
use super::stamp::{Stamp, stamp};
use crate::config::Sealed;
pub(crate) use crate::platform::memory::conceal;

/// How often the files are looked at. A key that was announced a second ago is early enough.
const INTERVAL: Duration = Duration::from_secs(1);

/// What the files hold.
#[derive(Debug)]
pub(crate) struct Secrets {
    /// This node's keys.
    pub(crate) ring: KeyRing,
    /// The cluster's secrets; the first is used, all are taken.
    psks: Vec<Psk>,
}

impl Secrets {
    /// What `sealed` names, with the keys `ring`.
    fn with(ring: KeyRing, sealed: &Sealed) -> Result<Self, Error> {
        Ok(Self { ring, psks: Self::psks(sealed)? })
    }

    /// Reads the secrets of the cluster.
    ///
    /// # Errors
    ///
    /// The first file that cannot be used, and what to do.
    pub(crate) fn psks(sealed: &Sealed) -> Result<Vec<Psk>, Error> {
        sealed.psk_files.iter().map(|path| Psk::read(path)).collect()
    }

    /// Whether the secrets of the cluster are those of `other`, in their order.
    pub(crate) fn has_psks_of(&self, other: &Self) -> bool {
        self.psks == other.psks
    }

    /// What handshakes are made with, where the table has the keys `listed` of this node.
    ///
    /// A node begins with a key that its peers have, whatever stands in its files: they do not hear
    /// whoever begins with another.
    #[must_use]
    pub(crate) fn identity(&self, listed: NodeKeys) -> Identity {
        let (known, unknown): (Vec<_>, Vec<_>) =
            self.ring.keys().partition(|key| listed.has(key.public()));
        let keys = known.into_iter().chain(unknown).cloned().collect();
        let psks = if self.psks.is_empty() { vec![Psk::none()] } else { self.psks.clone() };
        Identity { keys, psks }
    }
}

/// The files, and how each was when it was read last.
#[derive(Clone, Debug)]
pub(crate) struct SecretFiles {
    sealed: Sealed,
    paths: Vec<PathBuf>,
    seen: Vec<Option<Stamp>>,
    /// When they are looked at next, whoever else is listened to meanwhile.
    next_look: Instant,
}

impl SecretFiles {
    /// Those that `sealed` names; nothing is read yet.
    #[must_use]
    pub(crate) fn new(sealed: Sealed) -> Self {
        let keys = ring::files(&sealed.key_file);
        let paths: Vec<PathBuf> = keys.into_iter().chain(sealed.psk_files.clone()).collect();
        let next_look = clock::now() + INTERVAL;
        Self { seen: vec![None; paths.len()], paths, sealed, next_look }
    }

    /// Reads them all, and makes this node's key if there is none yet.
    ///
    /// # Errors
    ///
    /// The first file that is there and cannot be used, and what to do; a key cannot be made.
    pub(crate) fn read_or_make(&mut self) -> Result<Secrets, Error> {
        KeyRing::read_or_make(&self.sealed.key_file)?;
        self.read()
    }

    /// Reads them all; one that cannot be used is an error for all.
    ///
    /// # Errors
    ///
    /// The first of these, and what to do.
    pub(crate) fn read(&mut self) -> Result<Secrets, Error> {
        // Before the content, so that a change in between is noticed as one.
        self.seen = self.look();
        Secrets::with(KeyRing::read(&self.sealed.key_file)?, &self.sealed)
    }

    /// Waits until a file is not the one that was read last.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost: the comparison is with what [`read`](Self::read) saw.
    pub(crate) async fn changed(&mut self) {
        loop {
            tokio::time::sleep_until(self.next_look.into()).await;
            self.next_look = clock::now() + INTERVAL;
            if self.is_changed() {
                return;
            }
        }
    }

    fn is_changed(&self) -> bool {
        self.look() != self.seen
    }

    fn look(&self) -> Vec<Option<Stamp>> {
        self.paths.iter().map(|path| stamp(path)).collect()
    }
}

#[cfg(test)]
mod tests;
