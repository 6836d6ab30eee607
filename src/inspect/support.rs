//! `culvert support`: what a helper would ask for, in one file.
//!
//! Each thing that is told is a field of a type of its own (`part.rs`, `machine.rs`): nothing is
//! taken out of anything, and what nobody thought of is told to nobody. What cannot be had is told
//! as that; a daemon that is down costs no more than its own part.

mod archive;
mod machine;
mod part;

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use culvert_dataplane::platform::clock;
use culvert_node::bounded_file;
use culvert_node::node_file::{DEFAULT_RUN_DIR, DEFAULT_STATE_DIR};
use serde::Serialize;

use self::archive::Archive;
use self::machine::{Machine, Networks};
use self::part::{ConfigPart, StatusPart};
use crate::config::{Config, Overrides};
use crate::{ipam, observe};

/// What `culvert support` takes.
#[derive(Debug, Args)]
#[command(after_long_help = NOTE)]
pub(crate) struct SupportArgs {
    /// Where to write it, instead of culvert-support-NODE.tar in this directory; `-` is standard
    /// output.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The daemon's configuration file.
    #[arg(
        long,
        env = "CULVERT_CONFIG",
        value_name = "FILE",
        default_value = "/etc/culvert/config.toml"
    )]
    config: PathBuf,
    /// Directory of the daemon's admin socket.
    #[arg(long, env = "CULVERT_RUN_DIR", value_name = "DIR", default_value = DEFAULT_RUN_DIR)]
    run_dir: PathBuf,
    /// Directory of the address store.
    #[arg(long, env = "CULVERT_STATE_DIR", value_name = "DIR", default_value = DEFAULT_STATE_DIR)]
    state_dir: PathBuf,
}

const NOTE: &str = "\
No key, no password, no file as it is, and no packet is in it; names and addresses of nodes and pods are.
The log is not in it: `journalctl -u culvert`, or `kubectl -n culvert logs POD`.

Exit codes: 0 written, whatever could not be had; 1 it could not be written; 2 a command line that makes
no sense.";

/// Runs the command.
///
/// # Errors
///
/// The file cannot be written.
pub(crate) fn run(args: &SupportArgs) -> anyhow::Result<ExitCode> {
    let mut bundle = Bundle::default();
    let status = bundle.add("status.json", observe::query(&args.run_dir), StatusPart::of);
    bundle.put("pods.json", observe::pods(&args.run_dir));
    let config = Config::read(&args.config, &Overrides::default());
    let config =
        bundle.add("config.json", config.map_err(|_| unread(&args.config)), ConfigPart::of);
    bundle.put("machine.json", Ok(Machine::read()));
    bundle.put("networks.json", Networks::read());
    bundle.put("addresses-check.json", ipam::check(&args.state_dir, &args.run_dir, &[]));
    bundle.put("addresses.json", ipam::list(&args.state_dir));

    let status = status.map(|status| status.node);
    let node = status.or_else(|| Some(config?.node.name)).unwrap_or_else(|| "node".to_owned());
    let to_stdout = args.output.as_deref() == Some(Path::new("-"));
    if to_stdout {
        bundle.write(io::stdout().lock())?;
    } else {
        let path = args.output.clone().unwrap_or_else(|| default_path(&node));
        let file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).with_context(
                || format!("making {}; name another one with --output", path.display()),
            )?;
        bundle.write(file)?;
        writeln!(io::stdout().lock(), "{}", path.display())?;
    }
    for (name, why) in &bundle.missing {
        // Where standard error is gone there is nobody left to tell.
        let _ = writeln!(io::stderr().lock(), "without {name}: {why}");
    }
    Ok(ExitCode::SUCCESS)
}

/// Why there is no configuration, without a word of what it says: a complaint shows what was
/// written.
fn unread(path: &Path) -> anyhow::Error {
    let path_text = path.display();
    match bounded_file::read(path, bounded_file::LARGE) {
        Err(error) => anyhow::anyhow!("{path_text}: {error}"),
        Ok(_) => anyhow::anyhow!("{path_text} is not valid: `culvert check` says where"),
    }
}

fn default_path(node: &str) -> PathBuf {
    // A name of a node is mostly one of a file too.
    let safe = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' };
    format!("culvert-support-{}.tar", node.chars().map(safe).collect::<String>()).into()
}

/// What there is, and what could not be had.
#[derive(Default)]
struct Bundle {
    files: Vec<(&'static str, Vec<u8>)>,
    missing: Vec<(&'static str, String)>,
}

/// The file that says what the others are.
#[derive(Serialize)]
struct About<'a> {
    schema: u32,
    program: &'static str,
    made: f64,
    files: Vec<&'static str>,
    missing: &'a [(&'static str, String)],
}

impl Bundle {
    /// Adds what of `found` may be told; returns it.
    fn add<T, P: Serialize>(
        &mut self,
        name: &'static str,
        found: anyhow::Result<T>,
        part: impl FnOnce(&T) -> P,
    ) -> Option<T> {
        match found {
            Ok(found) => {
                self.put(name, Ok(part(&found)));
                Some(found)
            }
            Err(error) => {
                self.missing.push((name, format!("{error:#}")));
                None
            }
        }
    }

    /// Adds what may be told whole.
    fn put<T: Serialize>(&mut self, name: &'static str, found: anyhow::Result<T>) {
        let text = found.and_then(|found| Ok(serde_json::to_vec_pretty(&found)?));
        match text {
            Ok(text) => self.files.push((name, text)),
            Err(error) => self.missing.push((name, format!("{error:#}"))),
        }
    }

    fn write(&self, out: impl Write) -> anyhow::Result<()> {
        let made = Duration::from_nanos(clock::unix_nanos());
        let about = About {
            schema: 1,
            program: env!("CARGO_PKG_VERSION"),
            made: made.as_secs_f64(),
            files: self.files.iter().map(|(name, _)| *name).collect(),
            missing: &self.missing,
        };
        let mut archive = Archive::new(io::BufWriter::new(out), made.as_secs());
        let about = serde_json::to_vec_pretty(&about)?;
        archive.add("culvert-support/about.json", &about)?;
        for (name, text) in &self.files {
            archive.add(&format!("culvert-support/{name}"), text)?;
        }
        archive.finish()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    #[test]
    fn configuration_that_is_no_file_is_said_to_be_none_and_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("config.toml");
        mknodat(CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        let why = unread(&fifo).to_string();
        assert!(why.contains("a FIFO"), "{why}");
    }
}
