//! The churn report: the figures, and the targets.

use comfy_table::{CellAlignment, Table, presets};

use super::point::{Batch, Point};
use crate::target::Target;

/// Most that an ADD may take of the stock pair's time.
const ADD_RATIO: f64 = 0.4;
/// Least that our pods per second must be of the stock pair's.
const PODS_RATIO: f64 = 2.5;
/// Least pods a minute, one at a time or many.
const PODS_PER_MINUTE: f64 = 3000.0;
/// Most that an ADD with 4,000 addresses held may take of one with none.
const GROWTH: f64 = 1.3;

pub(super) fn text(points: &[Point]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header([
        "present", "at once", "plugin", "ADD p50", "p99", "DEL p50", "p99", "pods/s", "CPU/pod",
        "kernel's",
    ]);
    for column in 3..10 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for point in points {
        let present = format!(
            "{} {}",
            point.present.pods,
            if point.present.attached { "pods" } else { "addresses" }
        );
        for (name, batches) in
            [("bridge + host-local", &point.stock), ("culvert-cni", &point.culvert)]
        {
            let median = |figure: fn(&Batch) -> f64| Point::median(batches, figure);
            table.add_row([
                present.clone(),
                point.at_once.to_string(),
                name.to_owned(),
                format!("{:.1} ms", median(|batch| batch.add_p50_ms)),
                format!("{:.1} ms", median(|batch| batch.add_p99_ms)),
                format!("{:.1} ms", median(|batch| batch.del_p50_ms)),
                format!("{:.1} ms", median(|batch| batch.del_p99_ms)),
                format!("{:.1}", median(|batch| batch.pods_per_second)),
                format!("{:.1} ms", median(|batch| batch.cpu_ms)),
                format!("{:.0} %", 100.0 * median(|batch| batch.kernel_share)),
            ]);
        }
        let ratio = |figure: fn(&Batch) -> f64| {
            point.ratio(figure).map_or_else(String::new, |ratio| format!("{ratio:.2}"))
        };
        table.add_row([
            String::new(),
            String::new(),
            "ratio".to_owned(),
            ratio(|batch| batch.add_p50_ms),
            ratio(|batch| batch.add_p99_ms),
            ratio(|batch| batch.del_p50_ms),
            ratio(|batch| batch.del_p99_ms),
            ratio(|batch| batch.pods_per_second),
            ratio(|batch| batch.cpu_ms),
            String::new(),
        ]);
    }
    table.trim_fmt()
}

/// The worst of each kind against what must be reached.
pub(super) fn targets(points: &[Point]) -> Vec<Target> {
    let worst = |values: Vec<f64>, pick: fn(f64, f64) -> f64| {
        values.into_iter().reduce(pick).unwrap_or(f64::NAN)
    };
    let add = points.iter().map(|point| point.ratio(|batch| batch.add_p50_ms).unwrap_or(f64::NAN));
    let pods =
        points.iter().map(|point| point.ratio(|batch| batch.pods_per_second).unwrap_or(f64::NAN));
    let minute =
        |point: &Point| 60.0 * Point::median(&point.culvert, |batch| batch.pods_per_second);
    let mut targets = vec![
        Target::at_most(
            "ADD p50 to the stock pair's, worst point".to_owned(),
            worst(add.collect(), f64::max),
            ADD_RATIO,
        ),
        Target::at_least(
            "pods per second to the stock pair's, worst point".to_owned(),
            worst(pods.collect(), f64::min),
            PODS_RATIO,
        ),
        Target::at_least(
            "pods a minute, worst point".to_owned(),
            worst(points.iter().map(minute).collect(), f64::min),
            PODS_PER_MINUTE,
        ),
    ];
    for at_once in super::AT_ONCE {
        let add_at = |pods: usize| {
            let mut found = points
                .iter()
                .filter(|point| point.at_once == at_once && point.present.pods == pods);
            found.next().map(|point| Point::median(&point.culvert, |batch| batch.add_p50_ms))
        };
        // A run of chosen points may lack either.
        if let Some((none, many)) = add_at(0).zip(add_at(4000)) {
            targets.push(Target::at_most(
                format!("ADD p50 with 4,000 addresses held to that with none, {at_once} at once"),
                many / none,
                GROWTH,
            ));
        }
    }
    targets
}
