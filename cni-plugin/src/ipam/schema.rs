//! The database file: where it is, how it is made, opened, upgraded, examined and set aside.
//!
//! The file appears in one step, complete: it is made under another name while the directory is
//! locked, and then renamed. A process that finds the file can therefore rely on its schema.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, TransactionBehavior, params};

use super::address::to_key;
use super::change::{corrupt, parse_key};
use super::range::Range;
use super::{Error, Store};
use crate::attachment::Attachment;

/// Directory of the store under the state directory.
pub const DIRECTORY: &str = "ipam";

/// Name of the database file in [`DIRECTORY`].
pub const DATABASE: &str = "addresses.sqlite3";

/// How long a process waits for the others before it gives up, at least.
///
/// A transaction takes less than a millisecond, so this is thousands of pods ahead in the queue, and
/// still well below the minutes that container runtimes allow an ADD.
pub const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a waiting process sleeps before it looks again: a little longer each time, up to the
/// longest. SQLite's own waiting goes on to 100 ms, a hundred times what a transaction takes.
const BUSY_STEP: Duration = Duration::from_micros(250);
const BUSY_LONGEST: Duration = Duration::from_millis(4);

/// Files that SQLite keeps beside the database.
const SIDE_FILES: [&str; 3] = ["-wal", "-shm", "-journal"];

/// `user_version` of the schema below. A later schema adds a step from this one.
const SCHEMA_VERSION: i64 = 2;

/// Triggers keep the two counters, so that no statement elsewhere can forget one.
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
        boot TEXT NOT NULL,
        allocated_at INTEGER NOT NULL DEFAULT (unixepoch())
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX allocation_owner ON allocation (network, container, ifname);

    -- Freed addresses; the sequence is the order in which they were freed.
    CREATE TABLE resting (
        sequence INTEGER PRIMARY KEY,
        pool INTEGER NOT NULL REFERENCES pool (id),
        address BLOB NOT NULL UNIQUE
    ) STRICT;
    CREATE INDEX resting_order ON resting (pool, sequence);

    CREATE TRIGGER allocation_added AFTER INSERT ON allocation BEGIN
        UPDATE pool SET in_use = in_use + 1 WHERE id = NEW.pool;
    END;
    CREATE TRIGGER allocation_removed AFTER DELETE ON allocation BEGIN
        UPDATE pool SET in_use = in_use - 1 WHERE id = OLD.pool;
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

pub(super) fn open_or_create(state_dir: &Path) -> Result<Store, Error> {
    if let Some(store) = open(state_dir)? {
        return Ok(store);
    }
    let parent = state_dir.join(DIRECTORY);
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&parent)
        .map_err(Error::directory("create", &parent))?;
    let lock = lock_directory(&parent)?;
    if let Some(store) = open(state_dir)? {
        return Ok(store);
    }
    create(&parent.join(DATABASE))?;
    // The name must survive a power cut as the file does.
    lock.sync_all().map_err(Error::directory("flush", &parent))?;
    connect(parent.join(DATABASE))
}

/// Renames the database of `state_dir` and its side files, so that a new one can be made; says the
/// new name, or `None` if there is no database. Earlier copies stay.
///
/// # Errors
///
/// A file that cannot be renamed.
pub fn set_aside(state_dir: &Path) -> Result<Option<PathBuf>, Error> {
    let parent = state_dir.join(DIRECTORY);
    let path = parent.join(DATABASE);
    if !fs::exists(&path).map_err(Error::directory("look for", &path))? {
        return Ok(None);
    }
    let _lock = lock_directory(&parent)?;
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

/// Only one process makes or moves the file; the others wait here and then find what it did. The
/// kernel drops the lock when its holder ends, however it ends.
fn lock_directory(parent: &Path) -> Result<File, Error> {
    let lock = File::open(parent).map_err(Error::directory("open", parent))?;
    lock.lock().map_err(Error::directory("lock", parent))?;
    Ok(lock)
}

fn create(path: &Path) -> Result<(), Error> {
    let partial = path.with_extension("new");
    // What a killed process left, and a log whose database somebody has removed.
    let stale = SIDE_FILES.map(|side| with_suffix(path, side));
    let stale = stale.into_iter().chain(SIDE_FILES.map(|side| with_suffix(&partial, side)));
    for file in stale.chain([partial.clone()]) {
        match fs::remove_file(&file) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(Error::directory("remove", file)(source));
            }
            _ => {}
        }
    }
    // SQLite gives its side files the mode of the database, so this is where it is decided.
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&partial)
        .map_err(Error::directory("create", &partial))?;
    let failed = Error::database("create", path);
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
    // Else a power cut could leave the name without the content.
    file.sync_all().map_err(Error::directory("flush", &partial))?;
    fs::rename(&partial, path).map_err(Error::directory("rename", partial))
}

fn connect(path: PathBuf) -> Result<Store, Error> {
    let failed = Error::database("open", &path);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(&path, flags).map_err(&failed)?;
    connection.busy_handler(Some(wait_for_turn)).map_err(&failed)?;
    // NORMAL flushes the log when it is folded into the file, not at each commit. A killed process
    // loses nothing, because the kernel has its writes. A power cut may lose the last commits, but the
    // file stays sound, and all pods are gone with it: a lost ADD is of no pod any more, and a lost
    // DEL leaves an allocation of an earlier boot, which the daemon frees at its start.
    connection.pragma_update(None, "synchronous", "NORMAL").map_err(&failed)?;
    let found = schema_version(&connection).map_err(&failed)?;
    match found {
        SCHEMA_VERSION => {}
        1 => upgrade(&mut connection, &path)?,
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
    Ok(Store { connection, path })
}

/// A file is whole pages. SQLite reads zeros for what the last one lacks, and notices a missing page
/// only; this notices the rest.
fn refuse_partial_page(connection: &Connection, path: &Path) -> Result<(), Error> {
    // A power cut during a fold may leave a part of a page, which the log then has in full. A log is
    // cut when the file is whole, so it is looked at first.
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

/// A row of the old table of subnets: id, prefix, lowest address never handed out.
type OldSubnet = (i64, String, Option<Vec<u8>>);

/// From the schema that knew whole subnets only.
fn upgrade(connection: &mut Connection, path: &Path) -> Result<(), Error> {
    let failed = Error::database("upgrade", path);
    let transaction =
        connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(&failed)?;
    if schema_version(&transaction).map_err(&failed)? == SCHEMA_VERSION {
        // Another process was faster.
        return Ok(());
    }
    let renamed = "DROP INDEX allocation_owner; DROP INDEX resting_order; \
        DROP TRIGGER allocation_added; DROP TRIGGER allocation_removed; \
        DROP TRIGGER resting_added; DROP TRIGGER resting_removed; \
        ALTER TABLE allocation RENAME TO old_allocation; ALTER TABLE resting RENAME TO old_resting;";
    transaction
        .execute_batch(renamed)
        .and_then(|()| transaction.execute_batch(SCHEMA))
        .map_err(&failed)?;
    let old_subnets = || -> rusqlite::Result<Vec<OldSubnet>> {
        let mut statement = transaction.prepare("SELECT id, prefix, next FROM subnet")?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        rows.collect()
    };
    for (id, prefix, next) in old_subnets().map_err(&failed)? {
        let subnet = prefix.parse().map_err(|_| corrupt(path, format!("the subnet {prefix:?}")))?;
        let range = Range::whole(subnet);
        // A subnet without room was written down too; nothing can refer to it.
        if let Some((first, last)) = range.bounds() {
            transaction
                .execute(
                    "INSERT INTO pool (id, subnet, first, last, gateway, next) \
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                    params![id, prefix, to_key(first), to_key(last), to_key(range.gateway()), next],
                )
                .map_err(&failed)?;
        }
    }
    let mut statement = transaction
        .prepare("SELECT address, subnet, network, container, ifname, netns, allocated_at FROM old_allocation")
        .map_err(&failed)?;
    let mut rows = statement.query([]).map_err(&failed)?;
    while let Some(row) = rows.next().map_err(&failed)? {
        let text = |column: usize| row.get::<_, String>(column).map_err(&failed);
        let key: Vec<u8> = row.get(0).map_err(&failed)?;
        let attachment = Attachment::new(&text(2)?, &text(3)?, &text(4)?)
            .map_err(|error| corrupt(path, format!("a name that {error}")))?;
        transaction
            .execute(
                "INSERT INTO allocation VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0, ?7, '', ?8)",
                params![
                    to_key(parse_key(path, &key)?),
                    row.get::<_, i64>(1).map_err(&failed)?,
                    attachment.network(),
                    attachment.container(),
                    attachment.ifname(),
                    text(5)?,
                    attachment.host_device(),
                    row.get::<_, i64>(6).map_err(&failed)?,
                ],
            )
            .map_err(&failed)?;
    }
    drop(rows);
    drop(statement);
    transaction
        .execute_batch(
            "INSERT INTO resting SELECT sequence, subnet, address FROM old_resting; \
             DROP TABLE old_resting; DROP TABLE old_allocation; DROP TABLE subnet;",
        )
        .and_then(|()| transaction.pragma_update(None, "user_version", SCHEMA_VERSION))
        .and_then(|()| transaction.commit())
        .map_err(&failed)
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
/// SQLite's own folding leaves the log in place, to be written again from its start; but that the log
/// is folded is only known while some process has the store open, and here most processes are alone.
/// The log would then grow for ever, so this cuts it. A store that others are busy with is left to
/// them, and a failure costs nothing but a longer log.
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

/// Length at which the log is folded. The first process to open the store reads the whole log, so it
/// must stay short: this is about 20 pods, and read in well under a millisecond.
const LOG_BYTES: u64 = 512 * 1024;

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.to_owned().into_os_string();
    path.push(suffix);
    path.into()
}
