//! Every line of docs/security.md names tests, and the tests are there.

use std::fs;
use std::path::Path;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The rows of the document's tables, without the two lines that head each.
fn rows(document: &str) -> Vec<&str> {
    let lines: Vec<&str> = document.lines().collect();
    let is_row = |line: &str| line.starts_with("| ");
    let is_rule = |line: &str| line.starts_with("|--");
    lines
        .iter()
        .enumerate()
        .filter(|(place, line)| {
            is_row(line) && !lines.get(place + 1).is_some_and(|next| is_rule(next))
        })
        .map(|(_place, line)| *line)
        .collect()
}

/// The tests that a cell names.
fn tests(cell: &str) -> Vec<(&str, &str)> {
    cell.split('`').filter_map(|word| word.split_once("::")).collect()
}

#[test]
fn every_rule_names_a_test_that_is_there() {
    let document = read("docs/security.md");
    let rows = rows(&document);
    assert!(rows.len() > 10, "{rows:?}");
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").collect();
        let [rule, holds, named] = cells[..] else { panic!("not three cells: {row}") };
        assert!(!rule.trim().is_empty() && !holds.trim().is_empty(), "{row}");
        let tests = tests(named);
        assert!(!tests.is_empty(), "no test: {row}");
        for (file, function) in tests {
            let source = read(file);
            let head = format!("fn {function}(");
            let place = source.find(&head).unwrap_or_else(|| panic!("{file} has no {function}"));
            // The attribute is above, or above other attributes.
            let above = &source[source[..place].trim_end().rfind("\n\n").unwrap()..place];
            assert!(
                above.contains("#[test]") || above.contains("#[tokio::test]"),
                "{function} of {file} is no test"
            );
        }
    }
}
