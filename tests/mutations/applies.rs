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
    for package in mutations.iter().map(list::Mutation::package).collect::<BTreeSet<_>>() {
        let output = Command::new(env!("CARGO"))
            .args(["check", "--locked", "--quiet", "--no-default-features", "--lib"])
            .current_dir(copy.source.join(package))
            .env("CARGO_TARGET_DIR", &copy.build)
            .output()
            .expect("cargo runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{package}: {said}");
    }
}
