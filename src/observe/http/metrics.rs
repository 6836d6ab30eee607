//! A status as metrics.

mod policy;
mod probes;

use std::collections::BTreeMap;
use std::fmt;

use culvert_dataplane::engine::Traffic;
use culvert_dataplane::platform::clock;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeMetric as _, MetricEncoder, NoLabelSet, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use self::policy::Policy;
use self::probes::Probes;
use super::activity::Activity;
use crate::observe::{
    Observed, PeerStatus, PeerTotals, ProcessStatus, Scrape, SealedStatus, Status,
};

/// The text of OpenMetrics.
pub(super) fn exposition(
    daemon: &dyn Observed,
    activity: &mut Activity,
) -> Result<String, fmt::Error> {
    let now = clock::now();
    let mut omitted = 0;
    let Scrape { node: status, totals, chosen: peers } = daemon.scrape(&mut |peers| {
        let chosen = activity.choose(peers, now);
        omitted = chosen.omitted;
        chosen.places
    });
    let mut text = String::new();
    let mut ours = Registry::with_prefix("culvert");
    let sealed = Sealed::new(&status.sealed, &totals);
    let policy = Policy(status.policy.clone());
    let probes = Probes::new(&totals, status.probes.clone());
    let process = Process(status.process.clone());
    ours.register_collector(Box::new(Node { status, omitted }));
    ours.register_collector(Box::new(sealed));
    ours.register_collector(Box::new(policy));
    ours.register_collector(Box::new(probes));
    ours.register_collector(Box::new(Peers { peers, now: unix_seconds() }));
    text::encode_registry(&mut text, &ours)?;
    // Their names are those of every exporter.
    let mut everybodys = Registry::with_prefix("process");
    everybodys.register_collector(Box::new(process));
    text::encode_registry(&mut text, &everybodys)?;
    text::encode_eof(&mut text)?;
    Ok(text)
}

fn unix_seconds() -> f64 {
    std::time::Duration::from_nanos(clock::unix_nanos()).as_secs_f64()
}

/// One gauge.
fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: f64,
) -> Result<(), fmt::Error> {
    let kind = ConstGauge::new(value).metric_type();
    write(value, encoder.encode_descriptor(name, help, None, kind)?)
}

/// Writes a gauge's value; what is whole without a fraction, which is shorter.
fn write(value: f64, encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
    const WHOLE: f64 = 9_007_199_254_740_992.0;
    if value.fract() == 0.0 && value.abs() < WHOLE {
        #[expect(clippy::cast_possible_truncation, reason = "it is whole, and not too large")]
        return ConstGauge::new(value as i64).encode(encoder);
    }
    ConstGauge::new(value).encode(encoder)
}

/// One counter.
fn counter(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: u64,
) -> Result<(), fmt::Error> {
    let metric = ConstCounter::new(value);
    metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
}

/// Samples of one gauge, each with its labels.
fn gauges<'a, const N: usize>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    samples: impl IntoIterator<Item = ([(&'a str, &'a str); N], f64)>,
) -> Result<(), fmt::Error> {
    let kind = ConstGauge::new(0.0).metric_type();
    let mut family = encoder.encode_descriptor(name, help, None, kind)?;
    for (labels, value) in samples {
        write(value, family.encode_family(&labels)?)?;
    }
    Ok(())
}

/// Samples of one counter, each with its labels.
fn counters<'a, const N: usize>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    samples: impl IntoIterator<Item = ([(&'a str, &'a str); N], u64)>,
) -> Result<(), fmt::Error> {
    let kind = ConstCounter::new(0_u64).metric_type();
    let mut family = encoder.encode_descriptor(name, help, None, kind)?;
    for (labels, value) in samples {
        ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

fn number(count: usize) -> f64 {
    u32::try_from(count).unwrap_or(u32::MAX).into()
}

/// What is of the node as a whole. Its status has no peers.
#[derive(Debug)]
struct Node {
    status: Status,
    omitted: usize,
}

impl Collector for Node {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let encoder = &mut encoder;
        let Self { status, omitted } = self;
        let table = &status.table;
        for (name, help, value) in [
            ("ready", "1 while packets flow", status.ready.into()),
            ("mtu_bytes", "MTU of the overlay", status.mtu.into()),
            ("table_nodes", "Nodes in the subnet table, this one included", number(table.nodes)),
            (
                "table_refused",
                "1 while the newest version of the table is refused",
                table.error.is_some().into(),
            ),
            ("table_current", "1 while the source of the table is followed", table.current.into()),
            (
                "table_age_seconds",
                "Seconds since the table was last known to be current",
                table.age_seconds,
            ),
            (
                "table_entries_left_out",
                "Entries of the source that were left out",
                number(table.left_out.len()),
            ),
            (
                "table_contested",
                "1 while this node's own entry is not its own",
                table.contested.is_some().into(),
            ),
            (
                "peers_omitted",
                "Peers with traffic that have no series of their own",
                number(*omitted),
            ),
        ] {
            gauge(encoder, name, help, value)?;
        }
        for (name, help, value) in [
            ("table_changes", "Subnet tables taken since the start", table.generation),
            ("icmp_replies", "ICMP errors sent to pods", status.icmp_replies),
            (
                "fragmented_packets",
                "Packets of pods that left in fragments",
                status.fragmented_packets,
            ),
            ("fragments", "Fragments that packets of pods became", status.fragments),
            ("offload_refusals", "Offloads refused and given up", status.offload_refusals),
            ("repairs", "Parts of this node's set-up put back", status.repairs),
        ] {
            counter(encoder, name, help, value)?;
        }
        let version = [("version", status.version.as_str())];
        gauges(encoder, "build_info", "The daemon", [(version, 1.0)])?;
        if !table.hash.is_empty() {
            let help = "Nodes with the same table have the same hash";
            gauges(encoder, "table_info", help, [([("hash", table.hash.as_str())], 1.0)])?;
        }
        let reasons = status.drops.iter();
        let dropped = reasons.map(|(reason, count)| ([("reason", reason.as_str())], *count));
        counters(encoder, "dropped_packets", "Dropped packets by reason", dropped)?;
        let places = [("socket", status.receive_drops), ("tun", status.tun_drops)];
        let lost =
            places.iter().filter_map(|(place, count)| Some(([("place", *place)], (*count)?)));
        let help = "Packets that the kernel dropped because the daemon did not fetch them in time";
        counters(encoder, "kernel_dropped_packets", help, lost)?;
        if let Some(damaged) = status.receive_damaged {
            let help = "Datagrams that the kernel dropped because their UDP checksum was wrong";
            counter(encoder, "kernel_damaged_datagrams", help, damaged)?;
        }

        let subnets: Vec<String> =
            status.addresses.iter().map(|subnet| subnet.subnet.to_string()).collect();
        let of_subnets = status.addresses.iter().zip(&subnets).flat_map(|(of, subnet)| {
            #[expect(clippy::cast_precision_loss, reason = "no node has so many pods")]
            let states = [("used", of.used as f64), ("free", of.free)];
            states.map(|(state, count)| ([("subnet", subnet.as_str()), ("state", state)], count))
        });
        let help = "Addresses of this node's subnets that pods have, and may have besides";
        gauges(encoder, "addresses", help, of_subnets)
    }
}

/// Sessions and handshakes, on a node that seals.
#[derive(Debug)]
struct Sealed {
    is_sealing: bool,
    /// Peers by what their packets are.
    peers: [(&'static str, usize); 3],
    /// Peers with a session, by its suite.
    suites: BTreeMap<String, usize>,
    /// Since when the oldest session serves, in seconds.
    oldest: Option<f64>,
    key_log: bool,
    handshakes: crate::observe::Handshakes,
}

impl Sealed {
    fn new(sealed: &SealedStatus, totals: &PeerTotals) -> Self {
        Self {
            suites: totals.sealed.clone(),
            oldest: totals.oldest_session_seconds,
            key_log: sealed.key_log.is_some(),
            is_sealing: !sealed.public_keys.is_empty(),
            peers: [
                ("sealed", totals.sealed.values().sum()),
                ("plain", totals.plain),
                ("none", totals.barred),
            ],
            handshakes: sealed.handshakes.clone(),
        }
    }
}

impl Collector for Sealed {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        if !self.is_sealing {
            return Ok(());
        }
        let encoder = &mut encoder;
        let help = "Peers by what their packets are: sealed, plain, or none without a session";
        let peers = self.peers.iter().map(|(name, count)| ([("state", *name)], number(*count)));
        gauges(encoder, "sealed_peers", help, peers)?;
        let suites = self.suites.iter();
        let suites = suites.map(|(suite, count)| ([("suite", suite.as_str())], number(*count)));
        gauges(encoder, "sealed_sessions", "Peers with a session, by its suite", suites)?;
        if let Some(oldest) = self.oldest {
            let help = "Age of the oldest session that packets are sealed with";
            gauge(encoder, "sealed_oldest_session_seconds", help, oldest.round())?;
        }
        let help = "Whether keys of sessions are written down (sealed.key_log)";
        gauge(encoder, "sealed_key_log", help, f64::from(u8::from(self.key_log)))?;
        let made = self.handshakes.made.iter().map(|(words, count)| {
            let (role, suite) = words.split_once(' ').unwrap_or((words, ""));
            ([("role", role), ("suite", suite)], *count)
        });
        let help = "Handshakes that came to a session, by this node's role and the suite";
        counters(encoder, "handshakes", help, made)?;
        let failed = self.handshakes.failed.iter().map(|(words, count)| {
            let (role, reason) = words.split_once(' ').unwrap_or((words, ""));
            ([("role", role), ("reason", reason)], *count)
        });
        let help = "Times that handshakes began to fail with a peer, by this node's role and why";
        counters(encoder, "handshake_failures", help, failed)?;
        for (name, help, count) in [
            (
                "handshakes_refused",
                "Handshake datagrams that were no peer's",
                self.handshakes.refused,
            ),
            (
                "sessions_ended",
                "Sessions that ended without a successor",
                self.handshakes.sessions_ended,
            ),
        ] {
            counter(encoder, name, help, count)?;
        }
        let help = "How long handshakes took that came to a session, by this node's role";
        let kind = MetricType::Histogram;
        let mut family = encoder.encode_descriptor("handshake_seconds", help, None, kind)?;
        for (role, times) in &self.handshakes.seconds {
            let labels = [("role", role.as_str())];
            let last = (f64::INFINITY, times.longer);
            let buckets: Vec<(f64, u64)> = times.buckets.iter().copied().chain([last]).collect();
            let count = buckets.iter().map(|(_, count)| count).sum();
            let mut histogram = family.encode_family(&labels)?;
            histogram.encode_histogram::<NoLabelSet>(times.sum, count, &buckets, None)?;
        }
        Ok(())
    }
}

/// What is of single peers.
#[derive(Debug)]
struct Peers {
    peers: Vec<PeerStatus>,
    /// Seconds since 1970.
    now: f64,
}

impl Collector for Peers {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let encoder = &mut encoder;
        for (name, help, count) in [
            ("peer_packets", "Inner packets by peer and direction", packets as fn(&_) -> u64),
            ("peer_bytes", "Bytes of inner packets by peer and direction", bytes),
        ] {
            let samples = self.peers.iter().flat_map(|peer| {
                [("egress", &peer.egress), ("ingress", &peer.ingress)].map(|(way, traffic)| {
                    ([("peer", peer.name.as_str()), ("direction", way)], count(traffic))
                })
            });
            counters(encoder, name, help, samples)?;
        }
        let named = |peer| [("peer", Self::name(peer))];
        let mtus = self.peers.iter().map(|peer| (named(peer), peer.mtu.into()));
        gauges(encoder, "peer_mtu_bytes", "Longest inner packet toward a peer", mtus)?;
        let heard = self.peers.iter().filter_map(|peer| {
            // A part of a second would be another value with each scrape of a silent peer.
            Some((named(peer), (self.now - peer.last_heard_seconds?).round()))
        });
        let help = "When a packet was last accepted from a peer, in seconds since 1970";
        gauges(encoder, "peer_last_heard_timestamp_seconds", help, heard)
    }
}

impl Peers {
    fn name(peer: &PeerStatus) -> &str {
        &peer.name
    }
}

fn packets(traffic: &Traffic) -> u64 {
    traffic.packets
}

fn bytes(traffic: &Traffic) -> u64 {
    traffic.bytes
}

/// What the process takes, under the names that every exporter has for it.
#[derive(Debug)]
struct Process(ProcessStatus);

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let encoder = &mut encoder;
        let Self(process) = self;
        let cpu = ConstCounter::new(process.cpu_seconds);
        let help = "CPU time, the kernel's for it included";
        cpu.encode(encoder.encode_descriptor("cpu_seconds", help, None, cpu.metric_type())?)?;
        #[expect(clippy::cast_precision_loss, reason = "that is what a gauge is")]
        let number = |count: u64| count as f64;
        for (name, help, value) in [
            ("resident_memory_bytes", "Memory in use", number(process.resident_bytes)),
            ("virtual_memory_bytes", "Address space", number(process.virtual_bytes)),
            ("open_fds", "Open files, sockets and devices", number(process.open_files)),
            ("threads", "Threads", number(process.threads)),
            ("start_time_seconds", "When it was started, in seconds since 1970", process.started),
        ] {
            gauge(encoder, name, help, value)?;
        }
        match process.open_files_limit {
            Some(limit) => gauge(encoder, "max_fds", "How many of them it may have", number(limit)),
            None => Ok(()),
        }
    }
}
