//! Running iproute2's `ip`.
//!
//! Owns calling the program and saying what it refused. Never decides what to build. Many changes
//! go through one process (`ip -batch`): a lab is dozens of them.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, anyhow, bail};

/// `ip`, with `arguments`, and what it printed.
///
/// # Errors
///
/// `ip` is missing, or refused.
pub(crate) fn run(arguments: &[&str]) -> Result<String> {
    let output = Command::new("ip").args(arguments).output().map_err(missing)?;
    if !output.status.success() {
        bail!("`ip {}`: {}", arguments.join(" "), complaint(&output));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs the commands of `script`, one a line, in the namespace `netns`, or in this process's own.
/// Stops at the first that fails.
///
/// # Errors
///
/// `ip` is missing, or refused a line; the line is part of the error.
pub(crate) fn batch(netns: Option<&str>, script: &str) -> Result<()> {
    let in_netns = netns.map_or_else(Vec::new, |netns| vec!["-n", netns]);
    feed(&in_netns, script).map_err(|error| match netns {
        Some(netns) => anyhow!("{error}, in the namespace {netns}"),
        None => error,
    })
}

/// Runs the commands of `script`, one a line, all of them, whichever fail.
///
/// # Errors
///
/// `ip` is missing, or refused a line.
pub(crate) fn batch_all(script: &str) -> Result<()> {
    feed(&["-force"], script)
}

fn feed(options: &[&str], script: &str) -> Result<()> {
    let mut child = Command::new("ip")
        .args(options)
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(missing)?;
    let mut stdin = child.stdin.take().context("open a pipe")?;
    // A program that stopped reading says why on stderr; that is the error to report.
    let written = stdin.write_all(script.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().context("wait for `ip`")?;
    if output.status.success() {
        return written.context("write to `ip`");
    }
    let mut message = complaint(&output);
    if let Some(line) = failed_line(&message).and_then(|number| script.lines().nth(number - 1)) {
        let _ = write!(message, ", in `{line}`");
    }
    bail!("ip: {message}");
}

/// The number of the line that `ip -batch -` says it failed at.
fn failed_line(message: &str) -> Option<usize> {
    let (_, rest) = message.split_once("Command failed -:")?;
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok().filter(|number| *number > 0)
}

fn complaint(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if lines.is_empty() { output.status.to_string() } else { lines.join("; ") }
}

/// Says which package has the program, if it is missing.
fn missing(error: io::Error) -> anyhow::Error {
    if error.kind() == io::ErrorKind::NotFound {
        return anyhow!("`ip` is missing: install the package iproute2");
    }
    anyhow::Error::new(error).context("run `ip`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_failed_line_is_found_in_the_complaint() {
        assert_eq!(failed_line("RTNETLINK answers: File exists; Command failed -:3"), Some(3));
        assert_eq!(failed_line("Cannot open network namespace"), None);
    }
}
