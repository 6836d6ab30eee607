//! From one key of the node to another, in three steps of which each can be repeated.
//!
//! The next key is made, and published beside the present one; once every peer has both, the node
//! goes over to it and still accepts the one before; and that one goes. At every moment, and
//! whenever the machine stops, the node has a key that its peers know.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use culvert_dataplane::platform::clock;
use culvert_seal::keys::{Error, NodeKey};
use rustix::fs::FlockOperation;

use super::ring::{former_file, next_file};

/// Why a key is not changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChangeError {
    /// A file cannot be used.
    #[error(transparent)]
    Keys(#[from] Error),
    /// The system refuses it.
    #[error("cannot {op} {}: {source}", path.display())]
    System {
        /// What was attempted, as a verb.
        op: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A former key is still accepted.
    #[error(
        "the key before the present one is still accepted ({}); run `culvert keys retire` first",
        .0.display()
    )]
    NotRetired(PathBuf),
    /// There is no key to go over to.
    #[error("there is no next key; `culvert keys rotate` makes one")]
    NoNext,
    /// There is no former key.
    #[error(
        "there is no former key; a node has one after `culvert keys rotate` and `culvert keys switch`"
    )]
    NoFormer,
}

/// Makes the next key, if there is none; says whether there was none.
///
/// # Errors
///
/// The one before the present is still there; a file cannot be used or written.
pub(crate) fn rotate(key_file: &Path) -> Result<bool, ChangeError> {
    let current = NodeKey::read_or_make(key_file)?;
    refuse_former(key_file, &current)?;
    let next = next_file(key_file);
    let is_there = next.symlink_metadata().is_ok();
    NodeKey::read_or_make(&next)?;
    Ok(!is_there)
}

/// Makes the next key the present one; the present one is the former then.
///
/// # Errors
///
/// There is no next key; a former one is still there; a file cannot be used or renamed.
pub(crate) fn switch(key_file: &Path) -> Result<(), ChangeError> {
    let (next, former) = (next_file(key_file), former_file(key_file));
    if next.symlink_metadata().is_err() {
        return Err(ChangeError::NoNext);
    }
    // What cannot be read would leave the node without a key.
    NodeKey::read(&next)?;
    refuse_former(key_file, &NodeKey::read(key_file)?)?;
    let directory = lock(key_file)?;
    // A link first, so that there is a present key at every moment.
    if former.symlink_metadata().is_err() {
        fs::hard_link(key_file, &former).map_err(|error| system("make", &former, error))?;
    }
    fs::rename(&next, key_file).map_err(|error| system("replace", key_file, error))?;
    directory.sync_all().map_err(|error| system("flush the directory of", key_file, error))
}

/// Removes the former key.
///
/// # Errors
///
/// There is none; it cannot be removed.
pub(crate) fn retire(key_file: &Path) -> Result<(), ChangeError> {
    let former = former_file(key_file);
    let directory = lock(key_file)?;
    match fs::remove_file(&former) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(ChangeError::NoFormer),
        removed => removed.map_err(|error| system("remove", &former, error))?,
    }
    directory.sync_all().map_err(|error| system("flush the directory of", &former, error))
}

/// How long ago the present key became that, as far as the files tell; none without a former key.
/// Nothing has passed by a clock that was set back since.
///
/// # Errors
///
/// The file cannot be looked at.
pub(crate) fn since_switch(key_file: &Path) -> Result<Option<Duration>, ChangeError> {
    let former = former_file(key_file);
    let metadata = match former.symlink_metadata() {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(system("look at", &former, error)),
    };
    // It got its second name then, or lost its first, and has not changed since.
    let changed = u64::try_from(metadata.ctime()).unwrap_or_default() * 1_000_000_000
        + u64::try_from(metadata.ctime_nsec()).unwrap_or_default();
    Ok(Some(Duration::from_nanos(clock::unix_nanos().saturating_sub(changed))))
}

/// Refuses where there is a former key. One that is the present one is half a switch.
fn refuse_former(key_file: &Path, current: &NodeKey) -> Result<(), ChangeError> {
    let former = former_file(key_file);
    if former.symlink_metadata().is_err() {
        return Ok(());
    }
    let is_half = NodeKey::read(&former)?.public() == current.public();
    if is_half { Ok(()) } else { Err(ChangeError::NotRetired(former)) }
}

/// Keeps others from changing keys at the same time.
fn lock(key_file: &Path) -> Result<File, ChangeError> {
    let path = match key_file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let directory = File::open(path).map_err(|error| system("open", path, error))?;
    rustix::fs::flock(&directory, FlockOperation::LockExclusive)
        .map_err(|error| system("lock", path, error.into()))?;
    Ok(directory)
}

fn system(op: &'static str, path: &Path, source: io::Error) -> ChangeError {
    ChangeError::System { op, path: path.to_owned(), source }
}
