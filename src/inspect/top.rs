//! `culvert top`: which pods, peers or flows move most, again and again.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use comfy_table::{CellAlignment, Table, presets};
use culvert_node::node_file::DEFAULT_RUN_DIR;
use culvert_node::words::plain;
use serde::Serialize;

use super::flows::{short, tuple};
use super::units::many;
use crate::observe::{self, FlowBatch, FlowDirection, FlowRecord};

/// The form of the JSON: grows when a program that reads it would have to change.
const SCHEMA: u32 = 1;

/// Rows that are shown unless more are asked for: what fits a small screen.
const ROWS: usize = 20;

/// What `culvert top` takes.
#[derive(Debug, Args)]
#[command(after_long_help = NOTE)]
pub(crate) struct TopArgs {
    /// What rows are of.
    #[arg(long, value_enum, default_value_t)]
    by: By,
    /// Seconds from one list to the next.
    #[arg(
        long, value_name = "SECONDS", default_value_t = 2,
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    every: u32,
    /// End after so many lists. By default one if the output is no terminal.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    count: Option<u32>,
    /// Rows that are shown.
    #[arg(long, value_name = "N", default_value_t = ROWS)]
    rows: usize,
    /// Print JSON, one list in a line, with every row.
    #[arg(long)]
    json: bool,
    /// Directory of the daemon's admin socket.
    #[arg(long, env = "CULVERT_RUN_DIR", value_name = "DIR", default_value = DEFAULT_RUN_DIR)]
    run_dir: PathBuf,
}

const NOTE: &str = "\
Each worker looks at the first 1,000 packets of a second, and then at one in 64 (flows.sample); of those
that are dropped, at 5,000. Figures are what that stands for. Packets between pods of one node, and to the world outside, do not pass the daemon.

Exit codes: 0 done; 1 no daemon answers; 2 a command line that makes no sense.";

/// What rows are of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(super) enum By {
    /// Pods of this node.
    #[default]
    Pod,
    /// Other nodes.
    Peer,
    /// Single flows.
    Flow,
}

/// One list.
#[derive(Debug, Serialize)]
pub(super) struct Top {
    schema: u32,
    by: By,
    /// How long was looked.
    seconds: f64,
    /// Those with most bytes first.
    rows: Vec<Row>,
}

/// What was counted of one pod, peer or flow, in a second.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
struct Row {
    name: String,
    sent_packets: u64,
    sent_bits: u64,
    received_packets: u64,
    received_bits: u64,
    dropped_packets: u64,
}

/// Runs the command.
///
/// # Errors
///
/// No daemon answers.
pub(crate) fn run(args: &TopArgs) -> anyhow::Result<ExitCode> {
    let mut stream = observe::open_flows(&args.run_dir)?;
    let is_terminal = io::stdout().is_terminal() && !args.json;
    let mut left = args.count.or_else(|| (!is_terminal && !args.json).then_some(1));
    while left != Some(0) {
        let mut seconds = Vec::new();
        for _ in 0..args.every {
            match stream.next()? {
                Some(batch) => seconds.push(batch),
                None => anyhow::bail!("the daemon of {} has ended", args.run_dir.display()),
            }
        }
        let top = Top::of(&seconds, args.by);
        let mut out = io::stdout().lock();
        if args.json {
            writeln!(out, "{}", serde_json::to_string(&top)?)?;
        } else {
            if is_terminal {
                // Home, and clear (ECMA-48 CUP, ED).
                write!(out, "\x1b[H\x1b[2J")?;
            }
            let text = if top.rows.is_empty() {
                stream.start.nothing("packet", top.seconds)
            } else {
                top.text(args.rows)
            };
            writeln!(out, "{}", plain(&text))?;
        }
        out.flush()?;
        left = left.map(|left| left - 1);
    }
    Ok(ExitCode::SUCCESS)
}

impl Top {
    fn of(batches: &[FlowBatch], by: By) -> Self {
        let seconds: f64 = batches.iter().map(|batch| batch.seconds).sum();
        let mut rows: BTreeMap<String, Row> = BTreeMap::new();
        for flow in batches.iter().flat_map(|batch| &batch.flows) {
            let Some(name) = by.name(flow) else { continue };
            let row = rows.entry(name).or_default();
            let bits = flow.bytes.saturating_mul(8);
            match (flow.verdict.is_dropped(), flow.direction) {
                (true, _) => row.dropped_packets += flow.packets,
                (false, FlowDirection::Egress) => {
                    row.sent_packets += flow.packets;
                    row.sent_bits += bits;
                }
                (false, FlowDirection::Ingress) => {
                    row.received_packets += flow.packets;
                    row.received_bits += bits;
                }
            }
        }
        let rate = |count: u64| {
            #[expect(
                clippy::cast_precision_loss,
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "shown with one decimal"
            )]
            let rate = (count as f64 / seconds.max(f64::MIN_POSITIVE)).round() as u64;
            rate
        };
        let mut rows: Vec<Row> = rows
            .into_iter()
            .map(|(name, row)| Row {
                name,
                sent_packets: rate(row.sent_packets),
                sent_bits: rate(row.sent_bits),
                received_packets: rate(row.received_packets),
                received_bits: rate(row.received_bits),
                dropped_packets: rate(row.dropped_packets),
            })
            .collect();
        rows.sort_by_key(|row| {
            Reverse((row.sent_bits.saturating_add(row.received_bits), row.dropped_packets))
        });
        Self { schema: SCHEMA, by, seconds, rows }
    }

    fn text(&self, shown: usize) -> String {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        let of = match self.by {
            By::Pod => "pod",
            By::Peer => "peer",
            By::Flow => "flow",
        };
        table.set_header([of, "sent bit/s", "pkt/s", "received bit/s", "pkt/s", "dropped/s"]);
        for column in 1..=5 {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        for row in self.rows.iter().take(shown) {
            table.add_row([
                row.name.clone(),
                many(row.sent_bits),
                many(row.sent_packets),
                many(row.received_bits),
                many(row.received_packets),
                many(row.dropped_packets),
            ]);
        }
        let left = self.rows.len().saturating_sub(shown);
        let more = if left > 0 { format!("\n{left} more: --rows") } else { String::new() };
        table.trim_fmt() + &more
    }
}

impl By {
    /// What row a flow counts for; none if it is nobody's.
    fn name(self, flow: &FlowRecord) -> Option<String> {
        match self {
            Self::Pod => {
                let (address, pod) = match flow.direction {
                    FlowDirection::Egress => (flow.source?, &flow.source_pod),
                    FlowDirection::Ingress => (flow.destination?, &flow.destination_pod),
                };
                Some(match pod {
                    Some(pod) => format!("{address} {}", short(pod)),
                    None => address.to_string(),
                })
            }
            Self::Peer => {
                let stranger = || flow.outer.map(|outer| format!("stranger {outer}"));
                flow.peer.clone().or_else(stranger)
            }
            // Both directions of a connection are one row, as this node's pod has them.
            Self::Flow => Some(tuple(flow)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::FlowWord;

    fn batches() -> Vec<FlowBatch> {
        let sent = FlowRecord {
            verdict: FlowWord::Forward,
            reason: None,
            packets: 200,
            bytes: 200_000,
            ..super::super::flows::example()
        };
        let received = FlowRecord {
            direction: FlowDirection::Ingress,
            verdict: FlowWord::Deliver,
            source: sent.destination,
            destination: sent.source,
            source_port: sent.destination_port,
            destination_port: sent.source_port,
            source_pod: None,
            destination_pod: sent.source_pod.clone(),
            packets: 100,
            bytes: 10_000,
            ..sent.clone()
        };
        let dropped = FlowRecord { packets: 6, ..super::super::flows::example() };
        let batch = |flows| FlowBatch { seconds: 1.0, flows, others: 0, missed: 0 };
        vec![batch(vec![sent, received]), batch(vec![dropped])]
    }

    #[test]
    fn both_directions_and_drops_are_of_one_pod_peer_and_flow() {
        for (by, name) in [
            (By::Pod, "10.244.1.2 4f1d2c"),
            (By::Peer, "node2"),
            (By::Flow, "10.244.1.2:40000 - 10.244.2.3:80 tcp"),
        ] {
            let top = Top::of(&batches(), by);
            let row = Row {
                name: name.to_owned(),
                sent_packets: 100,
                sent_bits: 800_000,
                received_packets: 50,
                received_bits: 40_000,
                dropped_packets: 3,
            };
            assert_eq!(top.rows, [row]);
            let text = top.text(20);
            assert!(text.contains(name) && text.contains("800.0 k"), "{text}");
        }
    }

    #[test]
    fn rows_beyond_a_screen_are_counted() {
        let mut batches = batches();
        let mut other = batches[0].flows[0].clone();
        other.source = Some("10.244.1.3".parse().unwrap());
        other.bytes = 1;
        batches[0].flows.push(other);
        let text = Top::of(&batches, By::Pod).text(1);
        assert!(text.contains("10.244.1.2") && !text.contains("10.244.1.3"), "{text}");
        assert!(text.ends_with("\n1 more: --rows"), "{text}");
    }
}
