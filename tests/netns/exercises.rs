//! docs/troubleshooting.md, as it is written: its commands, and the lines that it shows of what
//! they say.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use culvert_lab::{down, wait_for};

use crate::harness::{CULVERT, SOON};

/// What takes the place of the document's lab, which somebody may have up.
const LAB: &str = "nt-exercises";

/// A command of the document, with the lines that it is to print.
struct Step {
    command: String,
    lines: Vec<String>,
}

fn steps() -> Vec<Step> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/troubleshooting.md");
    let text = std::fs::read_to_string(path).unwrap();
    let mut steps: Vec<Step> = Vec::new();
    for block in text.split("```console\n").skip(1) {
        let block = block.split("```").next().unwrap();
        for line in block.lines() {
            match line.strip_prefix("$ ") {
                Some(command) => {
                    steps.push(Step { command: command.to_owned(), lines: Vec::new() });
                }
                None => steps.last_mut().unwrap().lines.push(line.to_owned()),
            }
        }
    }
    steps
}

/// Whether a line is as the document has it, where `…` is anything; also the number that stands
/// where the document has `PORT`.
fn reads_as(line: &str, pattern: &str) -> Option<Option<String>> {
    let Some((before, after)) = pattern.split_once("PORT") else {
        return is_like(line, pattern).then_some(None);
    };
    let rest = line.strip_prefix(before)?;
    let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (port, rest) = rest.split_at(digits);
    is_like(rest, after).then(|| Some(port.to_owned()))
}

fn is_like(line: &str, pattern: &str) -> bool {
    let mut parts = pattern.split('…');
    let Some(mut rest) = parts.next().and_then(|first| line.strip_prefix(first)) else {
        return false;
    };
    for part in parts {
        let Some(at) = rest.rfind(part).filter(|_| !part.is_empty()) else {
            // The pattern ends in anything.
            return part.is_empty();
        };
        rest = &rest[at + part.len()..];
    }
    rest.is_empty()
}

/// Runs the command until it says what the document says; the last output is the error.
fn run(step: &Step, known: &mut BTreeMap<&'static str, String>) {
    let filled = |text: &str| match known.get("PORT") {
        Some(port) => text.replace("PORT", port),
        None => text.to_owned(),
    };
    let command =
        filled(&step.command).replace("culvert lab ", &format!("{CULVERT} lab --name {LAB} "));
    let lines: Vec<String> = step.lines.iter().map(|line| filled(line)).collect();
    let mut printed = String::new();
    let mut port = None;
    let done = wait_for(SOON, &step.command, || {
        let output = Command::new("sh").args(["-c", &command]).output()?;
        printed = [output.stdout, output.stderr]
            .map(|bytes| String::from_utf8_lossy(&bytes).replace(LAB, "lab"))
            .concat();
        let missing = lines.iter().filter(|line| *line != "…").find(|line| {
            let found = printed.lines().find_map(|printed| reads_as(printed, line));
            if let Some(Some(found)) = &found {
                port = Some(found.clone());
            }
            found.is_none()
        });
        Ok(missing.is_none().then_some(()))
    });
    assert!(
        done.is_ok(),
        "$ {}\nshould say\n{}\nand says\n{printed}",
        step.command,
        lines.join("\n")
    );
    if let Some(port) = port {
        known.insert("PORT", port);
    }
}

#[test]
fn exercises_in_troubleshooting_say_what_the_document_says() {
    let steps = steps();
    assert!(steps.len() > 30, "{}", steps.len());
    down(LAB).unwrap();
    let mut known = BTreeMap::new();
    for step in &steps {
        run(step, &mut known);
    }
}

#[test]
fn documented_line_stands_for_what_it_should() {
    assert_eq!(
        reads_as("ok    daemon  ready, 4 workers", "ok    daemon  ready, … workers"),
        Some(None)
    );
    assert_eq!(reads_as("ok    daemon  ready, 4 cooks", "ok    daemon  ready, … workers"), None);
    assert_eq!(reads_as("state ready", "state not ready"), None);
    assert_eq!(reads_as("a b c d", "a … c …"), Some(None));
    assert_eq!(reads_as("a b", "a b c"), None);
    let port = reads_as("x source port 4711, path 3", "x source port PORT, path …");
    assert_eq!(port, Some(Some("4711".to_owned())));
}
