//! `culvert status`: the daemon's state, once, repeatedly, or as soon as it is ready.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use culvert_dataplane::platform::clock;
use culvert_node::node_file::DEFAULT_RUN_DIR;
use culvert_node::words::plain;

use crate::observe::{self, Selection, Sort, Status};

/// What the program ends with while the node is not ready.
const NOT_READY: u8 = 3;

/// How often the daemon is asked while it is waited for.
const PAUSE: Duration = Duration::from_millis(100);

/// What `culvert status` takes.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct StatusArgs {
    /// Directory of the daemon's admin socket.
    #[arg(long, env = "CULVERT_RUN_DIR", value_name = "DIR", default_value = DEFAULT_RUN_DIR)]
    run_dir: PathBuf,
    /// Print JSON, with every peer.
    #[arg(long, conflicts_with_all = ["peer", "all", "sort"])]
    json: bool,
    /// Show only peers whose names contain this.
    #[arg(long, value_name = "NAME")]
    peer: Option<String>,
    /// Show every peer, not the first twenty.
    #[arg(long)]
    all: bool,
    /// Which peers come first.
    #[arg(long, value_enum, default_value_t)]
    sort: Sort,
    /// Wait until the node is ready, at most so many seconds.
    #[arg(long, value_name = "SECONDS")]
    wait: Option<u64>,
    /// Show it again every so many seconds, until interrupted.
    #[arg(
        long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2",
        value_parser = clap::value_parser!(u64).range(1..), conflicts_with = "wait"
    )]
    watch: Option<u64>,
}

const EXIT_CODES: &str = "Exit codes: 0 the node is ready; 3 it is not; 1 no daemon answers; \
                          2 a command line that makes no sense.";

/// Runs the command.
///
/// # Errors
///
/// No daemon answers.
pub(crate) fn run(args: &StatusArgs) -> anyhow::Result<ExitCode> {
    let mut status = match args.wait {
        Some(seconds) => wait(args, Duration::from_secs(seconds))?,
        None => observe::query(&args.run_dir)?,
    };
    loop {
        show(args, &status)?;
        let Some(seconds) = args.watch else { break };
        thread::sleep(Duration::from_secs(seconds));
        status = observe::query(&args.run_dir)?;
    }
    Ok(if status.ready { ExitCode::SUCCESS } else { NOT_READY.into() })
}

/// Asks until the node is ready; also while there is no daemon yet.
fn wait(args: &StatusArgs, limit: Duration) -> anyhow::Result<Status> {
    let start: Instant = clock::now();
    loop {
        let answer = observe::query(&args.run_dir);
        let is_over = start.elapsed() >= limit;
        match answer {
            Ok(status) if status.ready || is_over => return Ok(status),
            Err(error) if is_over => return Err(error),
            Ok(_) | Err(_) => thread::sleep(PAUSE),
        }
    }
}

fn show(args: &StatusArgs, status: &Status) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if args.watch.is_some() && out.is_terminal() {
        // Home, and clear (ECMA-48 CUP, ED).
        write!(out, "\x1b[H\x1b[2J")?;
    }
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(status)?)?;
    } else {
        let StatusArgs { peer, all, sort, .. } = args;
        let selection = Selection { peer: peer.clone(), all: *all, sort: *sort };
        writeln!(out, "{}", plain(&status.text(&selection).to_string()))?;
    }
    out.flush()
}
