//! The report as text.

use std::fmt::Write as _;

use comfy_table::{CellAlignment, Table, presets};

use super::{Report, three_digits};
use crate::growth::Point;
use crate::metric::Better;
use crate::networks::BASELINE;
use crate::statistics::{Summary, ratio};

/// The whole report, but for the targets.
pub(crate) fn render(report: &Report) -> String {
    let mut text = format!("\n{}\n", report.machine.summary());
    if let Some(warning) = report.machine.warning() {
        let _ = writeln!(text, "Careful: {warning}.");
    }
    text.push('\n');
    if !report.networks.is_empty() {
        text += &networks(report);
        text += &comparison(report);
    }
    text += &growth("nodes in the table", &report.growth.tables);
    text += &growth("peers at once", &report.growth.peers);
    if let Some(hot) = &report.hot_path {
        for (nodes, sides) in [("3", hot.short_table), ("10,000", hot.long_table)] {
            let _ = writeln!(
                text,
                "Codec and lookups for one packet, hot, {nodes} nodes: {:.1} ns as sender, {:.1} ns \
                 as receiver",
                sides.egress_ns, sides.ingress_ns
            );
        }
        text.push('\n');
    }
    for failure in &report.failures {
        let _ = writeln!(text, "FAILED: {failure}");
    }
    text
}

fn networks(report: &Report) -> String {
    let mut text = String::new();
    for network in &report.networks {
        let _ = writeln!(text, "  {:22} {}", network.name, network.about);
    }
    for skipped in &report.skipped {
        let _ = writeln!(text, "  not measured: {skipped}");
    }
    let _ = writeln!(
        text,
        "\nMedians of {} interleaved rounds. Behind each the ratio to {BASELINE} in the same round, \
         below it the least and the most.\nHigher is better, except where it says (less).\n",
        report.settings.rounds
    );
    text
}

fn comparison(report: &Report) -> String {
    let mut table = plain();
    let mut header = vec![String::new()];
    header.extend(report.networks.iter().map(|network| network.name.clone()));
    table.set_header(header);
    for metric in report.figures.metrics() {
        let less = match metric.better() {
            Better::Higher => "",
            Better::Lower => " (less)",
        };
        let mut row = vec![format!("{}\n  {}{less}", metric.title(), metric.unit())];
        row.extend(report.networks.iter().map(|network| {
            let Some(summary) = report.figures.summary(&network.name, metric) else {
                return "–".to_owned();
            };
            cell(&summary, report.figures.ratio(&network.name, BASELINE, metric))
        }));
        table.add_row(row);
    }
    finish(&mut table)
}

fn cell(summary: &Summary, ratio: Option<f64>) -> String {
    let ratio = ratio.map(|ratio| format!("  {ratio:.2}×")).unwrap_or_default();
    let Summary { median, min, max } = *summary;
    format!("{}{ratio}\n{}–{}", three_digits(median), three_digits(min), three_digits(max))
}

/// One of the two growth tables; nothing if it was not measured.
fn growth(sizes: &str, points: &[Point]) -> String {
    let Some(first) = points.first() else {
        return String::new();
    };
    let mut table = plain();
    let mut header =
        vec![format!("culvert, {sizes}"), "Gbit/s".to_owned(), "to the first".to_owned()];
    header.push("memory, MiB".to_owned());
    let timed = points.iter().any(|point| point.ready_seconds.is_some());
    if timed {
        header.push("ready after, s".to_owned());
    }
    table.set_header(header);
    for point in points {
        let Some(summary) = Summary::of(point.gbits.iter().flatten().copied()) else {
            continue;
        };
        let ratio = ratio(&point.gbits, &first.gbits).unwrap_or_default();
        let mut row = vec![
            point.size.to_string(),
            cell(&summary, None).replace('\n', "  "),
            format!("{ratio:.2}×"),
            point.memory_mib.map(three_digits).unwrap_or_default(),
        ];
        if timed {
            row.push(point.ready_seconds.map(three_digits).unwrap_or_default());
        }
        table.add_row(row);
    }
    finish(&mut table)
}

fn plain() -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table
}

/// The text of `table`, figures to the right, with an empty line behind it.
fn finish(table: &mut Table) -> String {
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let lines = table.lines().map(|line| line.trim_end().to_owned() + "\n");
    lines.collect::<String>() + "\n"
}
