//! The committed corpus and every crash that was ever found, replayed.

#![expect(clippy::unwrap_used, reason = "a test may fail where it stands")]

#[cfg(feature = "daemon")]
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use culvert_fuzz::TARGETS;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// Runs one input; names it if the target panics, whose own message comes first.
fn run(run: fn(&[u8]), name: &str, input: &[u8]) {
    assert!(std::panic::catch_unwind(|| run(input)).is_ok(), "{name} broke the target");
}

#[test]
fn every_target_survives_its_corpus_and_its_regressions() {
    for target in TARGETS {
        let corpus = files(&folder("corpus").join(target.name));
        assert!(!corpus.is_empty(), "{} has no corpus", target.name);
        let regressions = files(&folder("regressions").join(target.name));
        for path in corpus.iter().chain(&regressions) {
            run(target.run, &path.display().to_string(), &fs::read(path).unwrap());
        }
    }
}

/// What a fuzzer tries first: nothing, one byte, and each input cut short or with one byte changed.
#[test]
fn every_target_survives_simple_changes_of_its_corpus() {
    for target in TARGETS {
        run(target.run, target.name, &[]);
        for path in files(&folder("corpus").join(target.name)) {
            let input = fs::read(&path).unwrap();
            // About sixteen places, spread over inputs of any length.
            for at in (0..input.len()).step_by(input.len().div_ceil(16).max(1)) {
                let name = format!("{} at {at}", path.display());
                run(target.run, &name, &input[..at]);
                let mut changed = input.clone();
                changed[at] ^= 1 << (at % 8);
                run(target.run, &name, &changed);
            }
        }
    }
}

// Without the daemon its targets are missing.
#[cfg(feature = "daemon")]
#[test]
fn every_folder_belongs_to_a_target() {
    let known: BTreeSet<_> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    for path in files(&folder("corpus")).into_iter().chain(files(&folder("regressions"))) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        assert!(known.contains(&name) || !path.is_dir(), "{} has no target", path.display());
    }
}
