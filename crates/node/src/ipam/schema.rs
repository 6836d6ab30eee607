//! The database file: where it is, how it is made, opened, examined, and made anew when it is lost.
//!
//! The file appears in one step, complete: it is made under another name while the directory is
//! locked, and then renamed. A process that finds the file can therefore rely on its schema, and on
//! its knowing every pod that was running when it was made.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;
use std::{fmt, io};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use super::change::{Change, Holder, corrupt};
use super::ports::{Ports, Survey};
use super::range::Range;
use super::record::Record;
use super::{Error, Store};
use crate::words::counted;

/// Directory of the store under the state directory.
pub const DIRECTORY: &str = "ipam";

/// Name of the database file in [`DIRECTORY`].
pub const DATABASE: &str = "addresses.sqlite3";

/// How long a process waits for the others before it gives up, at least.
///
/// A transaction takes less than a millisecond, so this is thousands of pods ahead in the queue,
/// and still well below the minutes that container runtimes allow an ADD.
pub const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a waiting process sleeps before it looks again: a little longer each time, up to the
/// longest. SQLite's own waiting goes on to 100 ms, a hundred times what a transaction takes.
const BUSY_STEP: Duration = Duration::from_micros(250);
const BUSY_LONGEST: Duration = Duration::from_millis(4);

/// Files that SQLite keeps beside the database.
const SIDE_FILES: [&str; 3] = ["-wal", "-shm", "-journal"];

/// `user_version` of the schema below. A store of an earlier one is made anew, as a lost one is.
pub(super) const SCHEMA_VERSION: i64 = 4;

/// Triggers keep the counters, so that no statement elsewhere can forget one.
const SCHEMA: &str = "
    -- A range that some request described. Addresses are a byte for the family (4 or 6), then the
    -- address in network order.
    CREATE TABLE pool (
        id INTEGER PRIMARY KEY,
        subnet TEXT NOT NULL,
        first BLOB NOT NULL,
        last BLOB NOT NULL,
        gateway BLOB NOT NULL,
        -- Lowest address never handed out; NULL when there is none left.
        next BLOB,
        in_use INTEGER NOT NULL DEFAULT 0,
        resting INTEGER NOT NULL DEFAULT 0,
        UNIQUE (subnet, first, last, gateway)
    ) STRICT;

    CREATE TABLE allocation (
        address BLOB PRIMARY KEY,
        pool INTEGER NOT NULL REFERENCES pool (id),
        network TEXT NOT NULL,
        container TEXT NOT NULL,
        ifname TEXT NOT NULL,
        -- Path and number of the pod's namespace; empty and 0 when they are not known.
        netns TEXT NOT NULL,
        netns_inode INTEGER NOT NULL,
        host_device TEXT NOT NULL,
        -- Number of the network namespace that the host device is in; 0 when it is not known.
        host_netns INTEGER NOT NULL,
        -- MAC address of the pod; NULL when it is not known.
        mac BLOB,
        boot TEXT NOT NULL,
        allocated_at INTEGER NOT NULL DEFAULT (unixepoch())
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX allocation_owner ON allocation (network, container, ifname);
    CREATE INDEX allocation_mac ON allocation (mac);

    -- Freed addresses; the sequence is the order in which they were freed.
    CREATE TABLE resting (
        sequence INTEGER PRIMARY KEY,
        pool INTEGER NOT NULL REFERENCES pool (id),
        address BLOB NOT NULL UNIQUE
    ) STRICT;
    CREATE INDEX resting_order ON resting (pool, sequence);

    -- One row: which store this is, and how often it was changed since it was made.
    CREATE TABLE edition (store INTEGER NOT NULL, changes INTEGER NOT NULL) STRICT;
    INSERT INTO edition VALUES (random(), 0);

    CREATE TRIGGER allocation_added AFTER INSERT ON allocation BEGIN
        UPDATE pool SET in_use = in_use + 1 WHERE id = NEW.pool;
        UPDATE edition SET changes = changes + 1;
    END;
    CREATE TRIGGER allocation_removed AFTER DELETE ON allocation BEGIN
        UPDATE pool SET in_use = in_use - 1 WHERE id = OLD.pool;
        UPDATE edition SET changes = changes + 1;
    END;
    CREATE TRIGGER resting_added AFTER INSERT ON resting BEGIN
        UPDATE pool SET resting = resting + 1 WHERE id = NEW.pool;
    END;
    CREATE TRIGGER resting_removed AFTER DELETE ON resting BEGIN
        UPDATE pool SET resting = resting - 1 WHERE id = OLD.pool;
    END;
    CREATE TRIGGER resting_moved AFTER UPDATE OF pool ON resting BEGIN
        UPDATE pool SET resting = resting - 1 WHERE id = OLD.pool;
        UPDATE pool SET resting = resting + 1 WHERE id = NEW.pool;
    END;
";

pub(super) fn open(state_dir: &Path) -> Result<Option<Store>, Error> {
    let path = state_dir.join(DIRECTORY).join(DATABASE);
    match fs::exists(&path) {
        Ok(true) => connect(path).map(Some),
        Ok(false) => Ok(None),
        Err(source) => Err(Error::directory("look for", path)(source)),
    }
}

/// What was done about a store that was lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// Where the damaged file is now; none if there was no file at all.
    pub old: Option<PathBuf>,
    /// What the new store holds.
    pub records: Vec<Record>,
}

impl fmt::Display for Restored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.old {
            Some(old) => {
                write!(f, "the address store was damaged and is now {}; a new one", old.display())?;
            }
            None => f.write_str("the address store was missing; a new one")?,
        }
        {
            let addresses = counted(self.records.len(), "address");
            write!(f, " was made from the notes on pods' ports, with {addresses}")
        }
    }
}

/// Makes the store of `state_dir` anew from the notes on pods' ports, unless another process has
/// just done so. A damaged file is kept beside the new one.
///
/// Whoever allocated something in the old file and has not noted it on a port yet finds out when it
/// has: see [`Store::confirm`].
pub(super) fn restore(state_dir: &Path, survey: &mut dyn Survey) -> Result<Store, Error> {
    let (parent, lock) = lock_store(state_dir)?;
    let rescued = match open(state_dir) {
        Ok(None) => Vec::new(),
        Ok(Some(mut store)) => match whole_records(&mut store) {
            Ok(_) => return Ok(store),
            Err(error) if error.is_damage() => store.records().unwrap_or_default(),
            Err(error) => return Err(error),
        },
        Err(error) if error.is_damage() => Vec::new(),
        Err(error) => return Err(error),
    };
    replace(&parent, &lock, survey, rescued)
}

/// As [`restore`], even if the store is sound.
pub(super) fn rebuild(state_dir: &Path, survey: &mut dyn Survey) -> Result<Store, Error> {
    let (parent, lock) = lock_store(state_dir)?;
    let rescued = open(state_dir).ok().flatten().and_then(|mut store| store.records().ok());
    replace(&parent, &lock, survey, rescued.unwrap_or_default())
}

/// The records of a store that has no fault.
pub(super) fn whole_records(store: &mut Store) -> Result<Vec<Record>, Error> {
    let faults = faults(store)?;
    if !faults.is_empty() {
        return Err(corrupt(&store.path, faults.join(", ")));
    }
    store.records()
}

/// Puts a new file in the place of the old one, if there is any. The directory is locked.
///
/// A process that is killed meanwhile leaves the old file, or the complete new one under its other
/// name and none in its place; the next one begins with what either has. Whoever allocates
/// something in the old file meanwhile has noted it on a port before it is done, or finds out.
fn replace(
    parent: &Path,
    lock: &File,
    survey: &mut dyn Survey,
    mut rescued: Vec<Record>,
) -> Result<Store, Error> {
    let path = parent.join(DATABASE);
    let partial = path.with_extension("new");
    rescued
        .extend(connect(partial.clone()).and_then(|mut store| store.records()).unwrap_or_default());
    // If the kernel does not answer, or the disk is full, everything stays as it is.
    create(&partial, &survey.look()?, &rescued)?;
    let old = set_aside(parent)?;
    fs::rename(&partial, &path).map_err(Error::directory("rename", partial))?;
    // The name must survive a power cut as the file does.
    lock.sync_all().map_err(Error::directory("flush", parent))?;
    let mut store = connect(path)?;
    let records = store.records()?;
    // A node without pods has lost nothing.
    store.restored = (old.is_some() || !records.is_empty()).then_some(Restored { old, records });
    Ok(store)
}

/// Renames the database in `parent` and its side files, so that a new one can be made; says the new
/// name, or `None` if there is no database. Earlier copies stay. The directory is locked.
fn set_aside(parent: &Path) -> Result<Option<PathBuf>, Error> {
    let path = parent.join(DATABASE);
    if !fs::exists(&path).map_err(Error::directory("look for", &path))? {
        // A log whose database somebody has removed.
        remove(SIDE_FILES.map(|side| with_suffix(&path, side)))?;
        return Ok(None);
    }
    let aside = (1u32..)
        .map(|number| parent.join(format!("{DATABASE}.damaged-{number}")))
        .find(|copy| !copy.exists())
        .expect("a directory has less than 2^32 files");
    // The log goes first: without its database it is nothing, but a new database must not find it.
    for side in SIDE_FILES.into_iter().chain([""]) {
        let (from, to) = (with_suffix(&path, side), with_suffix(&aside, side));
        match fs::rename(&from, to) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(Error::directory("rename", from)(source));
            }
            _ => {}
        }
    }
    Ok(Some(aside))
}

/// Makes the directory of the store if there is none, and locks it.
fn lock_store(state_dir: &Path) -> Result<(PathBuf, File), Error> {
    let parent = state_dir.join(DIRECTORY);
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&parent)
        .map_err(Error::directory("create", &parent))?;
    let lock = lock_directory(&parent)?;
    Ok((parent, lock))
}

impl Change<'_> {
    /// Writes down what was known of pods that live and have no note, because another plugin
    /// attached them and their addresses were imported.
    fn keep(&self, rescued: &[Record], ports: &Ports) -> Result<(), Error> {
        for record in rescued {
            let device = record.host_device.as_str();
            let has_note = ports.pods.iter().any(|pod| pod.device == device);
            let address = record.allocation.interface_address();
            if has_note
                || !ports.devices.contains_key(device)
                || self.holder(address.addr())?.is_some()
            {
                continue;
            }
            let holder = Holder {
                netns: record.netns.clone(),
                host_device: record.host_device.clone(),
                host_netns: record.host_netns,
                mac: record.mac,
                boot: record.boot.clone(),
                ..Holder::of(&record.attachment)
            };
            self.record(&Range::around(address), address.addr(), &holder)?;
        }
        Ok(())
    }
}

/// Only one process makes or moves the file; the others wait here and then find what it did. The
/// kernel drops the lock when its holder ends, however it ends.
fn lock_directory(parent: &Path) -> Result<File, Error> {
    let lock = File::open(parent).map_err(Error::directory("open", parent))?;
    lock.lock().map_err(Error::directory("lock", parent))?;
    Ok(lock)
}

/// Makes the file at `partial`, with what the notes on `ports` hold, and with those of `rescued`
/// whose pods live and have no note.
fn create(partial: &Path, ports: &Ports, rescued: &[Record]) -> Result<(), Error> {
    // What a killed process left.
    remove(SIDE_FILES.into_iter().chain([""]).map(|side| with_suffix(partial, side)))?;
    // SQLite gives its side files the mode of the database, so this is where it is decided.
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(partial)
        .map_err(Error::directory("create", partial))?;
    let failed = Error::database("create", partial);
    let mut connection = Connection::open(partial).map_err(&failed)?;
    // Readers and the one writer do not wait for each other, and a commit is one append. The mode
    // stays with the file.
    connection
        .pragma_update(None, "journal_mode", "WAL")
        .and_then(|()| connection.execute_batch(SCHEMA))
        .and_then(|()| connection.pragma_update(None, "user_version", SCHEMA_VERSION))
        .map_err(&failed)?;
    write_down(&mut connection, partial, ports, rescued)?;
    // Closing folds the log into the file, so that the file alone is renamed.
    connection.close().map_err(|(_, source)| failed(source))?;
    // Else a power cut could leave the name without the content.
    file.sync_all().map_err(Error::directory("flush", partial))
}

/// Removes files, unless they are gone already.
fn remove(files: impl IntoIterator<Item = PathBuf>) -> Result<(), Error> {
    for file in files {
        match fs::remove_file(&file) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(Error::directory("remove", file)(source));
            }
            _ => {}
        }
    }
    Ok(())
}

fn write_down(
    connection: &mut Connection,
    path: &Path,
    ports: &Ports,
    rescued: &[Record],
) -> Result<(), Error> {
    let failed = Error::database("create", path);
    let transaction =
        connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(&failed)?;
    let change = Change::new(transaction, path);
    change.adopt_notes(ports)?;
    change.keep(rescued, ports)?;
    change.transaction.commit().map_err(failed)
}

fn connect(path: PathBuf) -> Result<Store, Error> {
    // Before the file is opened: if it is replaced in between, `Store::confirm` notices.
    let file = identity(&path).map_err(Error::directory("look at", &path))?;
    let failed = Error::database("open", &path);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(&path, flags).map_err(&failed)?;
    connection.busy_handler(Some(wait_for_turn)).map_err(&failed)?;
    // NORMAL flushes the log when it is folded into the file, not at each commit. A killed process
    // loses nothing, because the kernel has its writes. A power cut may lose the last commits, but
    // the file stays sound, and all pods are gone with it: a lost ADD is of no pod any more, and a
    // lost DEL leaves an allocation of an earlier boot, which the daemon frees at its start.
    connection.pragma_update(None, "synchronous", "NORMAL").map_err(&failed)?;
    let found = schema_version(&connection).map_err(&failed)?;
    match found {
        SCHEMA_VERSION => {}
        // SQLite takes an empty file for a new database.
        0 => return Err(corrupt(&path, "it is empty".to_owned())),
        found => return Err(Error::UnknownSchema { path, found, known: SCHEMA_VERSION }),
    }
    refuse_partial_page(&connection, &path)?;
    // Each process opens and closes the store once, and folding the log at each close, or at each
    // commit past some length, would flush the disk for every pod: see `fold_long_log`.
    connection
        .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
        .and_then(|_| connection.pragma_update(None, "wal_autocheckpoint", 0))
        .map_err(&failed)?;
    Ok(Store { connection, path, file, restored: None, stamp: None })
}

/// What makes the file at `path` another one than any that was there before.
pub(super) fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::metadata(path).map(|file| (file.dev(), file.ino()))
}

/// A file is whole pages. SQLite reads zeros for what the last one lacks, and notices a missing
/// page only; this notices the rest.
fn refuse_partial_page(connection: &Connection, path: &Path) -> Result<(), Error> {
    // A power cut during a fold may leave a part of a page, which the log then has in full. A log
    // is cut when the file is whole, so it is looked at first.
    let log = with_suffix(path, "-wal");
    if fs::metadata(log).is_ok_and(|log| log.len() > 0) {
        return Ok(());
    }
    let length = fs::metadata(path).map_err(Error::directory("look at", path))?.len();
    let page: u32 = connection
        .pragma_query_value(None, "page_size", |row| row.get(0))
        .map_err(Error::database("open", path))?;
    if length.is_multiple_of(page.into()) {
        return Ok(());
    }
    Err(corrupt(path, format!("it ends within a page, after {length} bytes")))
}

fn schema_version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}

/// SQLite calls this while another process has the lock, with the number of calls so far.
fn wait_for_turn(attempt: i32) -> bool {
    let attempt = u32::try_from(attempt).unwrap_or(u32::MAX);
    let pause = (BUSY_STEP * attempt.saturating_add(1).min(1000)).min(BUSY_LONGEST);
    let is_late = BUSY_LONGEST * attempt.min(1 << 20) > BUSY_TIMEOUT;
    if !is_late {
        thread::sleep(pause);
    }
    !is_late
}

/// What SQLite's own examination finds, and counters that do not count what is there.
pub(super) fn faults(store: &Store) -> Result<Vec<String>, Error> {
    let failed = Error::database("examine", &store.path);
    let texts = |sql: &str| -> rusqlite::Result<Vec<String>> {
        let mut statement = store.connection.prepare(sql)?;
        let rows = statement.query_map([], |row| row.get(0))?;
        rows.collect()
    };
    let mut faults = texts("PRAGMA integrity_check(10)").map_err(&failed)?;
    faults.retain(|line| line != "ok");
    let counted = texts(
        "SELECT 'the counters of ' || subnet || ' are wrong' FROM pool p WHERE \
         in_use != (SELECT count(*) FROM allocation WHERE pool = p.id) OR \
         resting != (SELECT count(*) FROM resting WHERE pool = p.id) \
         UNION ALL SELECT 'an address is both held and free' FROM allocation \
         NATURAL JOIN (SELECT address FROM resting)",
    );
    faults.extend(counted.map_err(&failed)?);
    // `records` looks at the addresses that are held.
    let misshapen = texts(
        "WITH key (bytes) AS (SELECT next FROM pool WHERE next IS NOT NULL \
         UNION ALL SELECT address FROM resting) \
         SELECT 'an address has ' || length(bytes) || ' bytes' FROM key WHERE NOT ( \
         (length(bytes) = 5 AND substr(bytes, 1, 1) = x'04') OR \
         (length(bytes) = 17 AND substr(bytes, 1, 1) = x'06')) LIMIT 10",
    );
    faults.extend(misshapen.map_err(&failed)?);
    Ok(faults)
}

/// Flushes the log, so that what was committed survives a power cut.
pub(super) fn flush(store: &Store) -> Result<(), Error> {
    let log = with_suffix(&store.path, "-wal");
    let flushed = File::open(&log).and_then(|file| file.sync_data());
    match flushed {
        // Folded a moment ago, which flushes too.
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(Error::directory("flush", log)(source))
        }
        _ => Ok(()),
    }
}

/// Folds the log into the database once it has grown long.
///
/// SQLite's own folding leaves the log in place, to be written again from its start; but that the
/// log is folded is only known while some process has the store open, and here most processes are
/// alone. The log would then grow for ever, so this cuts it. A store that others are busy with is
/// left to them, and a failure costs nothing but a longer log.
pub(super) fn fold_long_log(store: &mut Store) {
    let log = with_suffix(&store.path, "-wal");
    if !fs::metadata(log).is_ok_and(|log| log.len() > LOG_BYTES) {
        return;
    }
    let fold = || {
        store.connection.busy_timeout(Duration::ZERO)?;
        let statement = "PRAGMA wal_checkpoint(TRUNCATE)";
        store.connection.query_row(statement, [], |row| row.get::<_, i64>(0))
    };
    let _: rusqlite::Result<i64> = fold();
    let restored = store.connection.busy_handler(Some(wait_for_turn));
    debug_assert!(restored.is_ok(), "setting a callback cannot fail");
}

/// Length at which the log is folded. The first process to open the store reads the whole log, so
/// it must stay short: this is about 20 pods, and read in well under a millisecond.
const LOG_BYTES: u64 = 512 * 1024;

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.to_owned().into_os_string();
    path.push(suffix);
    path.into()
}
