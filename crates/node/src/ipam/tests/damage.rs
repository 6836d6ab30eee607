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
    let mut store = Store::open_or_create(dir.path(), &mut no_ports()).unwrap();
    let aside = store.restored().unwrap().old.clone().unwrap();
    assert_eq!(fs::read(&aside).unwrap(), vec![0x55; 8192]);
    assert_eq!(add(&mut store, 0, &["10.0.0.0/24"]).unwrap(), ["10.0.0.2"]);
    drop(store);
    // A second copy does not replace the first.
    let again = Store::rebuild(dir.path(), &mut no_ports()).unwrap();
    assert_ne!(again.restored().unwrap().old.clone().unwrap(), aside);
    assert_eq!(fs::read(&aside).unwrap(), vec![0x55; 8192]);
}

#[test]
fn store_of_an_earlier_schema_is_made_anew() {
    let dir = filled();
    let file = Connection::open(database(&dir)).unwrap();
    file.pragma_update(None, "user_version", schema::SCHEMA_VERSION - 1).unwrap();
    file.close().unwrap();
    let error = Store::open(dir.path()).unwrap_err();
    assert!(error.is_damage() && error.to_string().contains("culvert ipam rebuild"), "{error}");
    let store = Store::open_or_create(dir.path(), &mut no_ports()).unwrap();
    assert!(store.restored().unwrap().old.is_some());
}

#[test]
fn log_of_a_database_that_was_removed_is_not_taken_for_the_new_ones() {
    let (dir, mut store) = store();
    add(&mut store, 0, &["10.0.0.0/24"]).unwrap();
    std::mem::forget(store);
    fs::remove_file(database(&dir)).unwrap();
    let mut store = Store::open_or_create(dir.path(), &mut no_ports()).unwrap();
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
