//! `/metrics`, `/healthz` and `/readyz` over HTTP.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use bytes::Bytes;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _, text};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::time::Instant;

use super::limit::Limited;
use super::{PeerStatus, Status, StatusSource};

/// How long an answer of `/metrics` and one of `/readyz` is given to all who ask. Each is made of
/// the whole status, which takes milliseconds with thousands of peers, and anybody may ask as often
/// as he likes.
const METRICS_SPAN: Duration = Duration::from_millis(500);
const READINESS_SPAN: Duration = Duration::from_millis(100);

/// Serves on `listener`, for ever.
pub(crate) async fn serve_http(listener: TcpListener, status: StatusSource) {
    let answers = Arc::new(Answers {
        status,
        metrics: Recent::new(METRICS_SPAN),
        readiness: Recent::new(READINESS_SPAN),
    });
    let routes = Router::new()
        .route("/metrics", get(metrics))
        // That it answers is the answer: the process lives and its control runtime turns.
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .with_state(answers);
    if let Err(error) = axum::serve(Limited::new(listener), routes).await {
        tracing::error!(%error, "serving metrics ended");
    }
}

struct Answers {
    status: StatusSource,
    metrics: Recent<Result<Bytes, std::fmt::Error>>,
    readiness: Recent<(StatusCode, String)>,
}

/// Something that is made anew only after a while.
struct Recent<T> {
    span: Duration,
    last: Mutex<Option<(Instant, T)>>,
}

impl<T: Clone> Recent<T> {
    fn new(span: Duration) -> Self {
        Self { span, last: Mutex::default() }
    }

    fn get(&self, now: Instant, make: impl FnOnce() -> T) -> T {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some((made, value)) if now.duration_since(*made) < self.span => value.clone(),
            _ => last.insert((now, make())).1.clone(),
        }
    }
}

async fn readyz(State(answers): State<Arc<Answers>>) -> impl IntoResponse {
    answers.readiness.get(Instant::now(), || readiness((answers.status)()))
}

fn readiness(status: Status) -> (StatusCode, String) {
    let Status { ready, missing, table, .. } = status;
    let (code, mut text) = if ready {
        (StatusCode::OK, "ready\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready\n".to_owned())
    };
    for missing in missing {
        text.push_str(&format!("{missing}\n"));
    }
    // A table that is stale is better than none: the node stays ready, and says so.
    for remark in table.remarks() {
        text.push_str(&format!("table: {remark}\n"));
    }
    (code, text)
}

/// OpenMetrics for who asks for it, and for everybody else the older text format.
async fn metrics(State(answers): State<Arc<Answers>>, headers: HeaderMap) -> impl IntoResponse {
    const OPEN_METRICS: &str = "application/openmetrics-text";
    let accepts = |value: &HeaderValue| value.to_str().is_ok_and(|it| it.contains(OPEN_METRICS));
    let wants_open_metrics = headers.get_all(header::ACCEPT).iter().any(accepts);
    let make = || exposition((answers.status)()).map(Bytes::from);
    match answers.metrics.get(Instant::now(), make) {
        Ok(text) if wants_open_metrics => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            (StatusCode::OK, [(header::CONTENT_TYPE, kind)], text)
        }
        Ok(text) => {
            let kind = "text/plain; version=0.0.4; charset=utf-8";
            let text = older_format(&String::from_utf8_lossy(&text));
            (StatusCode::OK, [(header::CONTENT_TYPE, kind)], text.into())
        }
        Err(error) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            [(header::CONTENT_TYPE, "text/plain")],
            error.to_string().into(),
        ),
    }
}

fn exposition(status: Status) -> Result<String, std::fmt::Error> {
    let mut registry = Registry::with_prefix("culvert");
    registry.register_collector(Box::new(StatusCollector(status)));
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(text)
}

/// OpenMetrics in the text format before it, 0.0.4: a counter is called there what its samples are
/// called, and nothing marks the end.
fn older_format(open_metrics: &str) -> String {
    let counters: HashSet<&str> = open_metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"))
        .collect();
    let mut text = String::with_capacity(open_metrics.len());
    for line in open_metrics.lines() {
        let mut words = line.splitn(4, ' ');
        let described = match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("EOF" | "UNIT"), _, _) => continue,
            (Some("#"), Some(what), Some(name), Some(rest)) if counters.contains(name) => {
                Some(format!("# {what} {name}_total {rest}"))
            }
            _ => None,
        };
        text.push_str(described.as_deref().unwrap_or(line));
        text.push('\n');
    }
    text
}

/// Peers that have series of their own at most. Thousands of nodes would be tens of thousands of
/// series on each of them, most of them of peers that it never talks to.
const PEERS_COUNTED: usize = 500;

#[derive(Debug)]
struct StatusCollector(Status);

impl Collector for StatusCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let status = &self.0;
        let gauges: [(&str, &str, i64); 7] = [
            ("ready", "1 while packets flow", i64::from(status.ready)),
            ("mtu_bytes", "MTU of the overlay", i64::from(status.mtu)),
            (
                "table_nodes",
                "Nodes in the subnet table, this one included",
                i64::try_from(status.table.nodes).unwrap_or(i64::MAX),
            ),
            (
                "table_refused",
                "1 while the newest version of the table is refused",
                i64::from(status.table.error.is_some()),
            ),
            (
                "table_current",
                "1 while the source of the table is followed",
                i64::from(status.table.current),
            ),
            (
                "table_entries_left_out",
                "Entries of the source that were left out",
                i64::try_from(status.table.left_out.len()).unwrap_or(i64::MAX),
            ),
            (
                "table_contested",
                "1 while this node's own entry is not its own",
                i64::from(status.table.contested.is_some()),
            ),
        ];
        for (name, help, value) in gauges {
            let metric = ConstGauge::new(value);
            metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)?;
        }
        let age = ConstGauge::new(status.table.age_seconds);
        let help = "Seconds since the table was last known to be current";
        age.encode(encoder.encode_descriptor(
            "table_age_seconds",
            help,
            None,
            age.metric_type(),
        )?)?;
        let counters: [(&str, &str, u64); 4] = [
            ("table_changes", "Subnet tables taken since the start", status.table.generation),
            ("icmp_replies", "ICMP errors sent to pods", status.icmp_replies),
            ("offload_refusals", "Offloads refused and given up", status.offload_refusals),
            ("repairs", "Parts of this node's set-up put back", status.repairs),
        ];
        for (name, help, value) in counters {
            let metric = ConstCounter::new(value);
            metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)?;
        }

        if let Some(drops) = status.receive_drops {
            let drops = ConstCounter::new(drops);
            let help = "Datagrams that the kernel dropped because the daemon was too slow";
            let kind = drops.metric_type();
            drops.encode(encoder.encode_descriptor("receive_drops", help, None, kind)?)?;
        }

        self.encode_sealed(&mut encoder)?;
        let info = ConstGauge::new(1_i64);
        let mut build =
            encoder.encode_descriptor("build_info", "The daemon", None, info.metric_type())?;
        let labels = [("version", status.version.as_str())];
        info.encode(build.encode_family(&labels)?)?;
        if !status.table.hash.is_empty() {
            let help = "Nodes with the same table have the same hash";
            let mut table =
                encoder.encode_descriptor("table_info", help, None, info.metric_type())?;
            let labels = [("hash", status.table.hash.as_str())];
            info.encode(table.encode_family(&labels)?)?;
        }

        let kind = ConstCounter::new(0_u64).metric_type();
        let help = "Dropped packets by reason";
        let mut drops = encoder.encode_descriptor("dropped_packets", help, None, kind)?;
        for (reason, count) in &status.drops {
            let labels = [("reason", reason.as_str())];
            ConstCounter::new(*count).encode(drops.encode_family(&labels)?)?;
        }
        let traffic = |peer: &PeerStatus| peer.egress.packets + peer.ingress.packets;
        let mut active: Vec<_> = status.peers.iter().filter(|peer| traffic(peer) > 0).collect();
        let omitted = active.len().saturating_sub(PEERS_COUNTED);
        active.truncate(PEERS_COUNTED);
        let omitted = ConstGauge::new(i64::try_from(omitted).unwrap_or(i64::MAX));
        let help = "Peers with traffic that have no series of their own";
        let kind_of = omitted.metric_type();
        omitted.encode(encoder.encode_descriptor("peers_omitted", help, None, kind_of)?)?;
        for (name, help, count) in [
            ("peer_packets", "Inner packets by peer and direction", packets as fn(&_) -> u64),
            ("peer_bytes", "Bytes of inner packets by peer and direction", bytes),
        ] {
            let mut family = encoder.encode_descriptor(name, help, None, kind)?;
            for peer in &active {
                for (direction, traffic) in [("egress", &peer.egress), ("ingress", &peer.ingress)] {
                    let labels = [("peer", peer.name.as_str()), ("direction", direction)];
                    ConstCounter::new(count(traffic)).encode(family.encode_family(&labels)?)?;
                }
            }
        }
        Ok(())
    }
}

impl StatusCollector {
    /// Sessions and handshakes, on a node that seals.
    fn encode_sealed(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Status { sealed, peers, .. } = &self.0;
        if sealed.public_keys.is_empty() {
            return Ok(());
        }
        let state = |peer: &PeerStatus| match (&peer.sealed, peer.plain) {
            (Some(_), _) => "sealed",
            (None, true) => "plain",
            (None, false) => "none",
        };
        let help = "Peers by what their packets are: sealed, plain, or none without a session";
        let kind = ConstGauge::new(0_i64).metric_type();
        let mut family = encoder.encode_descriptor("sealed_peers", help, None, kind)?;
        for name in ["sealed", "plain", "none"] {
            let count = peers.iter().filter(|peer| state(peer) == name).count();
            let count = ConstGauge::new(i64::try_from(count).unwrap_or(i64::MAX));
            count.encode(family.encode_family(&[("state", name)])?)?;
        }
        let handshakes = &sealed.handshakes;
        let kind = ConstCounter::new(0_u64).metric_type();
        let help = "Handshakes that came to a session, by this node's role and the suite";
        let mut family = encoder.encode_descriptor("handshakes", help, None, kind)?;
        for (words, count) in &handshakes.made {
            let (role, suite) = words.split_once(' ').unwrap_or((words, ""));
            let labels = [("role", role), ("suite", suite)];
            ConstCounter::new(*count).encode(family.encode_family(&labels)?)?;
        }
        for (name, help, count) in [
            (
                "handshake_failures",
                "Times that handshakes began to fail with a peer",
                handshakes.failed,
            ),
            ("handshakes_refused", "Handshake datagrams that were no peer's", handshakes.refused),
            (
                "sessions_ended",
                "Sessions that ended without a successor",
                handshakes.sessions_ended,
            ),
        ] {
            let count = ConstCounter::new(count);
            count.encode(encoder.encode_descriptor(name, help, None, kind)?)?;
        }
        Ok(())
    }
}

fn packets(traffic: &culvert_dataplane::engine::Traffic) -> u64 {
    traffic.packets
}

fn bytes(traffic: &culvert_dataplane::engine::Traffic) -> u64 {
    traffic.bytes
}

#[cfg(test)]
mod tests;
