//! The `nft` program: applying and listing one nftables table.
//!
//! Owns running the program and reading its answer. Never writes a rule: callers bring the text. Runs
//! on the control runtime; a program that hangs is killed after ten seconds.

use std::io;
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::platform::{Error, Result};

/// Program of the Debian package of the name in [`PACKAGE`].
const PROGRAM: &str = "nft";
const PACKAGE: &str = "nftables";

/// A transaction takes milliseconds; one that waits this long waits for something that hangs.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Applies `script` as one transaction: all of it or nothing.
///
/// # Errors
///
/// `NotFound` when the program is missing, else what the program printed.
pub async fn apply(table: &str, script: &str) -> Result<()> {
    let output = run(&["-f", "-"], script)
        .await
        .map_err(|error| Error::new("apply nft table", table, error))?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::new("apply nft table", table, said(&output)))
}

/// Lists `table`, named with its family ("inet culvert"), without counters; absent is an answer.
///
/// # Errors
///
/// `NotFound` when the program is missing, else what the program printed.
pub async fn list(table: &str) -> Result<Option<String>> {
    let mut arguments = vec!["-s", "list", "table"];
    arguments.extend(table.split(' '));
    let output =
        run(&arguments, "").await.map_err(|error| Error::new("list nft table", table, error))?;
    if output.status.success() {
        return Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned()));
    }
    if String::from_utf8_lossy(&output.stderr).contains("No such file or directory") {
        return Ok(None);
    }
    Err(Error::new("list nft table", table, said(&output)))
}

/// Whether `error` says that the program is not installed.
#[must_use]
pub fn is_missing(error: &Error) -> bool {
    error.cause.kind() == io::ErrorKind::NotFound
}

async fn run(arguments: &[&str], input: &str) -> io::Result<Output> {
    let mut child = Command::new(PROGRAM)
        .args(arguments)
        // The answer is matched by its text, so it must not be translated.
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                io::Error::new(
                    error.kind(),
                    format!("the program {PROGRAM} is missing; install the package {PACKAGE}"),
                )
            } else {
                error
            }
        })?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that refuses its arguments exits without reading; its own words matter more.
        let _closed_early = stdin.write_all(input.as_bytes()).await;
    }
    tokio::time::timeout(TIMEOUT, child.wait_with_output()).await.map_err(|_elapsed| {
        io::Error::new(
            io::ErrorKind::TimedOut,
            format!("{PROGRAM} did not finish within {} s", TIMEOUT.as_secs()),
        )
    })?
}

fn said(output: &Output) -> io::Error {
    io::Error::other(format!(
        "{PROGRAM} ({}): {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    ))
}
