//! `culvert flows`: who talks to whom, as a running daemon sees it or a file has it.

mod filter;
mod sum;

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use culvert_node::node_file::DEFAULT_RUN_DIR;
use culvert_node::words::{counted, plain};

use self::filter::{Filter, FilterArgs};
use self::sum::Sum;
#[cfg(test)]
pub(super) use self::sum::tests::flow as example;
pub(super) use self::sum::{short, tuple};
use super::absent;
use crate::observe::{self, FlowRecord};

/// What `culvert flows` takes.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct FlowsArgs {
    #[command(flatten)]
    filter: FilterArgs,
    /// Print each second's flows as they come, until interrupted, instead of their sums.
    #[arg(short, long)]
    follow: bool,
    /// Look for so many seconds.
    #[arg(
        long = "for", value_name = "SECONDS", default_value_t = 3, conflicts_with_all = ["follow", "read"],
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    seconds: u32,
    /// Ask no daemon: read what flows.export has written.
    #[arg(long, value_name = "FILE", conflicts_with = "run_dir")]
    read: Option<PathBuf>,
    /// Print JSON, one object in a line for each flow.
    #[arg(long)]
    json: bool,
    /// Directory of the daemon's admin socket.
    #[arg(long, env = "CULVERT_RUN_DIR", value_name = "DIR", default_value = DEFAULT_RUN_DIR)]
    run_dir: PathBuf,
}

const EXAMPLES: &str = "\
Examples:
  What does a pod talk to?
    culvert flows --pod 10.244.1.2
  Whose packets are dropped, and why?
    culvert flows --follow --verdict drop
  What came from outside of the pod's own node in the last hour, by the file of flows.export?
    culvert flows --read /var/lib/culvert/flows.jsonl --since 1h --to 10.244.1.0/24

Each worker looks at the first 1,000 packets of a second, so that a single ping is seen, and then at one
in 64 (flows.sample); of those that are dropped, at 5,000. Counts are what that stands for. Packets
between pods of one node, and to the world outside, do not pass the daemon.

Exit codes: 0 done; 1 no daemon answers, or a file that cannot be read; 2 a command line that makes no
sense.";

/// Runs the command.
///
/// # Errors
///
/// Nobody answers, or the file is none of flows.
pub(crate) fn run(args: &FlowsArgs) -> anyhow::Result<ExitCode> {
    let filter = args.filter.filter();
    let mut show = Show { args, sum: Sum::default(), out: io::stdout().lock() };
    let nothing = match &args.read {
        Some(path) => {
            read(path, |flow| show.take(&flow, &filter))?;
            format!("{} has no such packet", path.display())
        }
        None => {
            let (pods, peer) = args.filter.named();
            absent::say(&args.run_dir, &pods, peer);
            follow(args, |flow| show.take(&flow, &filter))?
        }
    };
    show.finish(&nothing)?;
    Ok(ExitCode::SUCCESS)
}

/// Prints flows, or sums them up first.
struct Show<'a, W> {
    args: &'a FlowsArgs,
    sum: Sum,
    out: W,
}

impl<W: Write> Show<'_, W> {
    fn take(&mut self, flow: &FlowRecord, filter: &Filter) -> anyhow::Result<()> {
        if !filter.wants(flow) {
            return Ok(());
        }
        if !self.args.follow {
            self.sum.add(flow);
            return Ok(());
        }
        if self.args.json {
            serde_json::to_writer(&mut self.out, flow).map_err(io::Error::from)?;
            self.out.write_all(b"\n")?;
        } else {
            writeln!(self.out, "{} {}", plain(&flow.time), plain(&sum::line(flow)))?;
        }
        self.out.flush()?;
        Ok(())
    }

    /// Prints the sums; `nothing` if there are none.
    fn finish(mut self, nothing: &str) -> anyhow::Result<()> {
        if self.args.follow {
            return Ok(());
        }
        if self.sum.others() > 0 {
            // Where standard error is gone there is nobody left to tell.
            let others = counted(self.sum.others(), "packet");
            let _ = writeln!(io::stderr().lock(), "{others} of more flows than are told apart");
        }
        if self.args.json {
            for flow in self.sum.flows() {
                serde_json::to_writer(&mut self.out, &flow).map_err(io::Error::from)?;
                self.out.write_all(b"\n")?;
            }
        } else if self.sum.is_empty() {
            writeln!(self.out, "{}", plain(nothing))?;
        } else {
            write!(self.out, "{}", plain(&self.sum.to_string()))?;
        }
        self.out.flush()?;
        Ok(())
    }
}

/// Longest line of a file: a flow with long names is not half of it.
const LONGEST_LINE: u64 = 16 << 10;

/// Reads a file that the daemon may be writing to: half a line at its end is not there yet.
fn read(path: &Path, mut take: impl FnMut(FlowRecord) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let file = File::open(path).with_context(|| format!("reading {}", path.display()))?;
    let mut reader = BufReader::new(file);
    let mut line = String::new();
    for number in 1_u64.. {
        line.clear();
        let some = reader.by_ref().take(LONGEST_LINE).read_line(&mut line);
        some.with_context(|| format!("reading {}", path.display()))?;
        if !line.ends_with('\n') {
            let is_whole = u64::try_from(line.len()).is_ok_and(|len| len < LONGEST_LINE);
            anyhow::ensure!(
                is_whole,
                "{}:{number}: not a flow as flows.export writes them: the line is too long",
                path.display()
            );
            break;
        }
        let flow = serde_json::from_str(&line).with_context(|| {
            format!("{}:{number}: not a flow as flows.export writes them", path.display())
        })?;
        take(flow)?;
    }
    Ok(())
}

/// Looks at a daemon's flows for as long as was asked for; returns what is to be said if there are
/// none.
fn follow(
    args: &FlowsArgs,
    mut take: impl FnMut(FlowRecord) -> anyhow::Result<()>,
) -> anyhow::Result<String> {
    let mut stream = observe::open_flows(&args.run_dir)?;
    let (mut others, mut missed, mut seconds) = (0_u64, 0_u64, 0.0);
    let mut left = if args.follow { u32::MAX } else { args.seconds };
    while left > 0 {
        let Some(batch) = stream.next()? else {
            anyhow::bail!("the daemon of {} has ended", args.run_dir.display());
        };
        others += batch.others;
        missed += batch.missed;
        seconds += batch.seconds;
        for flow in batch.flows {
            take(flow)?;
        }
        left -= u32::from(left != u32::MAX);
    }
    if others + missed > 0 {
        // Where standard error is gone there is nobody left to tell.
        let _ = writeln!(
            io::stderr().lock(),
            "{} of flows that there was no room for; {} lost",
            counted(others, "packet"),
            counted(missed, "sample")
        );
    }
    Ok(stream.start.nothing("such packet", seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_with_a_line_without_end_is_refused_before_it_fills_the_memory() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), vec![b'a'; 1 << 20]).unwrap();
        let error = read(file.path(), |_| Ok(())).unwrap_err();
        assert!(format!("{error:#}").contains("the line is too long"), "{error:#}");
        // Half a line is one that is being written.
        std::fs::write(file.path(), b"{\"time\":").unwrap();
        read(file.path(), |_| Ok(())).unwrap();
    }
}
