//! The report on looking: the figures, and the targets.

use std::fmt::Write as _;

use super::Found;
use super::doctor::Calls;
use super::watchers::{Look, Rounds};
use crate::statistics::{Spread, Summary, ratios};
use crate::target::Target;

/// Most that a scrape with ten thousand nodes may have and take.
const SCRAPE_BYTES: f64 = 150_000.0;
const SCRAPE_MS: f64 = 10.0;

/// Least of traffic while somebody looks, to while nobody does.
const LOOKED_AT: f64 = 0.99;

fn summary(values: &[f64]) -> Summary {
    let nothing = Summary { median: f64::NAN, min: f64::NAN, max: f64::NAN };
    Summary::of(values.iter().copied()).unwrap_or(nothing)
}

/// The ratios in each round of one way to look to another.
fn spread(rounds: &Rounds, look: Look, base: Look) -> Spread {
    Spread::of(&ratios(&rounds[look as usize], &rounds[base as usize]))
}

/// What is compared, and whether less of it is worse.
const COMPARED: [(Look, Look, &str); 3] = [
    (Look::Flows, Look::Nobody, "flows looks, to nobody"),
    (Look::Top, Look::Nobody, "top looks, to nobody"),
    (Look::Nobody, Look::Never, "nobody any more, to never"),
];

pub(super) fn text(found: &Found) -> String {
    let mut text = String::new();
    let mut row = |name: &str, value: String| {
        let _ = writeln!(text, "  {name:<52} {value}");
    };
    for Calls { what, seconds, otherwise, .. } in &found.doctor {
        let Summary { median, min, max } = summary(seconds);
        let odd = match otherwise {
            0 => String::new(),
            calls => format!("; {calls} of {} ended with another code", seconds.len()),
        };
        row(&format!("{what}, s"), format!("{median:.2} ({min:.2} to {max:.2}){odd}"));
    }
    let scrapes = &found.scrapes;
    let Summary { median, min, max } = summary(&scrapes.ms);
    row("scrape, 10,000 nodes, ms", format!("{median:.2} ({min:.2} to {max:.2})"));
    row(
        "scrape, bytes / samples / peers shown / omitted",
        format!(
            "{} / {} / {} / {}",
            scrapes.bytes, scrapes.samples, scrapes.shown, scrapes.omitted
        ),
    );
    let traffic = &found.traffic;
    for (name, rounds, scale) in [
        ("TCP, 1 stream, Gbit/s", &traffic.gbits, 1.0),
        ("CPU of the daemons, ms/GB", &traffic.cpu, 1e3),
        ("UDP, 64 bytes, thousand packets/s", &traffic.small_pps, 1e-3),
    ] {
        let medians =
            Look::ALL.map(|look| format!("{:.2}", summary(&rounds[look as usize]).median * scale));
        row(&format!("{name}: never / nobody / flows / top"), medians.join(" / "));
        for (look, base, what) in COMPARED {
            row(&format!("    {what}"), spread(rounds, look, base).to_string());
        }
    }
    text
}

pub(super) fn targets(found: &Found) -> Vec<Target> {
    let mut targets: Vec<Target> = found
        .doctor
        .iter()
        .map(|calls| {
            let what = format!("{}, median, s", calls.what);
            Target::at_most(what, summary(&calls.seconds).median, calls.limit)
        })
        .collect();
    let (scrapes, traffic) = (&found.scrapes, &found.traffic);
    targets.push(Target::at_most("scrape, bytes", scrapes.bytes as f64, SCRAPE_BYTES));
    targets.push(Target::at_most("scrape, median, ms", summary(&scrapes.ms).median, SCRAPE_MS));
    for (name, rounds) in [("TCP", &traffic.gbits), ("UDP, 64 bytes", &traffic.small_pps)] {
        for (look, base, what) in COMPARED {
            let value = spread(rounds, look, base).median;
            targets.push(Target::at_least(format!("{name}: {what}"), value, LOOKED_AT));
        }
    }
    targets
}
