//! The configuration file: taken, or refused with a complaint that says something.

use std::path::Path;

use culvert::config::{Config, Overrides};

pub(crate) fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    // Without a name of its own a node asks the machine for one.
    let overrides = Overrides { node_name: Some("node1".to_owned()), ..Overrides::default() };
    if let Err(complaint) = Config::parse(Path::new("config.toml"), text, &overrides) {
        assert!(!complaint.to_string().is_empty());
    }
}
