//! The list of mutations keeps up with the code that it mutates.

#![expect(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod copy;
mod list;

use std::collections::BTreeSet;
use std::process::Command;

#[test]
fn every_mutation_still_has_its_place() {
    let mutations = list::read();
    let names: BTreeSet<_> = mutations.iter().map(|mutation| &mutation.name).collect();
    assert_eq!(names.len(), mutations.len(), "each has a name of its own");
    let files = list::mutated(&mutations).unwrap_or_else(|complaint| panic!("{complaint}"));
    for mutation in &mutations {
        assert!(files[&mutation.file].contains(&format!("\"{}\"", mutation.name)));
    }
    assert!(list::SWITCH.contains("CULVERT_MUTANT"));
}

/// A mutant that does not compile keeps all others from being tried.
#[test]
fn every_mutant_compiles() {
    let mutations = list::read();
    let copy = copy::write(&mutations).unwrap_or_else(|complaint| panic!("{complaint}"));
    // All libraries and one test, into the folder that lints use: dependencies then get the same
    // features as there, and are compiled once.
    let output = Command::new(env!("CARGO"))
        .args(["check", "--locked", "--quiet", "--workspace", "--lib", "--test", "mutations"])
        .current_dir(copy)
        .env("CARGO_TARGET_DIR", list::root().join("target"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
