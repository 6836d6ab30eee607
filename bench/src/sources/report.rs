//! The report on table sources: the figures, and the targets.

use comfy_table::{CellAlignment, Table, presets};

use super::{Found, Kind, spread};
use crate::target::Target;

/// Most time from a change until all nodes forward by it, p99.
const SPREAD_MS: f64 = 1000.0;
/// Most time from a start until ready, with ten thousand nodes.
const READY_SECONDS: f64 = 2.0;
/// Most memory of a daemon with ten thousand nodes.
const RESIDENT_MIB: f64 = 64.0;
/// Most CPU time for one change among ten thousand nodes.
const CHANGE_CPU_MS: f64 = 10.0;
/// The same for a file, which is read whole.
const FILE_CPU_MS: f64 = 100.0;

pub(super) fn text(found: &[Found]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(
        ["".to_owned()].into_iter().chain(found.iter().map(|found| found.kind.name().to_owned())),
    );
    let mut row = |name: String, value: &dyn Fn(&Found) -> String| {
        table.add_row([name].into_iter().chain(found.iter().map(value)));
    };
    row(format!("change until {} nodes forward by it, p50", spread::NODES), &|found| {
        format!("{:.0} ms", found.spread.p50_ms)
    });
    row(format!("the same, p99 of {}", rounds(found)), &|found| {
        format!("{:.0} ms", found.spread.p99_ms)
    });
    row("10,000 nodes: start until ready, longest".to_owned(), &|found| {
        format!("{:.2} s", longest(&found.large.ready_seconds))
    });
    row("resident memory, most".to_owned(), &|found| {
        format!("{:.0} MiB", found.large.resident_mib)
    });
    row("peak".to_owned(), &|found| format!("{:.0} MiB", found.large.peak_mib));
    row("CPU of a change".to_owned(), &|found| format!("{:.1} ms", found.large.change_cpu_ms));
    row("tables taken / changes".to_owned(), &|found| {
        format!("{} / {}", found.large.tables, found.large.changes)
    });
    row("CPU without changes, a second".to_owned(), &|found| {
        format!("{:.1} ms", found.large.idle_cpu_ms)
    });
    row("changes a second, with traffic".to_owned(), &|found| {
        format!("{:.0}", found.large.storm.changes_per_second)
    });
    row("tables taken meanwhile".to_owned(), &|found| found.large.storm.tables.to_string());
    row("packets sent meanwhile".to_owned(), &|found| found.large.storm.sent.to_string());
    row("lost / by the kernel's backlog / by daemons".to_owned(), &|found| {
        let storm = &found.large.storm;
        format!("{} / {} / {}", storm.lost, storm.lost_by_kernel, storm.dropped)
    });
    for column in 1..=found.len() {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

pub(super) fn targets(found: &[Found]) -> Vec<Target> {
    found
        .iter()
        .flat_map(|found| {
            let (name, large) = (found.kind.name(), &found.large);
            let cpu = if found.kind == Kind::File { FILE_CPU_MS } else { CHANGE_CPU_MS };
            let storm = &large.storm;
            // Every packet that is missing must be one that the kernel has counted as its own.
            let unexplained = storm.lost.saturating_sub(storm.lost_by_kernel) + storm.dropped;
            [
                Target::at_most(format!("{name}: change, p99, ms"), found.spread.p99_ms, SPREAD_MS),
                Target::at_most(
                    format!("{name}: ready, s"),
                    longest(&large.ready_seconds),
                    READY_SECONDS,
                ),
                Target::at_most(format!("{name}: resident, MiB"), large.resident_mib, RESIDENT_MIB),
                Target::at_most(format!("{name}: CPU of a change, ms"), large.change_cpu_ms, cpu),
                Target::at_most(
                    format!("{name}: packets lost to changes"),
                    unexplained as f64,
                    0.0,
                ),
            ]
        })
        .collect()
}

fn rounds(found: &[Found]) -> usize {
    found.first().map_or(0, |found| found.spread.slowest_ms.len())
}

fn longest(seconds: &[f64]) -> f64 {
    seconds.iter().copied().fold(f64::NAN, f64::max)
}
