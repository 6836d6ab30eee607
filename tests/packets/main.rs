//! `culvert replay` on golden captures, as a user runs it.
//!
//! `CULVERT_BLESS=1 cargo test --test packets` (`make fixtures`) makes captures and expectations
//! anew.

#![expect(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod craft;
mod documents;
mod file;
mod fixtures;
mod output;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use culvert_dataplane::engine::DropReason;

/// Captures that come from a kernel, not from code; kernel.sh beside them makes them.
const KERNELS: [&str; 1] = ["kernel-gpe"];

pub(crate) fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pcap")
}

/// The keys of the sessions in a capture of this name, if it has any.
pub(crate) fn key_file(name: &str) -> PathBuf {
    directory().join(format!("{name}.esp_sa"))
}

/// `culvert replay` of a capture of this name on node1.
pub(crate) fn replay(name: &str, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_culvert"))
        .arg("replay")
        .arg(directory().join(format!("{name}.pcap")))
        .arg("--table")
        .arg(directory().join("table.toml"))
        .args(["--node", "node1"])
        .args(arguments)
        .output()
        .unwrap()
}

pub(crate) fn text(output: &Output) -> String {
    let [out, error] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    format!("{out}{error}")
}

fn expectation(name: &str) -> PathBuf {
    directory().join(format!("{name}.expect"))
}

fn bless() -> bool {
    std::env::var_os("CULVERT_BLESS").is_some()
}

/// The names of all captures in the directory.
fn names() -> BTreeSet<String> {
    let files = fs::read_dir(directory()).unwrap().map(|entry| entry.unwrap().path());
    files
        .filter(|path| path.extension().is_some_and(|extension| extension == "pcap"))
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect()
}

#[test]
fn captures_are_what_the_code_makes_and_meet_their_expectations() {
    for (name, bytes) in fixtures::all() {
        let path = directory().join(format!("{name}.pcap"));
        if bless() {
            fs::write(&path, &bytes).unwrap();
        }
        assert!(fs::read(&path).unwrap_or_default() == bytes, "{name}: run `make fixtures`");
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/packet-test/web.pcap");
    if bless() {
        fs::write(&path, fixtures::example()).unwrap();
    }
    assert!(fs::read(&path).unwrap_or_default() == fixtures::example(), "run `make fixtures`");
    let made = fixtures::all().into_iter().map(|(name, _)| name.to_owned());
    let known: BTreeSet<_> = made.chain(KERNELS.map(str::to_owned)).collect();
    assert_eq!(names(), known);
    for name in known {
        let expect = expectation(&name);
        let expect = expect.to_str().unwrap();
        let key_file = key_file(&name);
        let keys = if key_file.exists() {
            vec!["--key-file", key_file.to_str().unwrap()]
        } else {
            Vec::new()
        };
        if bless() {
            let output = replay(&name, &[&keys[..], &["--expect", expect, "--bless"]].concat());
            assert!(output.status.success(), "{name}: {}", text(&output));
        }
        for offload in ["on", "off"] {
            let with = ["--expect", expect, "--offload", offload];
            let output = replay(&name, &[&keys[..], &with].concat());
            assert!(output.status.success(), "{name}, offload {offload}: {}", text(&output));
        }
    }
}

#[test]
fn every_reason_to_drop_a_packet_that_packets_can_cause_is_in_a_capture() {
    let expected: String =
        names().iter().map(|name| fs::read_to_string(expectation(name)).unwrap()).collect();
    // These need a kernel that refuses something, or a peer that does.
    let kernels = [
        DropReason::PlaintextRefused,
        DropReason::UnknownSpi,
        DropReason::BadTrailer,
        DropReason::NoKey,
        DropReason::NoSession,
        DropReason::DatagramTruncated,
        DropReason::VnetHeader,
        DropReason::UnderlayFull,
        DropReason::UnderlayRefused,
        DropReason::TunFull,
        DropReason::TunRefused,
    ];
    for reason in DropReason::ALL.into_iter().filter(|reason| !kernels.contains(reason)) {
        let word = format!("reason={} ", reason.as_str());
        let found = expected.lines().any(|line| format!("{line} ").contains(&word));
        assert!(found, "no capture has a packet that is dropped for {}", reason.as_str());
    }
}

#[test]
fn every_capture_is_in_the_directorys_readme() {
    let readme = fs::read_to_string(directory().join("README.md")).unwrap();
    for name in names() {
        assert!(readme.contains(&format!("`{name}.pcap`")), "{name}.pcap has no line");
    }
}
