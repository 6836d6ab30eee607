//! Why the store could not do what it was asked, and what to do about it.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use rusqlite::ErrorCode;
use thiserror::Error;

use crate::attachment::Attachment;

/// Why the store could not do what it was asked.
#[derive(Debug, Error)]
pub enum Error {
    /// The node has no subnet to take addresses from.
    #[error("this node has no pod subnet: add one to its entry in the subnet table")]
    NoSubnet,
    /// Every range that could give an address is full.
    #[error(
        "no free pod address in {}: {}",
        describe_full(.full),
        if full.iter().any(Full::is_narrowed) {
            "widen ipam.ranges (rangeStart, rangeEnd) or the runtime's ipRanges, add a subnet to \
             this node's entry in the subnet table, or delete pods"
        } else {
            "add a subnet to this node's entry in the subnet table, or delete pods"
        }
    )]
    Exhausted {
        /// What is full.
        full: Vec<Full>,
    },
    /// A requested address is in none of the ranges, is a gateway, or its range gives another
    /// already.
    #[error(
        "the requested address {address} cannot be given: the pod gets one address of each of {}; ask \
         for one that is in a range of its own",
        list(.ranges)
    )]
    NotInRange {
        /// What was asked for.
        address: IpAddr,
        /// What pods may get.
        ranges: Vec<String>,
    },
    /// A requested address is held by somebody else.
    #[error(
        "the requested address {address} is held by {holder}: choose another, or delete that pod"
    )]
    Taken {
        /// What was asked for.
        address: IpAddr,
        /// Who has it.
        holder: Box<Attachment>,
    },
    /// The attachment has an address already.
    #[error("{attachment} has address {address} already: call DEL before another ADD")]
    AlreadyAllocated {
        /// Who asked twice.
        attachment: Box<Attachment>,
        /// What it has.
        address: IpAddr,
    },
    /// A directory or file of the store could not be made or moved.
    #[error("cannot {op} {path}: {}", file_remedy(.source))]
    Directory {
        /// What was attempted.
        op: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the file system said.
        source: std::io::Error,
    },
    /// SQLite refused.
    #[error("cannot {op} the address store {path}: {}", database_remedy(.source))]
    Database {
        /// What was attempted.
        op: &'static str,
        /// The database file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// The file belongs to another version.
    #[error(
        "the address store {path} has schema {found}, this plugin knows {known}: {}",
        if found < known { REBUILD } else { "install the culvert-cni that wrote it" }
    )]
    UnknownSchema {
        /// The database file.
        path: PathBuf,
        /// Its `user_version`.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// The file is not what this program wrote.
    #[error("the address store {path} is damaged ({what}): {REBUILD}")]
    Corrupt {
        /// The database file.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// The MAC address that was asked for is somebody's.
    #[error(
        "the requested MAC address {mac} is that of {holder}: choose another, such as one that begins \
         with 02, or leave the choice to the plugin"
    )]
    MacTaken {
        /// What was asked for.
        mac: String,
        /// Whose it is.
        holder: String,
    },
    /// The file was replaced, or rows of it were removed, while a pod was attached.
    #[error(
        "the address store {path} was replaced while the pod was attached, so its address may be \
         another pod's by now: try again"
    )]
    Replaced {
        /// The database file.
        path: PathBuf,
    },
    /// Something that is to be imported cannot be.
    #[error("cannot import {path}: {what}")]
    Import {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong, and the way out.
        what: String,
    },
    /// What runs on this node could not be found out.
    #[error("cannot look at the pods of this node: {what}")]
    Look {
        /// What was attempted and what came of it.
        what: String,
    },
}

/// The way out when the file itself is broken.
const REBUILD: &str = "the next ADD, the daemon, or `culvert ipam rebuild` keeps a copy and makes a \
                       new store from the notes on the pods' ports";

/// A range without a free address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Full {
    /// The subnet.
    pub subnet: IpNet,
    /// Its addresses that pods may get, unless these are all.
    pub range: Option<(IpAddr, IpAddr)>,
    /// How many of them pods have.
    pub in_use: u64,
}

impl Full {
    fn is_narrowed(&self) -> bool {
        self.range.is_some()
    }
}

impl Error {
    /// Names the attempt and the file of a failure of SQLite.
    pub(super) fn database(
        op: &'static str,
        path: &Path,
    ) -> impl Fn(rusqlite::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Database { op, path: path.clone(), source }
    }

    /// Names the attempt and the path of a failure of the file system.
    pub(super) fn directory(
        op: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Directory { op, path, source }
    }

    /// Whether the file is broken, so that only a new one helps.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Corrupt { .. } => true,
            Self::Database { source, .. } => is_damage(source),
            // This version cannot read it, and nobody else will.
            Self::UnknownSchema { found, known, .. } => found < known,
            Self::NoSubnet
            | Self::Exhausted { .. }
            | Self::NotInRange { .. }
            | Self::Taken { .. }
            | Self::AlreadyAllocated { .. }
            | Self::MacTaken { .. }
            | Self::Replaced { .. }
            | Self::Directory { .. }
            | Self::Import { .. }
            | Self::Look { .. } => false,
        }
    }
}

fn is_damage(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_error_code();
    matches!(code, Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}

fn database_remedy(error: &rusqlite::Error) -> String {
    let remedy = match error.sqlite_error_code() {
        _ if is_damage(error) => return format!("it is damaged; {REBUILD}"),
        Some(ErrorCode::DiskFull) => "the disk is full. Nothing was changed; free some space",
        Some(ErrorCode::ReadOnly) => {
            "it cannot be written. Nothing was changed; make the file, its directory and its file \
             system writable for root"
        }
        Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
            "check that config key stateDir names a directory that root may write, with room on its \
             disk"
        }
        Some(ErrorCode::SystemIoFailure) => {
            "reading or writing failed. Nothing was changed; check the disk and its free space, and \
             the kernel's log"
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            "other processes keep it locked; look for a stopped one with `fuser`, and try again"
        }
        _ => "nothing was changed; the details say why",
    };
    remedy.to_owned()
}

fn file_remedy(error: &std::io::Error) -> &'static str {
    use std::io::ErrorKind;
    if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) {
        "the disk is full; free some space"
    } else if error.kind() == ErrorKind::ReadOnlyFilesystem {
        "its file system is read-only; make it writable, or let config key stateDir name another"
    } else {
        "check that config key stateDir names a writable directory"
    }
}

fn describe_full(full: &[Full]) -> String {
    let each = full.iter().take(SHOWN).map(|full| match full.range {
        None => format!("{} ({} in use)", full.subnet, full.in_use),
        Some((first, last)) => {
            format!("{first} to {last} of {} ({} in use)", full.subnet, full.in_use)
        }
    });
    each.collect::<Vec<_>>().join(" or ") + &more(full.len())
}

fn list(ranges: &[String]) -> String {
    if ranges.is_empty() {
        "none, because this node has no subnet".to_owned()
    } else {
        ranges.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ") + &more(ranges.len())
    }
}

/// How many items of a list that a configuration may make long are shown.
const SHOWN: usize = 8;

fn more(count: usize) -> String {
    if count > SHOWN { format!(" and {} more", count - SHOWN) } else { String::new() }
}
