//! Programs of the system, run in a namespace.

use std::ffi::OsStr;
use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::netns::Netns;

/// Runs `program` inside; it must succeed.
pub(super) fn run(netns: &Netns, program: &str, arguments: &[impl AsRef<OsStr>]) -> Result<()> {
    let mut command = netns.command(program);
    command.args(arguments);
    finish(netns, program, command, "")
}

/// Has `nft` inside do what `script` says, all of it or nothing.
pub(super) fn nft(netns: &Netns, script: &str) -> Result<()> {
    let mut command = netns.command("nft");
    command.args(["-f", "-"]);
    finish(netns, "nft", command, script)
}

fn finish(netns: &Netns, program: &str, mut command: Command, input: &str) -> Result<()> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("run {program}"))?;
    // A program that has ended does not read, and says why.
    let _ = child.stdin.take().map(|mut stdin| stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().with_context(|| format!("wait for {program}"))?;
    if output.status.success() {
        return Ok(());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    let complaint = complaint.trim();
    if complaint.contains("No such file or directory") && complaint.contains("exec of") {
        bail!(
            "`{program}` is missing: install the package that has it (nftables, iptables, iproute2)"
        );
    }
    bail!("`{program}` in {}: {complaint}", netns.name());
}
