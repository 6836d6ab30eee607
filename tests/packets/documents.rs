//! The example that docs/packet-tests.md tells to copy.

use std::fs;
use std::path::Path;
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_example_runs_as_it_is_written() {
    let output = Command::new("sh")
        .arg("check.sh")
        .current_dir(root().join("examples/packet-test"))
        .env("CULVERT", env!("CARGO_BIN_EXE_culvert"))
        .output()
        .unwrap();
    let text = crate::text(&output);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("packets, all as expected"), "{text}");
}

#[test]
fn the_document_shows_the_examples_own_files() {
    let document = fs::read_to_string(root().join("docs/packet-tests.md")).unwrap();
    for file in ["check.sh", "table.toml", "web.expect"] {
        let path = root().join("examples/packet-test").join(file);
        let content = fs::read_to_string(path).unwrap();
        assert!(
            document.contains(content.trim_end()),
            "{file} differs from what the document shows"
        );
    }
}
