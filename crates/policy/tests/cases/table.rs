//! Whether docs/policy.md says what is tested, and only that.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The names of the tests of this program.
fn tests() -> BTreeSet<String> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.ends_with("table.rs") {
            continue;
        }
        let text = fs::read_to_string(path).unwrap();
        for (at, _) in text.match_indices("#[test]\nfn ") {
            let rest = &text[at + "#[test]\nfn ".len()..];
            names.insert(rest.split('(').next().unwrap().to_owned());
        }
    }
    names
}

#[test]
fn every_row_of_the_table_of_semantics_has_its_test_and_every_test_its_row() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/policy.md");
    let text = fs::read_to_string(path).unwrap();
    let section = text.split("\n## What policies mean\n").nth(1).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let mut named = BTreeSet::new();
    let rows = section.lines().filter(|line| line.starts_with("| ")).skip(1);
    for row in rows {
        let shown: Vec<&str> = row.split('`').skip(1).step_by(2).collect();
        let is_test = |word: &&str| word.contains('_') && !word.contains([' ', '/']);
        let shown = shown.into_iter().filter(is_test);
        let shown: BTreeSet<String> = shown.map(str::to_owned).collect();
        assert!(!shown.is_empty(), "no test is named: {row}");
        named.extend(shown);
    }
    assert_eq!(named, tests());
}
