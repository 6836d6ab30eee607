//! A copy of the source that has every mutant, each switched off until it is named.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::list::{self, Mutation};

/// Writes the copy, or brings it up to date, and says where it is.
///
/// # Errors
///
/// What is wrong with the list.
pub(crate) fn write(mutations: &[Mutation]) -> Result<PathBuf, String> {
    let mut files = list::mutated(mutations)?;
    let crates: BTreeSet<_> = mutations.iter().map(Mutation::package).collect();
    for package in crates {
        let lib = format!("{package}/src/lib.rs");
        let text =
            files.remove(&lib).map_or_else(|| fs::read_to_string(list::root().join(&lib)), Ok);
        files.insert(lib.clone(), text.map_err(|e| format!("{lib}: {e}"))? + list::SWITCH);
    }
    let copy = list::root().join("target/mutants/source");
    copy_tracked(&copy, &files);
    Ok(copy)
}

/// Copies what git tracks, or would if it were added. Files that are as they were keep their time,
/// so that cargo builds only what has changed.
fn copy_tracked(copy: &Path, mutated: &BTreeMap<String, String>) {
    let listed = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(list::root())
        .output()
        .expect("git lists the source");
    assert!(listed.status.success(), "git ls-files failed");
    for name in listed.stdout.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let name = String::from_utf8(name.to_vec()).unwrap();
        // A deleted file is still listed.
        let Ok(bytes) = fs::read(list::root().join(&name)) else { continue };
        write_changed(
            &copy.join(&name),
            mutated.get(&name).map_or(bytes.as_slice(), |text| text.as_bytes()),
        );
    }
}

fn write_changed(path: &Path, bytes: &[u8]) {
    if fs::read(path).is_ok_and(|old| old == bytes) {
        return;
    }
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}
