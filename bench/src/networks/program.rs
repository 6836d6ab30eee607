//! Programs of other packages: whether they are installed, running them, starting their daemons.

use std::env;
use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail};
use culvert_lab::Node;

/// What is missing of `programs`, and that the command `install` gets it.
pub(crate) fn missing(programs: &[&str], install: &str) -> Option<String> {
    let path = env::var_os("PATH").unwrap_or_default();
    let found = |program: &&&str| env::split_paths(&path).any(|dir| dir.join(program).is_file());
    let missing: Vec<&str> = programs.iter().filter(|program| !found(program)).copied().collect();
    let first = missing.first()?;
    Some(format!("{first} is not installed: `{install}`"))
}

/// Runs `command` to its end and returns what it printed.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?}: {}, {}", output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Starts a daemon on `node`, which the end of the lab ends.
pub(super) fn start(node: &Node, program: &str, arguments: &[&str]) -> Result<Child> {
    let log = File::create(node.log_path()).context("create a log")?;
    let twin = log.try_clone().context("open the log twice")?;
    node.netns()
        .command(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(twin)
        .stderr(log)
        // Out of reach of the terminal: Ctrl-C is for the bench.
        .process_group(0)
        .spawn()
        .with_context(|| format!("start {program}"))
}

/// A directory for the files of what runs on `node`, which goes with the lab.
pub(super) fn directory(node: &Node) -> Result<PathBuf> {
    let path = node.state_dir();
    fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
    Ok(path)
}
