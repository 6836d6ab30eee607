//! A file that was cut, overwritten, or written by another version.

use rusqlite::params;

use super::*;

fn database(dir: &TempDir) -> PathBuf {
    dir.path().join(DIRECTORY).join(DATABASE)
}

/// A store with a hundred pods, folded into one file.
fn filled() -> TempDir {
    let (dir, mut store) = store();
    for number in 0..100 {
        add(&mut store, number, &["10.0.0.0/24"]).unwrap();
    }
    store
        .connection
        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0))
        .unwrap();
    dir
}

/// What opening, allocating and reading say, whichever fails first.
fn use_it(dir: &TempDir) -> Result<usize, Error> {
    let mut store = Store::open(dir.path())?.expect("there is a file");
    add(&mut store, 500, &["10.0.0.0/24"])?;
    Ok(store.records()?.len())
}

#[test]
fn truncated_file_is_an_error_that_names_the_remedy_and_never_an_empty_store() {
    let whole = fs::metadata(database(&filled())).unwrap().len();
    for length in [0, 1, 99, 100, 4096, 5000, whole / 2, whole - 4096, whole - 512, whole - 1] {
        let dir = filled();
        fs::OpenOptions::new().write(true).open(database(&dir)).unwrap().set_len(length).unwrap();
        let error = use_it(&dir).unwrap_err();
        assert!(error.is_damage(), "{length} of {whole} bytes: {error:?}");
        let text = error.to_string();
        assert!(text.contains("culvert ipam rebuild") && text.contains(DATABASE), "{text}");
    }
}

#[test]
fn garbage_is_an_error_that_names_the_remedy() {
    for garbage in [vec![0x55; 8192], b"not a database".to_vec(), vec![0; 4096]] {
        let dir = filled();
        fs::write(database(&dir), garbage).unwrap();
        let error = use_it(&dir).unwrap_err();
        assert!(error.is_damage(), "{error:?}");
        assert!(error.to_string().contains("culvert ipam rebuild"), "{error}");
    }
}

#[test]
fn damaged_file_is_set_aside_whole_and_makes_room_for_a_new_one() {
    let dir = filled();
    fs::write(database(&dir), vec![0x55; 8192]).unwrap();
    let aside = set_aside(dir.path()).unwrap().unwrap();
    assert_eq!(fs::read(&aside).unwrap(), vec![0x55; 8192]);
    assert_eq!(set_aside(dir.path()).unwrap(), None);
    let mut store = Store::open_or_create(dir.path()).unwrap();
    assert_eq!(add(&mut store, 0, &["10.0.0.0/24"]).unwrap(), ["10.0.0.2"]);
    drop(store);
    // A second copy does not replace the first.
    assert_ne!(set_aside(dir.path()).unwrap().unwrap(), aside);
    assert_eq!(fs::read(&aside).unwrap(), vec![0x55; 8192]);
}

#[test]
fn log_of_a_database_that_was_removed_is_not_taken_for_the_new_ones() {
    let (dir, mut store) = store();
    add(&mut store, 0, &["10.0.0.0/24"]).unwrap();
    std::mem::forget(store);
    fs::remove_file(database(&dir)).unwrap();
    let mut store = Store::open_or_create(dir.path()).unwrap();
    assert_eq!(store.records().unwrap(), []);
    assert_eq!(store.faults().unwrap(), Vec::<String>::new());
}

#[test]
fn wrong_counter_is_found() {
    let (_dir, mut store) = store();
    add(&mut store, 0, &["10.0.0.0/24"]).unwrap();
    assert_eq!(store.faults().unwrap(), Vec::<String>::new());
    store.connection.execute("UPDATE pool SET in_use = 7", []).unwrap();
    assert_eq!(store.faults().unwrap(), ["the counters of 10.0.0.0/24 are wrong"]);
}

/// The schema that knew whole subnets only, with one address held and one resting.
const FIRST_SCHEMA: &str = "
    CREATE TABLE subnet (id INTEGER PRIMARY KEY, prefix TEXT NOT NULL UNIQUE, next BLOB,
        in_use INTEGER NOT NULL DEFAULT 0, resting INTEGER NOT NULL DEFAULT 0) STRICT;
    CREATE TABLE allocation (address BLOB PRIMARY KEY,
        subnet INTEGER NOT NULL REFERENCES subnet (id), network TEXT NOT NULL,
        container TEXT NOT NULL, ifname TEXT NOT NULL, netns TEXT NOT NULL,
        allocated_at INTEGER NOT NULL DEFAULT (unixepoch())) STRICT, WITHOUT ROWID;
    CREATE INDEX allocation_owner ON allocation (network, container, ifname);
    CREATE TABLE resting (sequence INTEGER PRIMARY KEY,
        subnet INTEGER NOT NULL REFERENCES subnet (id), address BLOB NOT NULL UNIQUE) STRICT;
    CREATE INDEX resting_order ON resting (subnet, sequence);
    CREATE TRIGGER allocation_added AFTER INSERT ON allocation BEGIN
        UPDATE subnet SET in_use = in_use + 1 WHERE id = NEW.subnet; END;
    CREATE TRIGGER allocation_removed AFTER DELETE ON allocation BEGIN
        UPDATE subnet SET in_use = in_use - 1 WHERE id = OLD.subnet; END;
    CREATE TRIGGER resting_added AFTER INSERT ON resting BEGIN
        UPDATE subnet SET resting = resting + 1 WHERE id = NEW.subnet; END;
    CREATE TRIGGER resting_removed AFTER DELETE ON resting BEGIN
        UPDATE subnet SET resting = resting - 1 WHERE id = OLD.subnet; END;
    INSERT INTO subnet (prefix, next) VALUES ('10.0.0.0/29', x'040a000004'), ('10.0.9.0/31', NULL);
    INSERT INTO allocation VALUES (x'040a000002', 1, 'pods', 'c0', 'eth0', '/x', 1700000001);
    INSERT INTO resting (subnet, address) VALUES (1, x'040a000003');
    PRAGMA user_version = 1;
";

#[test]
fn store_of_the_first_schema_is_upgraded_with_all_it_holds() {
    let dir = TempDir::new().unwrap();
    fs::create_dir(dir.path().join(DIRECTORY)).unwrap();
    let old = Connection::open(database(&dir)).unwrap();
    old.pragma_update(None, "journal_mode", "WAL").unwrap();
    old.execute_batch(FIRST_SCHEMA).unwrap();
    old.close().unwrap();
    let mut store = Store::open(dir.path()).unwrap().unwrap();
    let records = store.records().unwrap();
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].attachment, pod(0));
    assert_eq!(records[0].allocated_at, 1_700_000_001);
    assert_eq!(records[0].boot, "");
    let given: Vec<_> =
        (1..5).map(|number| add(&mut store, number, &["10.0.0.0/29"]).unwrap().remove(0)).collect();
    assert_eq!(given, ["10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.3"]);
    assert_eq!(store.faults().unwrap(), Vec::<String>::new());
    drop(store);
    assert_eq!(Store::open(dir.path()).unwrap().unwrap().records().unwrap().len(), 5);
}

#[test]
fn row_that_this_program_cannot_have_written_is_damage() {
    let (dir, mut store) = store();
    add(&mut store, 0, &["10.0.0.0/24"]).unwrap();
    store.connection.execute("UPDATE allocation SET container = ?1", params!["../x"]).unwrap();
    drop(store);
    let mut store = Store::open(dir.path()).unwrap().unwrap();
    let error = store.records().unwrap_err();
    assert!(error.is_damage(), "{error:?}");
}
