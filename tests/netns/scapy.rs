//! What scapy reads of sealed datagrams: unlike tshark it checks tags, so that it says what a
//! stranger's implementation of ESP would take and what it would refuse.

use std::path::{Path, PathBuf};
use std::process::Command;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

/// What became of each frame of a capture with the lines of a key log. The interpreter is the one
/// that has scapy, whichever another comes first.
pub(crate) fn read(keys: &Path, capture: &Path) -> Vec<String> {
    let script = folder().join("netns/scapy/open.py");
    let mut command = Command::new("/usr/bin/python3");
    let output = command.arg(script).args([keys, capture]).output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{complaint}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect()
}

/// Asserts of a frame that it was opened, and that no changed copy of it was.
#[track_caller]
pub(crate) fn assert_opened(verdict: &str) {
    assert!(verdict.starts_with("opened "), "{verdict}");
    assert!(verdict.contains(" padding=least changed=0 "), "{verdict}");
}

/// The capture that the daemon's own verdicts are kept for: what it would deliver scapy opens, and
/// nothing else but what is refused for what is inside, or for having been there before.
#[test]
fn scapy_takes_and_refuses_what_the_daemon_takes_and_refuses() {
    let fixtures = folder().join("fixtures/pcap");
    let verdicts = read(&fixtures.join("sealed.esp_sa"), &fixtures.join("sealed.pcap"));
    let expected = std::fs::read_to_string(fixtures.join("sealed.expect")).unwrap();
    let mut seen = 0;
    for line in expected.lines().filter(|line| !line.starts_with('#')) {
        let (frames, ours) = line.split_once(' ').unwrap();
        let (first, last) = frames.split_once('-').unwrap_or((frames, frames));
        for frame in first.parse::<usize>().unwrap()..=last.parse().unwrap() {
            let theirs = &verdicts[frame - 1];
            seen += 1;
            if ["bad_tag", "esp_format"].iter().any(|reason| ours.contains(reason)) {
                assert_eq!(theirs, "refused", "frame {frame}: {ours}");
            } else if ["deliver", "replayed", "spoofed_source", "dummy"]
                .iter()
                .any(|word| ours.contains(word))
            {
                assert_opened(theirs);
                assert_eq!(theirs.starts_with("opened 59 "), ours.contains("dummy"), "{ours}");
            } else {
                assert!(["unknown", "handshake"].contains(&theirs.as_str()), "{frame}: {theirs}");
            }
        }
    }
    assert_eq!(seen, verdicts.len());
}
