//! Whether a file is the one that was read last.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use tokio::task::spawn_blocking;

/// What changes when a file's content does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    len: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// That of the file at `path`; none if there is none for us.
pub(super) fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = fs::metadata(path).ok()?;
    Some(Stamp {
        device: metadata.dev(),
        inode: metadata.ino(),
        len: metadata.len(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    })
}

/// The same, on a thread that may wait: a network's file system may take its time.
pub(super) async fn stamp_elsewhere(path: &Path) -> Option<Stamp> {
    let path = path.to_owned();
    spawn_blocking(move || stamp(&path)).await.ok().flatten()
}
