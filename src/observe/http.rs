//! `/metrics`, `/healthz` and `/readyz` over HTTP.

mod activity;
mod metrics;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::time::Instant;

use self::activity::Activity;
pub(crate) use self::activity::PeerSeries;
use super::limit::Limited;
use super::{Status, StatusSource};

/// How long an answer of `/metrics` and one of `/readyz` is given to all who ask. Making one takes
/// milliseconds with thousands of peers, and anybody may ask as often as he likes.
const METRICS_SPAN: Duration = Duration::from_millis(500);
const READINESS_SPAN: Duration = Duration::from_millis(100);

/// Serves on `listener`, for ever; `series` says which peers have metrics of their own.
pub(crate) async fn serve_http(listener: TcpListener, status: StatusSource, series: PeerSeries) {
    let answers = Arc::new(Answers {
        status,
        activity: Mutex::new(Activity::new(series)),
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
    activity: Mutex<Activity>,
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
    answers.readiness.get(Instant::now(), || readiness(answers.status.node()))
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
    let make = || {
        let mut activity = answers.activity.lock().unwrap_or_else(PoisonError::into_inner);
        metrics::exposition(&*answers.status, &mut activity).map(Bytes::from)
    };
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

#[cfg(test)]
mod tests;
