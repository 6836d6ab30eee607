//! What was measured, and its three forms: a table for people, JSON, and a picture.

pub(crate) mod svg;
pub(crate) mod table;
pub(crate) mod targets;

use std::collections::HashMap;

use serde::Serialize;
use serde_json::{Value, json};

use crate::growth::Growth;
use crate::machine::Machine;
use crate::metric::{Better, Metric};
use crate::micro::HotPath;
use crate::networks::{BASELINE, Network};
use crate::settings::Effort;
use crate::statistics::{Summary, ratio};

/// Everything that one run found out.
pub(crate) struct Report {
    pub(crate) machine: Machine,
    pub(crate) settings: Effort,
    pub(crate) networks: Vec<NetworkFacts>,
    /// Networks that this machine lacks a program for.
    pub(crate) skipped: Vec<String>,
    pub(crate) figures: Figures,
    pub(crate) growth: Growth,
    pub(crate) hot_path: Option<HotPath>,
    /// What could not be measured, and why.
    pub(crate) failures: Vec<String>,
}

/// What a network is, once it is gone.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct NetworkFacts {
    pub(crate) name: String,
    pub(crate) about: String,
}

impl NetworkFacts {
    pub(crate) fn of(network: &Network) -> Self {
        Self { name: network.name.clone(), about: network.about.clone() }
    }
}

/// The samples of every figure: for each network and metric one a round, if it was measured.
#[derive(Debug)]
pub(crate) struct Figures {
    rounds: usize,
    samples: HashMap<(String, Metric), Vec<Option<f64>>>,
}

impl Figures {
    pub(crate) fn new(rounds: usize) -> Self {
        Self { rounds, samples: HashMap::new() }
    }

    pub(crate) fn add(&mut self, network: &str, metric: Metric, round: usize, value: f64) {
        let empty = || vec![None; self.rounds];
        let samples = self.samples.entry((network.to_owned(), metric)).or_insert_with(empty);
        if let Some(sample) = samples.get_mut(round) {
            *sample = Some(value);
        }
    }

    /// The samples of `metric` on `network`, by round.
    pub(crate) fn samples(&self, network: &str, metric: Metric) -> &[Option<f64>] {
        self.samples.get(&(network.to_owned(), metric)).map(Vec::as_slice).unwrap_or_default()
    }

    /// The latest of the figure `metric` on `network`.
    pub(crate) fn latest(&self, network: &str, metric: Metric) -> Option<f64> {
        self.samples(network, metric).iter().rev().find_map(|sample| *sample)
    }

    pub(crate) fn summary(&self, network: &str, metric: Metric) -> Option<Summary> {
        Summary::of(self.samples(network, metric).iter().flatten().copied())
    }

    /// The median over rounds of `metric` on `network` as a part of what it was on `base`.
    pub(crate) fn ratio(&self, network: &str, base: &str, metric: Metric) -> Option<f64> {
        ratio(self.samples(network, metric), self.samples(base, metric))
    }

    /// The metrics that any of `networks` has figures for.
    pub(crate) fn metrics(&self) -> impl Iterator<Item = Metric> {
        let has = |metric| self.samples.keys().any(|(_, found)| *found == metric);
        Metric::ALL.into_iter().filter(move |metric| has(*metric))
    }
}

/// One figure of the JSON file.
#[derive(Serialize)]
struct Figure<'a> {
    metric: Metric,
    title: &'static str,
    unit: &'static str,
    better: Better,
    network: &'a str,
    median: f64,
    min: f64,
    max: f64,
    /// To the kernel's VXLAN.
    ratio: Option<f64>,
    samples: &'a [Option<f64>],
}

impl Report {
    /// Everything, for programs.
    pub(crate) fn to_json(&self, rows: &[targets::Row]) -> Value {
        let figures: Vec<Figure<'_>> = self
            .figures
            .metrics()
            .flat_map(|metric| self.networks.iter().map(move |network| (metric, network)))
            .filter_map(|(metric, network)| self.figure(metric, &network.name))
            .collect();
        json!({
            "machine": self.machine,
            "settings": self.settings,
            "baseline": BASELINE,
            "networks": self.networks,
            "skipped": self.skipped,
            "figures": figures,
            "growth": self.growth,
            "hot_path": self.hot_path,
            "targets": rows,
            "failures": self.failures,
        })
    }

    fn figure<'a>(&'a self, metric: Metric, network: &'a str) -> Option<Figure<'a>> {
        let summary = self.figures.summary(network, metric)?;
        Some(Figure {
            metric,
            title: metric.title(),
            unit: metric.unit(),
            better: metric.better(),
            network,
            median: summary.median,
            min: summary.min,
            max: summary.max,
            ratio: self.figures.ratio(network, BASELINE, metric),
            samples: self.figures.samples(network, metric),
        })
    }
}

/// A value with three digits that mean something.
pub(crate) fn three_digits(value: f64) -> String {
    let decimals = if value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else if value >= 0.1 {
        2
    } else {
        3
    };
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_kept_by_round() {
        let mut figures = Figures::new(3);
        figures.add("a", Metric::Tcp1, 0, 5.0);
        figures.add("a", Metric::Tcp1, 2, 7.0);
        figures.add(BASELINE, Metric::Tcp1, 2, 14.0);
        assert_eq!(figures.samples("a", Metric::Tcp1), [Some(5.0), None, Some(7.0)]);
        assert_eq!(figures.summary("a", Metric::Tcp1).unwrap().median, 6.0);
        assert_eq!(figures.ratio("a", BASELINE, Metric::Tcp1), Some(0.5));
        assert_eq!(figures.metrics().collect::<Vec<_>>(), [Metric::Tcp1]);
        assert_eq!(figures.summary("b", Metric::Tcp1), None);
    }

    #[test]
    fn values_keep_three_digits() {
        let texts = [123.4, 12.34, 1.234, 0.1234, 0.01234].map(three_digits);
        assert_eq!(texts, ["123", "12.3", "1.23", "0.12", "0.012"]);
    }
}
