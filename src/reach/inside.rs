//! What runs inside a pod: `culvert test answer` and `culvert test ask`.

use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use culvert_reach::{Patience, Server, ask_all};

#[derive(Debug, Args)]
pub(super) struct AnswerArgs {
    /// The port; 0 is one of the kernel's choice.
    #[arg(long, default_value_t = culvert_reach::DEFAULT_PORT)]
    port: u16,
    /// Answer until this program is ended, and not until standard input is.
    #[arg(long)]
    stay: bool,
}

#[derive(Debug, Args)]
pub(super) struct AskArgs {
    /// How long each answer may take, in milliseconds.
    #[arg(long)]
    patience: u64,
    /// Whom to ask.
    #[arg(required = true)]
    targets: Vec<SocketAddr>,
}

/// Answers; says by which port in a line of its own.
pub(super) fn answer(args: &AnswerArgs) -> anyhow::Result<()> {
    let server = Server::start(args.port)?;
    let mut out = io::stdout().lock();
    writeln!(out, "{}", server.port())?;
    out.flush()?;
    if args.stay {
        loop {
            std::thread::park();
        }
    }
    // Whoever started this holds the other end: when he is gone, however that came, it ends.
    let mut ignored = [0; 256];
    let mut input = io::stdin().lock();
    while input.read(&mut ignored).context("wait for the end of standard input")? > 0 {}
    Ok(())
}

/// Asks, and prints a line for each target when all about it is known.
pub(super) fn ask(args: &AskArgs) -> anyhow::Result<()> {
    ask_all(&args.targets, Patience::of(Duration::from_millis(args.patience)), &|found| {
        let Ok(line) = serde_json::to_string(&found) else { return };
        // A reader that is gone ends the program that it started.
        let _ = writeln!(io::stdout().lock(), "{line}");
    });
    Ok(())
}
