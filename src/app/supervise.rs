//! Keeps the service manager informed: ready, how it stands, alive.
//!
//! Runs as a task of the control runtime, whose turning is what a sign of life says.

use std::convert::Infallible;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use crate::lifecycle::{Readiness, Supervisor};
use crate::observe::{Scrape, StatusSource};

/// How often the words about the daemon are made anew, besides whenever its readiness changes.
const PERIOD: Duration = Duration::from_secs(10);

/// Tells `supervisor` until the task is aborted.
pub(super) async fn keep_telling(
    supervisor: Supervisor,
    status: StatusSource,
    readiness: Readiness,
) -> Infallible {
    if !supervisor.is_there() {
        return std::future::pending().await;
    }
    // Twice as often as it is wanted, as sd_watchdog_enabled(3) asks for.
    let pace = supervisor.watchdog().map_or(PERIOD, |watchdog| (watchdog / 2).min(PERIOD));
    let mut tick = interval(pace.max(Duration::from_millis(1)));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut changes = readiness.changes();
    let mut is_ready = false;
    let mut said = String::new();
    loop {
        tokio::select! {
            _ = tick.tick() => {
                if supervisor.watchdog().is_some() {
                    supervisor.alive();
                }
            }
            // It never ends before this does.
            _ = changes.changed() => {}
        }
        let Scrape { node, totals, .. } = status.scrape(&mut |_| Vec::new());
        let verdict = node.verdict_among(node.table.nodes.saturating_sub(1), totals.barred);
        if verdict != said && supervisor.status(&verdict) {
            said = verdict;
        }
        is_ready = is_ready || (readiness.is_ready() && supervisor.ready());
    }
}
