//! Whether peers answer, and how fast, as metrics.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use super::{counters, gauge, gauges, number};
use crate::observe::{PeerTotals, ProbeStatus};

/// What is known of peers by asking them. None has a series of its own.
#[derive(Debug)]
pub(super) struct Probes {
    peers: [(&'static str, usize); 3],
    paths_lost: usize,
    probes: ProbeStatus,
}

impl Probes {
    pub(super) fn new(totals: &PeerTotals, probes: ProbeStatus) -> Self {
        Self {
            peers: [
                ("answering", totals.answering),
                ("lost", totals.lost),
                ("unknown", totals.unknown),
            ],
            paths_lost: totals.paths_lost,
            probes,
        }
    }
}

impl Collector for Probes {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Self { peers, paths_lost, probes } = self;
        let encoder = &mut encoder;
        let states = peers.iter().map(|(state, count)| ([("state", *state)], number(*count)));
        gauges(encoder, "peers", "Peers by whether they answer questions", states)?;
        let help = "Source ports that lead nowhere, of all peers together";
        gauge(encoder, "paths_lost", help, number(*paths_lost))?;
        let outcomes = [("answered", probes.answered), ("refused", probes.refused)];
        let samples = outcomes.map(|(outcome, count)| ([("outcome", outcome)], count));
        let help = "Questions of peers by what became of them";
        counters(encoder, "probe_questions", help, samples)?;
        if probes.rtt_bounds.is_empty() {
            return Ok(());
        }
        let bounds = probes.rtt_bounds.iter().copied().chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(probes.rtt_counts.iter().copied()).collect();
        let count = probes.rtt_counts.iter().sum();
        let help = "How long peers take to answer";
        let mut encoder =
            encoder.encode_descriptor("probe_rtt_seconds", help, None, MetricType::Histogram)?;
        encoder.encode_histogram::<NoLabelSet>(probes.rtt_sum, count, &buckets, None)
    }
}
