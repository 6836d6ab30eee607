//! `culvert trace`: a packet's way through both nodes, and that of the answer to it.

use std::io::{self, IsTerminal as _, Write as _};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use culvert_node::node_file::DEFAULT_RUN_DIR;
use culvert_node::words::plain;

use super::ends::ends;
use crate::explain::{Protocol, Question};
use crate::observe::{self, CUT, FailingChecks, TraceHalf, TraceReport};

/// What `culvert trace` takes.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct TraceArgs {
    /// Source of the packet, a pod of this node: its address, its container's id, the begin of
    /// that, or the device of its port; or, where policies are enforced, NAMESPACE/NAME.
    source: String,
    /// Destination, a pod of any node: its address, or NAMESPACE/NAME.
    destination: String,
    /// What it carries.
    #[arg(long, value_enum, default_value_t = Protocol::Tcp)]
    proto: Protocol,
    /// Source port.
    #[arg(long, default_value_t = 40_000, value_name = "PORT")]
    sport: u16,
    /// Destination port.
    #[arg(long, default_value_t = 80, value_name = "PORT")]
    port: u16,
    /// Length of the IP packet, in bytes.
    #[arg(long, default_value_t = 100, value_name = "BYTES")]
    size: u16,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Directory of the daemon's admin socket.
    #[arg(long, env = "CULVERT_RUN_DIR", value_name = "DIR", default_value = DEFAULT_RUN_DIR)]
    run_dir: PathBuf,
}

const EXAMPLES: &str = "\
Examples:
  What do both nodes do with a packet, and with the answer to it?
    culvert trace 10.244.1.2 10.244.2.3 --port 443

The question goes through the tunnel, and the daemon of the other node answers by its table and its
kernel: no packet of the pod is sent. Each node asks its own pod whether it answers beyond its subnet, as
culvert doctor does, and says no_answer if not. What ends a packet is the last that is said. A node answers
ten of these a second.

Exit codes: 0 both ways lead to a pod; 1 one of them does not, or a node does not answer; 2 a command
line that makes no sense.";

/// Runs the command.
///
/// # Errors
///
/// No daemon answers, or the packet cannot be.
pub(crate) fn run(args: &TraceArgs) -> anyhow::Result<ExitCode> {
    let (source, destination) = ends(&args.source, &args.destination, Some(&args.run_dir))?;
    let question = Question {
        source,
        destination,
        protocol: args.proto,
        source_port: args.sport,
        destination_port: args.port,
        size: args.size,
        may_fragment: false,
    };
    let report = observe::trace(&args.run_dir, &question)?;
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{}", observe::Document::first(&report).text()?)?;
    } else {
        let columns = out.is_terminal().then_some(COLUMNS);
        write!(out, "{}", plain(&text(&question, &report, columns)))?;
    }
    Ok(if is_good(&report) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Whether the packet gets further than this node, or to a pod of it.
fn passes(half: &TraceHalf) -> bool {
    ["forward", "deliver", "local"].contains(&half.verdict.as_str())
}

/// Whether both ways lead to a pod, as far as anybody says.
fn is_good(report: &TraceReport) -> bool {
    // What is sent to another node is good only if that node says so.
    let is_sent = report.there.first().is_some_and(|half| half.verdict == "forward");
    let is_whole = !is_sent || report.there.len() > 1 && !report.back.is_empty();
    let mut all = report.there.iter().chain(&report.back);
    report.silence.is_none() && is_whole && all.all(passes)
}

/// Columns that every terminal has.
const COLUMNS: usize = 80;

/// The report for people, on lines of `columns` if they are to be so short.
fn text(question: &Question, report: &TraceReport, columns: Option<usize>) -> String {
    let mut text = String::new();
    let halves = || report.there.iter().chain(&report.back);
    let widest = |of: fn(&TraceHalf) -> &str| {
        halves().map(|half| of(half).chars().count()).max().unwrap_or_default()
    };
    let (node_width, verdict_width) =
        (widest(|half| half.node.as_str()), widest(|half| half.verdict.as_str()));
    let indent = 2 + node_width + 2 + verdict_width + 2;
    let room = columns.map_or(usize::MAX, |columns| columns.saturating_sub(indent).max(20));
    let mut way = |from: IpAddr, to: IpAddr, halves: &[TraceHalf]| {
        text.push_str(&format!("{from} > {to}\n"));
        for TraceHalf { node, verdict, found } in halves {
            text.push_str(&format!("  {node:<node_width$}  {verdict:<verdict_width$}  "));
            let lines = wrapped(found, room).join(&format!("\n{:indent$}", ""));
            text.push_str(&lines);
            text.push('\n');
        }
    };
    way(question.source, question.destination, &report.there);
    if !report.back.is_empty() {
        way(question.destination, question.source, &report.back);
    }
    if let Some(cut) = halves().find(|half| half.found.ends_with(CUT)) {
        let (from, to) = (question.source, question.destination);
        let node = &cut.node;
        text.push_str(&format!(
            "{CUT}: an answer is short; culvert explain {from} {to} on {node} says all\n"
        ));
    }
    for FailingChecks { node, checks } in report.failing.iter().filter(|it| !it.checks.is_empty()) {
        let checks = checks.join(", ");
        text.push_str(&format!(
            "doctor on {node}, within 5 s: {checks} (`culvert doctor` there says more)\n"
        ));
    }
    if let Some(silence) = &report.silence {
        text.push_str(&format!(
            "the other node: {silence}; what it does was not looked at, nor the answer's way\n"
        ));
    }
    let next = how_to_go_on(question, report);
    text.push_str(&wrapped(&next, columns.unwrap_or(usize::MAX)).join("\n"));
    text
}

/// Where a way ends, whom to ask next.
fn how_to_go_on(question: &Question, report: &TraceReport) -> String {
    let (from, to) = (question.source, question.destination);
    let say = |half: &TraceHalf, from: IpAddr, to: IpAddr| {
        let node = &half.node;
        format!("it ends on {node}: there culvert explain {from} {to}, and culvert doctor")
    };
    let ended = |halves: &'_ [TraceHalf]| halves.iter().find(|half| !passes(half)).cloned();
    if let Some(half) = ended(&report.there) {
        let say = say(&half, from, to);
        format!("{say}; the answer's way was not looked at\n")
    } else if let Some(half) = ended(&report.back) {
        format!("{}\n", say(&half, to, from))
    } else {
        String::new()
    }
}

/// The text on lines of at most `room` letters, broken between words.
fn wrapped(text: &str, room: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= room => {
                line.push(' ');
                line.push_str(word);
            }
            Some(_) | None => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn half(node: &str, verdict: &str) -> TraceHalf {
        TraceHalf { node: node.to_owned(), verdict: verdict.to_owned(), found: String::new() }
    }

    #[test]
    fn a_way_that_ends_anywhere_but_at_a_pod_is_not_good() {
        let good = TraceReport {
            there: vec![half("node1", "forward"), half("node2", "deliver")],
            back: vec![half("node2", "forward"), half("node1", "deliver")],
            failing: Vec::new(),
            silence: None,
        };
        assert!(is_good(&good));
        let dropped = TraceReport { back: vec![half("node2", "kernel_drops")], ..good.clone() };
        assert!(!is_good(&dropped));
        let nowhere = TraceReport { back: vec![half("node2", "no_answer")], ..good.clone() };
        assert!(!is_good(&nowhere));
        let asked = Question::between([10, 244, 1, 2].into(), [10, 244, 2, 2].into());
        let told = text(&asked, &nowhere, None);
        assert!(told.ends_with("it ends on node2: there culvert explain 10.244.2.2 10.244.1.2, and culvert doctor\n"), "{told}");
        let early =
            TraceReport { there: vec![half("node1", "kernel_drops")], ..Default::default() };
        assert!(text(&asked, &early, None).ends_with("; the answer's way was not looked at\n"));
        let silent = TraceReport { silence: Some("no answer".to_owned()), ..good.clone() };
        assert!(!is_good(&silent));
        let half_told = TraceReport { there: vec![half("node1", "forward")], ..good.clone() };
        assert!(!is_good(&half_told), "nobody says what becomes of it there");
        let local = TraceReport { there: vec![half("node1", "local")], back: Vec::new(), ..good };
        assert!(is_good(&local));
    }

    #[test]
    fn nothing_of_a_long_answer_is_lost_and_what_a_node_has_cut_is_said() {
        let found =
            "chain inet firewall-of-the-company forward (policy drop) drops it, and so do others";
        let long = TraceHalf { found: found.to_owned(), ..half("node2", "kernel_drops") };
        let report =
            TraceReport { there: vec![half("node1", "forward"), long], ..TraceReport::default() };
        let question = Question::between([10, 244, 1, 2].into(), [10, 244, 2, 2].into());
        let whole = text(&question, &report, None);
        assert!(whole.contains(&format!("  node2  kernel_drops  {found}\n")), "{whole}");
        let narrow = text(&question, &report, Some(60));
        assert!(narrow.lines().all(|line| line.chars().count() <= 60), "{narrow}");
        assert_eq!(narrow.split_whitespace().count(), whole.split_whitespace().count());
        assert!(!whole.contains("says all"), "{whole}");
        let mut report = report;
        report.there[1].found.push(CUT);
        let cut = text(&question, &report, None);
        assert!(cut.contains("culvert explain 10.244.1.2 10.244.2.2 on node2 says all"), "{cut}");
    }
}
