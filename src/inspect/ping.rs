//! `culvert ping`: whether a peer answers inside the tunnel, by which paths, and how fast.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use culvert_dataplane::platform::clock;
use culvert_node::node_file::DEFAULT_RUN_DIR;
use serde::Serialize;

use crate::observe::{self, PingQuestion, PingRound};

/// Between two rounds: the peer answers 64 questions a second, and those by all paths are 16.
const PACE: Duration = Duration::from_secs(1);

const PATHS: u8 = 16;

/// What `culvert ping` takes.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct PingArgs {
    /// Name of a peer in the subnet table.
    node: String,
    /// Ask by every source port each time, and not by one after the other.
    #[arg(long)]
    all_paths: bool,
    /// How often to ask, once a second.
    #[arg(short, long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// Length of the underlay packets, in bytes; as short as can be if not set.
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u16).range(300..))]
    size: Option<u16>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Directory of the daemon's admin socket.
    #[arg(long, env = "CULVERT_RUN_DIR", value_name = "DIR", default_value = DEFAULT_RUN_DIR)]
    run_dir: PathBuf,
}

const EXAMPLES: &str = "\
Examples:
  Does node2 answer?
    culvert ping node2
  Which of the sixteen paths to it lose packets?
    culvert ping node2 --all-paths --count 10
  Do full packets of the underlay get there?
    culvert ping node2 --all-paths --size 1500

The questions take the way of pods' packets, sealed where those are, and the daemon of the peer answers
them; that of an older version, or another implementation, is asked by ICMP echo, which its kernel
answers. A path is a UDP source port: routers and cards that hash the outer header lead some of them
other ways.

Exit codes: 0 every question was answered; 1 some were not, no daemon answers, or there is no such peer;
2 a command line that makes no sense.";

/// What is known of one path.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
struct Row {
    path: u8,
    port: u16,
    sent: u32,
    lost: u32,
    least_us: Option<u64>,
    mean_us: Option<u64>,
    most_us: Option<u64>,
    /// Mean of the differences between answers that follow each other.
    jitter_us: Option<u64>,
    unsent: Option<String>,
    #[serde(skip)]
    times: Vec<u64>,
}

#[derive(Debug, Serialize)]
struct Report<'a> {
    node: &'a str,
    address: Option<std::net::IpAddr>,
    by: &'a str,
    version: Option<&'a str>,
    table: Option<&'a str>,
    paths: Vec<&'a Row>,
}

/// Runs the command.
///
/// # Errors
///
/// No daemon answers, or it has no such peer.
pub(crate) fn run(args: &PingArgs) -> anyhow::Result<ExitCode> {
    let mut rows = vec![Row::default(); PATHS.into()];
    let mut last = PingRound::default();
    for turn in 0..args.count {
        let began = clock::now();
        let one = 1_u16.rotate_left(turn);
        let question = PingQuestion {
            node: args.node.clone(),
            paths: if args.all_paths { u16::MAX } else { one },
            packet_len: args.size,
        };
        let round = observe::ping(&args.run_dir, &question)?;
        for path in &round.paths {
            if let Some(row) = rows.get_mut(usize::from(path.path.saturating_sub(1))) {
                row.add(path);
            }
        }
        last = PingRound {
            version: round.version.clone().or(last.version),
            table: round.table.clone().or(last.table),
            ..round
        };
        if turn + 1 < args.count {
            thread::sleep(PACE.saturating_sub(began.elapsed()));
        }
    }
    rows.iter_mut().for_each(Row::conclude);
    let asked: Vec<&Row> = rows.iter().filter(|row| row.path > 0).collect();
    let mut out = io::stdout().lock();
    if args.json {
        let report = Report {
            node: &last.node,
            address: last.address,
            by: &last.by,
            version: last.version.as_deref(),
            table: last.table.as_deref(),
            paths: asked.clone(),
        };
        writeln!(out, "{}", observe::Document::first(&report).text()?)?;
    } else {
        writeln!(out, "{}", text(&last, &asked))?;
    }
    let all = asked.iter().all(|row| row.lost == 0 && row.unsent.is_none());
    Ok(if all { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Row {
    fn add(&mut self, path: &observe::PingPath) {
        (self.path, self.port) = (path.path, path.port);
        if let Some(why) = &path.unsent {
            self.unsent = Some(why.clone());
            return;
        }
        self.sent += 1;
        match path.rtt_us {
            Some(time) => self.times.push(time),
            None => self.lost += 1,
        }
    }

    fn conclude(&mut self) {
        let times = &self.times;
        let mean = |sum: u64, count: usize| sum.checked_div(u64::try_from(count).ok()?);
        self.least_us = times.iter().min().copied();
        self.most_us = times.iter().max().copied();
        self.mean_us = mean(times.iter().sum(), times.len());
        let differences = times.windows(2).map(|pair| pair[0].abs_diff(pair[1]));
        self.jitter_us = mean(differences.sum(), times.len().saturating_sub(1));
    }
}

fn text(round: &PingRound, rows: &[&Row]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(["path", "port", "sent", "lost", "least", "mean", "most", "jitter", ""]);
    for column in 0..=7 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for row in rows {
        table.add_row([
            row.path.to_string(),
            row.port.to_string(),
            row.sent.to_string(),
            row.lost.to_string(),
            millis(row.least_us),
            millis(row.mean_us),
            millis(row.most_us),
            millis(row.jitter_us),
            row.unsent.clone().unwrap_or_default(),
        ]);
    }
    let (sent, lost) =
        rows.iter().fold((0, 0), |(sent, lost), row| (sent + row.sent, lost + row.lost));
    let who = match (&round.address, &round.version, &round.table) {
        (Some(address), Some(version), Some(table)) => {
            format!("{} at {address}, culvert {version}, table {table}", round.node)
        }
        (Some(address), ..) if round.by == "echo" => {
            format!("{} at {address}, asked by ICMP echo", round.node)
        }
        (Some(address), ..) => format!("{} at {address}", round.node),
        (None, ..) => round.node.clone(),
    };
    format!("{who}\n{}\n{sent} sent, {lost} lost", table.trim_fmt())
}

fn millis(micros: Option<u64>) -> String {
    #[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
    micros.map_or_else(|| "-".to_owned(), |micros| format!("{:.3} ms", micros as f64 / 1000.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::PingPath;

    fn row(times: &[Option<u64>]) -> Row {
        let mut row = Row::default();
        for rtt_us in times {
            row.add(&PingPath { path: 8, port: 36_837, rtt_us: *rtt_us, unsent: None });
        }
        row.conclude();
        row
    }

    #[test]
    fn a_path_is_told_by_its_losses_and_times() {
        let found = row(&[Some(300), None, Some(500), Some(400)]);
        assert_eq!((found.sent, found.lost), (4, 1));
        let times = [found.least_us, found.mean_us, found.most_us, found.jitter_us];
        assert_eq!(times, [300, 400, 500, 150].map(Some));
        let round = PingRound { node: "node2".to_owned(), ..PingRound::default() };
        let text = text(&round, &[&found]);
        assert!(text.contains("36837") && text.contains("0.400 ms"), "{text}");
        assert!(text.ends_with("4 sent, 1 lost"), "{text}");
    }

    #[test]
    fn a_path_that_never_answered_has_no_times() {
        let found = row(&[None, None]);
        assert_eq!((found.lost, found.least_us, found.jitter_us), (2, None, None));
    }
}
