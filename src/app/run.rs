//! `culvert run`: what comes up in which order, and goes in the reverse one.

use std::sync::Arc;

use anyhow::Context as _;
use culvert_dataplane::platform::clock;
use culvert_node::node_file::NodeFile;
use tokio::net::TcpListener;

use super::capture::capture_source;
use super::daemon::{Beginning, Daemon};
use super::feed::Feed;
use super::sealed::Sealed;
use super::turn::Turn;
use super::view::{Facts, explain_source, status_source};
use crate::config::Config;
use crate::control::source;
use crate::control::sweep::keep_sweeping;
use crate::lifecycle::{Readiness, Signals};
use crate::observe::{Services, serve_http};

/// Runs the daemon until a signal ends it.
///
/// # Errors
///
/// What prevents the start: the message says what to change.
pub(crate) async fn run(config: Config) -> anyhow::Result<()> {
    let config = Arc::new(config);
    let mut signals = Signals::new().context("taking over signals")?;
    std::fs::create_dir_all(&config.node.run_dir)
        .with_context(|| format!("creating {}", config.node.run_dir.display()))?;
    // Before a daemon that serves the node ends for this one. Keys that change until then are
    // noticed.
    let sealed = Sealed::open(Arc::clone(&config)).await?;
    let Some(Turn { admin, claim }) = Turn::take(&config, &mut signals).await? else {
        return Ok(());
    };
    let http = match config.observe.address {
        Some(address) => Some(TcpListener::bind(address).await.with_context(|| {
            format!(
                "listening on observe.address {address}, which must be an address of this \
                         machine and a port that no other program has"
            )
        })?),
        None => None,
    };
    NodeFile::remove(&config.node.run_dir).context("removing the node file of an earlier run")?;

    // Whoever asks is answered from here on, whatever the start has to wait for.
    let facts = Arc::new(Facts::new(clock::now()));
    facts.show_sealed(sealed.status());
    let readiness = Readiness::new();
    let status = status_source(&config, Arc::clone(&facts), readiness.clone());
    let services = Services {
        status: status.clone(),
        explain: explain_source(&config, Arc::clone(&facts)),
        capture: capture_source(Arc::clone(&facts)),
    };
    let mut tasks = vec![tokio::spawn(admin.serve(services))];
    tasks.extend(http.map(|listener| tokio::spawn(serve_http(listener, status))));
    let sweeping = tokio::spawn(keep_sweeping(config.node.state_dir.clone()));

    let served = serve(config, facts, readiness, &mut signals, sealed).await;
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
async fn serve(
    config: Arc<Config>,
    facts: Arc<Facts>,
    readiness: Readiness,
    signals: &mut Signals,
    sealed: Sealed,
) -> anyhow::Result<Option<Daemon>> {
    let (version, source) = (env!("CARGO_PKG_VERSION"), source::describe(&config.table));
    tracing::info!(node = config.node.name, version, source, "starting");
    tracing::debug!(?config, "as configured");
    let Signals { stop, reload } = signals;
    let mut feed = Feed::start(Arc::clone(&config), Arc::clone(&facts));
    feed.source().keys(sealed.public_keys());
    let members = tokio::select! {
        members = feed.first(&readiness) => members?,
        () = stop.next() => return Ok(None),
    };
    let beginning = Beginning { config, facts, readiness, sealed };
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
