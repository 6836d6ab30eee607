//! The database file: where it is, how it is made, and how it is opened.
//!
//! The file appears in one step, complete: it is made under another name while the directory is
//! locked, and then renamed. A process that finds the file can therefore rely on its schema.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::{Error, Store, database};

/// Directory of the store under the state directory.
pub const DIRECTORY: &str = "ipam";

/// Name of the database file in [`DIRECTORY`].
pub const DATABASE: &str = "addresses.sqlite3";

/// How long a process waits for the others before it gives up.
///
/// A transaction takes about a millisecond, so this is thousands of pods ahead in the queue, and
/// still well below the minutes that container runtimes allow an ADD.
pub const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// `user_version` of the schema below. A later schema adds a step from this one.
const SCHEMA_VERSION: i64 = 1;

/// Triggers keep the two counters, so that no statement elsewhere can forget one.
const SCHEMA: &str = "
    CREATE TABLE subnet (
        id INTEGER PRIMARY KEY,
        prefix TEXT NOT NULL UNIQUE,
        -- Lowest address never handed out; NULL when there is none left.
        next BLOB,
        in_use INTEGER NOT NULL DEFAULT 0,
        resting INTEGER NOT NULL DEFAULT 0
    ) STRICT;

    CREATE TABLE allocation (
        -- A byte for the family (4 or 6), then the address in network order.
        address BLOB PRIMARY KEY,
        subnet INTEGER NOT NULL REFERENCES subnet (id),
        network TEXT NOT NULL,
        container TEXT NOT NULL,
        ifname TEXT NOT NULL,
        netns TEXT NOT NULL,
        allocated_at INTEGER NOT NULL DEFAULT (unixepoch())
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX allocation_owner ON allocation (network, container, ifname);

    -- Freed addresses; the sequence is the order in which they were freed.
    CREATE TABLE resting (
        sequence INTEGER PRIMARY KEY,
        subnet INTEGER NOT NULL REFERENCES subnet (id),
        address BLOB NOT NULL UNIQUE
    ) STRICT;
    CREATE INDEX resting_order ON resting (subnet, sequence);

    CREATE TRIGGER allocation_added AFTER INSERT ON allocation BEGIN
        UPDATE subnet SET in_use = in_use + 1 WHERE id = NEW.subnet;
    END;
    CREATE TRIGGER allocation_removed AFTER DELETE ON allocation BEGIN
        UPDATE subnet SET in_use = in_use - 1 WHERE id = OLD.subnet;
    END;
    CREATE TRIGGER resting_added AFTER INSERT ON resting BEGIN
        UPDATE subnet SET resting = resting + 1 WHERE id = NEW.subnet;
    END;
    CREATE TRIGGER resting_removed AFTER DELETE ON resting BEGIN
        UPDATE subnet SET resting = resting - 1 WHERE id = OLD.subnet;
    END;
";

pub(super) fn open(state_dir: &Path) -> Result<Option<Store>, Error> {
    let path = state_dir.join(DIRECTORY).join(DATABASE);
    match fs::exists(&path) {
        Ok(true) => connect(path).map(Some),
        Ok(false) => Ok(None),
        Err(source) => Err(directory("look for", path)(source)),
    }
}

pub(super) fn open_or_create(state_dir: &Path) -> Result<Store, Error> {
    if let Some(store) = open(state_dir)? {
        return Ok(store);
    }
    let parent = state_dir.join(DIRECTORY);
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&parent)
        .map_err(directory("create", parent.clone()))?;
    // Only one process makes the file; the others wait here and then find it. The kernel drops the
    // lock when its holder ends, however it ends.
    let lock = File::open(&parent).map_err(directory("open", parent.clone()))?;
    lock.lock().map_err(directory("lock", parent.clone()))?;
    if let Some(store) = open(state_dir)? {
        return Ok(store);
    }
    create(&parent.join(DATABASE))?;
    connect(parent.join(DATABASE))
}

fn create(path: &Path) -> Result<(), Error> {
    let partial = path.with_extension("new");
    // What a killed process left.
    for suffix in ["", "-wal", "-shm", "-journal"] {
        let mut stale = partial.clone().into_os_string();
        stale.push(suffix);
        match fs::remove_file(&stale) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(directory("remove", stale.into())(source));
            }
            _ => {}
        }
    }
    // SQLite gives its side files the mode of the database, so this is where it is decided.
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&partial)
        .map_err(directory("create", partial.clone()))?;
    let failed = database("create", path);
    let connection = Connection::open(&partial).map_err(&failed)?;
    // Readers and the one writer do not wait for each other, and a commit is one append. The mode
    // stays with the file.
    connection
        .pragma_update(None, "journal_mode", "WAL")
        .and_then(|()| connection.execute_batch(SCHEMA))
        .and_then(|()| connection.pragma_update(None, "user_version", SCHEMA_VERSION))
        .map_err(&failed)?;
    // Closing folds the log into the file, so that the file alone is renamed.
    connection.close().map_err(|(_, source)| failed(source))?;
    fs::rename(&partial, path).map_err(directory("rename", partial))
}

fn connect(path: PathBuf) -> Result<Store, Error> {
    let failed = database("open", &path);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(&path, flags).map_err(&failed)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(&failed)?;
    let found: i64 =
        connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(&failed)?;
    if found != SCHEMA_VERSION {
        return Err(Error::UnknownSchema { path, found, known: SCHEMA_VERSION });
    }
    // NORMAL flushes the log when it is folded into the file, not at each commit. A killed process
    // loses nothing, because the kernel has its writes; a power cut may lose the last commits, and
    // with them go the pods that they were about. The file itself stays sound either way.
    connection.pragma_update(None, "synchronous", "NORMAL").map_err(&failed)?;
    // Each process opens and closes the store once, and folding the log at each close, or at each
    // commit past some length, would flush the disk for every pod: see `fold_long_log`.
    connection
        .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
        .and_then(|_| connection.pragma_update(None, "wal_autocheckpoint", 0))
        .map_err(&failed)?;
    Ok(Store { connection, path })
}

/// Folds the log into the database once it has grown long.
///
/// SQLite's own folding leaves the log in place, to be written again from its start; but that the log
/// is folded is only known while some process has the store open, and here most processes are alone.
/// The log would then grow for ever, so this cuts it. A store that others are busy with is left to
/// them, and a failure costs nothing but a longer log.
pub(super) fn fold_long_log(store: &Store) {
    let mut log = store.path.clone().into_os_string();
    log.push("-wal");
    if !fs::metadata(log).is_ok_and(|log| log.len() > LOG_BYTES) {
        return;
    }
    let fold = || {
        store.connection.busy_timeout(Duration::ZERO)?;
        let statement = "PRAGMA wal_checkpoint(TRUNCATE)";
        store.connection.query_row(statement, [], |row| row.get::<_, i64>(0))?;
        store.connection.busy_timeout(BUSY_TIMEOUT)
    };
    let _: rusqlite::Result<()> = fold();
}

/// Length at which the log is folded. The first process to open the store reads the whole log, so it
/// must stay short: this is about 20 pods, and read in well under a millisecond.
const LOG_BYTES: u64 = 512 * 1024;

fn directory(op: &'static str, path: PathBuf) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Directory { op, path, source }
}
