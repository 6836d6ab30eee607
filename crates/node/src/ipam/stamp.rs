//! Whether the store at hand is the one that was changed last.
//!
//! Owns a file in the run directory, outside of what can be lost together with the store. It has
//! the store's [`Edition`] after its last change, written before that change is in force. A store
//! with another edition was put back from a copy, made anew, or changed by somebody else, and may
//! lack pods; so does, to be sure, one whose writer was killed in between. A run directory goes
//! with the boot, as all ports do.
//!
//! Without the file nothing is believed and nothing breaks: whoever allocates looks at the notes on
//! all ports, which is what the file saves.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::Error;
use crate::bounded_file;

/// Name of the file in the run directory.
const FILE: &str = "addresses.edition";

/// A store after one of its changes.
///
/// All have the same length as text, so that one that is written over another leaves nothing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Edition {
    /// Which store: a random number that it got when it was made.
    pub(super) store: i64,
    /// How many allocations were made and ended in it since.
    pub(super) changes: i64,
}

impl Edition {
    fn text(self) -> String {
        format!("{:016x} {:016x}\n", self.store, self.changes)
    }
}

/// Where the last edition is written.
#[derive(Clone, Debug)]
pub(super) struct Stamp {
    path: PathBuf,
}

impl Stamp {
    pub(super) fn in_directory(run_dir: &Path) -> Self {
        Self { path: run_dir.join(FILE) }
    }

    /// Whether `edition` was the last.
    pub(super) fn is_of(&self, edition: Edition) -> bool {
        bounded_file::read_text(&self.path, bounded_file::SMALL)
            .is_ok_and(|text| text == edition.text())
    }

    /// Makes `edition` the last, or else none. Whoever calls this has the write lock of the store.
    ///
    /// # Errors
    ///
    /// The last one stays, and must not: a store with it may be put back.
    pub(super) fn set(&self, edition: Edition) -> Result<(), Error> {
        let Err(source) = self.write(edition) else { return Ok(()) };
        match fs::remove_file(&self.path) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(_) => Err(Error::directory("write", &self.path)(source)),
        }
    }

    fn write(&self, edition: Edition) -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
            .open(&self.path)?;
        file.write_all(edition.text().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_edition_is_known() {
        let dir = tempfile::tempdir().unwrap();
        let stamp = Stamp::in_directory(dir.path());
        let old = Edition { store: -1, changes: 255 };
        let new = Edition { store: 7, changes: 0 };
        assert!(!stamp.is_of(old), "there is no file");
        stamp.set(old).unwrap();
        assert!(stamp.is_of(old) && !stamp.is_of(new));
        stamp.set(new).unwrap();
        assert!(stamp.is_of(new) && !stamp.is_of(old));
        assert!(!stamp.is_of(Edition { changes: 1, ..new }));
    }
}
