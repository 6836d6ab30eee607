//! `culvert run`: what comes up in which order, and goes in the reverse one.

use std::sync::Arc;

use anyhow::Context as _;
use culvert_dataplane::platform::clock;
use culvert_node::node_file::NodeFile;

use super::capture::capture_source;
use super::checkup::{Checkup, Look};
use super::daemon::{Beginning, Daemon, Reread};
use super::feed::Feed;
use super::flow_export;
use super::flows::{FlowHub, flow_source};
use super::listen::listen;
use super::pods::pods;
use super::sealed::Sealed;
use super::supervise::keep_telling;
use super::turn::Turn;
use super::view::{
    Facts, explain_source, find_source, ping_source, setup_source, status_source, tables_source,
    trace_source,
};
use crate::config::{Config, PeerMetrics};
use crate::control::source;
use crate::control::sweep::keep_sweeping;
use crate::lifecycle::{Readiness, Signals, Supervisor};
use crate::observe::{PeerSeries, Services, serve_http};
use crate::platform::allocator;

/// Runs the daemon until a signal ends it, and tells `supervisor` how it stands. For answers to
/// peers it looks at this node with `look`; `reread` reads the configuration again.
///
/// # Errors
///
/// What prevents the start: the message says what to change.
pub(crate) async fn run(
    config: Config,
    reread: Reread,
    supervisor: Supervisor,
    look: Look,
) -> anyhow::Result<()> {
    allocator::keep_little();
    let config = Arc::new(config);
    let mut signals = Signals::new().context("taking over signals")?;
    std::fs::create_dir_all(&config.node.run_dir)
        .with_context(|| format!("creating {}", config.node.run_dir.display()))?;
    // Before a daemon that serves the node ends for this one. Keys that change until then are
    // noticed.
    let sealed = Sealed::open(Arc::clone(&config)).await?;
    if config.node.stand_by {
        supervisor.status("waiting until no other daemon serves this node");
    }
    let Some(Turn { admin, claim }) = Turn::take(&config, &mut signals).await? else {
        return Ok(());
    };
    NodeFile::remove(&config.node.run_dir).context("removing the node file of an earlier run")?;

    // Whoever asks is answered from here on, whatever the start has to wait for.
    let facts = Arc::new(Facts::new(clock::now(), Checkup::new(look)));
    facts.show_sealed(sealed.status(), None);
    let readiness = Readiness::new();
    let status = status_source(&config, Arc::clone(&facts), readiness.clone());
    let telling = keep_telling(supervisor.clone(), status.clone(), readiness.clone());
    let hub = FlowHub::new(Arc::clone(&facts), config.flows.sample);
    if let Some(path) = &config.flows.export {
        flow_export::start(Arc::clone(&hub), path.clone())?;
    }
    let services = Services {
        status: status.clone(),
        setup: setup_source(&config, Arc::clone(&facts)),
        explain: explain_source(&config, Arc::clone(&facts)),
        pods: Arc::new(pods),
        find: find_source(&config, Arc::clone(&facts)),
        capture: capture_source(Arc::clone(&facts)),
        ping: ping_source(Arc::clone(&facts)),
        tables: tables_source(Arc::clone(&facts)),
        trace: trace_source(Arc::clone(&facts), explain_source(&config, Arc::clone(&facts))),
        flows: flow_source(Arc::clone(&hub)),
    };
    let mut tasks = vec![tokio::spawn(admin.serve(services))];
    let telling = tokio::spawn(telling);
    let series = match config.observe.peer_metrics {
        PeerMetrics::Active => PeerSeries::Active,
        PeerMetrics::None => PeerSeries::None,
        PeerMetrics::All => PeerSeries::All,
    };
    if let Some(address) = config.observe.address {
        let shown = Arc::clone(&facts);
        tasks.push(tokio::spawn(async move {
            let listener = listen(address, move |fault| shown.show_observe(fault)).await;
            serve_http(listener, status, series).await;
        }));
    }
    let shown = Arc::clone(&facts);
    let show_held = move |held| shown.show_held(held);
    let sweeping = tokio::spawn(keep_sweeping(config.node.state_dir.clone(), show_held));

    let stopping = supervisor.clone();
    let beginning = Beginning { config, reread, facts, readiness, sealed, supervisor };
    let served = serve(beginning, &mut signals).await;
    telling.abort();
    stopping.stopping();
    sweeping.abort();
    for task in tasks {
        task.abort();
        // The admin socket's file and the HTTP port go with their tasks.
        let _ = task.await;
    }
    let stopped = match served {
        Ok(Some(daemon)) => daemon.stop().await,
        Ok(None) => {
            tracing::info!("stopped before there was a subnet table");
            Ok(())
        }
        Err(error) => Err(error),
    };
    // A daemon that stands by takes all of this over in this moment.
    drop(claim);
    stopped
}

/// Starts the daemon and keeps it until a signal asks for the end; none if that was before there
/// was a table to start with.
async fn serve(beginning: Beginning, signals: &mut Signals) -> anyhow::Result<Option<Daemon>> {
    let Beginning { config, facts, readiness, sealed, .. } = &beginning;
    let (version, source) = (env!("CARGO_PKG_VERSION"), source::describe(&config.table));
    tracing::info!(node = config.node.name, version, source, "starting");
    tracing::debug!(
        tun = config.tun.name,
        bridge = config.bridge.name,
        port = config.underlay.port,
        sealed = config.sealed.mode.as_str(),
        run_dir = %config.node.run_dir.display(),
        state_dir = %config.node.state_dir.display(),
        "as configured"
    );
    let Signals { stop, reload } = signals;
    let mut feed = Feed::start(Arc::clone(config), Arc::clone(facts));
    feed.source().keys(sealed.public_keys());
    let members = tokio::select! {
        members = feed.first(readiness) => members?,
        () = stop.next() => return Ok(None),
    };
    let mut daemon = tokio::select! {
        daemon = Daemon::start(beginning, feed, members) => daemon?,
        () = stop.next() => return Ok(None),
    };
    // Whatever the daemon waits for, a signal ends the waiting.
    tokio::select! {
        failed = daemon.keep(reload) => failed?,
        () = stop.next() => {}
    }
    Ok(Some(daemon))
}
