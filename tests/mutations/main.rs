//! `make mutants`: removes each check in turn and says which tests notice.
//!
//! Builds one copy of the source, under `target/mutants`, that has every mutant of `list.toml`
//! switched off, and runs its tests once for each with that one switched on. Fails if a mutant
//! lives. `MUTANTS` chooses those whose name contains it.

#![expect(clippy::unwrap_used, reason = "a test may fail where it stands")]
#![expect(clippy::print_stdout, reason = "a program for people")]

mod list;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode, Output};

/// The rungs that a mutant must get past: all that need no root.
const TESTS: &str = "test --locked --no-fail-fast -p overlay-proto -p culvert-dataplane -p culvert -p culvert-fuzz --lib \
                     --test golden --test properties --test simulation \
                     --test replay";

/// Those of the machines of table sources, which build by themselves.
const CLAIMS_TESTS: &str = "test --locked --no-fail-fast -p culvert-claims --lib --tests";

/// Those of sessions and handshakes.
const SEAL_TESTS: &str = "test --locked --no-fail-fast -p culvert-seal --lib --tests";

/// A mutant that makes a test go on for ever is noticed as well.
const PATIENCE: &str = "180";

fn main() -> ExitCode {
    let wanted = std::env::var("MUTANTS").unwrap_or_default();
    let mutations = list::read();
    let folder = list::root().join("target/mutants");
    let copy = folder.join("source");
    let mut files = list::mutated(&mutations).unwrap_or_else(|complaint| panic!("{complaint}"));
    for lib in [
        "crates/claims/src/lib.rs",
        "crates/dataplane/src/lib.rs",
        "crates/seal/src/lib.rs",
        "overlay-proto/src/lib.rs",
    ] {
        let text = fs::read_to_string(list::root().join(lib)).unwrap();
        files.insert(lib.to_owned(), text + list::SWITCH);
    }
    copy_source(&copy, &files);
    println!("building {} mutants at once", mutations.len());
    let chosen = || mutations.iter().filter(|mutation| mutation.name.contains(&wanted));
    for tests in chosen().map(tests_of).collect::<BTreeSet<_>>() {
        let whole = cargo(&copy, &folder, tests, "");
        let (failed, summary) = failures(&whole);
        assert!(
            whole.status.success() && failed.is_empty(),
            "without a mutant every test must pass: {failed:?} {summary}"
        );
    }
    let mut alive = 0;
    for mutation in chosen() {
        let output = cargo(&copy, &folder, tests_of(mutation), &mutation.name);
        let (failed, _) = failures(&output);
        let verdict = match (output.status.success(), failed.len()) {
            (true, _) => {
                alive += 1;
                "NOBODY NOTICES".to_owned()
            }
            (false, 0) => "a test hung or died".to_owned(),
            (false, count) => {
                let some: Vec<_> = failed.into_iter().take(2).collect();
                format!("{count} tests fail, such as {}", some.join(", "))
            }
        };
        println!("{:<28} {:<36} {verdict}", mutation.name, mutation.file);
    }
    if alive == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn tests_of(mutation: &list::Mutation) -> &'static str {
    match mutation.file.split('/').nth(1) {
        Some("claims") => CLAIMS_TESTS,
        Some("seal") => SEAL_TESTS,
        Some(_) | None => TESTS,
    }
}

fn cargo(copy: &Path, folder: &Path, tests: &str, mutant: &str) -> Output {
    let mut command = Command::new("timeout");
    if !mutant.is_empty() {
        command.args(["-k", "5", PATIENCE]);
    } else {
        command.args(["3600"]);
    }
    command
        .arg(env!("CARGO"))
        .args(tests.split_whitespace())
        .current_dir(copy)
        .env("CARGO_TARGET_DIR", folder.join("build"))
        .env("CULVERT_MUTANT", mutant)
        // Saved failures of one mutant must not be those of the next.
        .env("PROPTEST_FAILURE_PERSISTENCE", "off")
        .env("RUST_BACKTRACE", "0")
        .output()
        .expect("cargo and timeout run")
}

/// Names of the tests that failed, and the end of what cargo said.
fn failures(output: &Output) -> (BTreeSet<String>, String) {
    let text = String::from_utf8_lossy(&output.stdout);
    let failed = text
        .lines()
        .filter_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED"))
        .map(str::to_owned)
        .collect();
    let said = String::from_utf8_lossy(&output.stderr);
    let start = said.len().saturating_sub(3000);
    (failed, said.get(start..).unwrap_or_default().to_owned())
}

/// Copies what git tracks, or would if it were added. Files that are as they were keep their time,
/// so that cargo builds only what has changed.
fn copy_source(copy: &Path, mutated: &BTreeMap<String, String>) {
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
        write(
            &copy.join(&name),
            mutated.get(&name).map_or(bytes.as_slice(), |text| text.as_bytes()),
        );
    }
}

fn write(path: &Path, bytes: &[u8]) {
    if fs::read(path).is_ok_and(|old| old == bytes) {
        return;
    }
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}
