//! The list of mutations keeps up with the code that it mutates.

#![expect(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod list;

use std::collections::BTreeSet;

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
