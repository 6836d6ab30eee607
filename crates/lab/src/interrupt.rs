//! Noticing that the user wants to stop, so that a lab is taken down before the program ends.
//!
//! Owns one flag, which signals set and every long step reads. Without [`watch`] nothing ever sets
//! it: tests leave signals alone.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context as _, Result, bail};
use tokio::signal::unix::{SignalKind, signal};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// From here on, SIGINT, SIGTERM and SIGHUP no longer end the process but make [`check`] fail.
///
/// # Errors
///
/// The signals cannot be watched.
pub fn watch() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .context("start watching signals")?;
    let (mut interrupt, mut terminate, mut hangup) = {
        let _inside = runtime.enter();
        (
            signal(SignalKind::interrupt()).context("watch SIGINT")?,
            signal(SignalKind::terminate()).context("watch SIGTERM")?,
            signal(SignalKind::hangup()).context("watch SIGHUP")?,
        )
    };
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    _ = hangup.recv() => {}
                }
            });
            // The handlers outlive the runtime, so a second Ctrl-C cannot interrupt the clean-up.
            INTERRUPTED.store(true, Ordering::Relaxed);
        })
        .context("start watching signals")?;
    Ok(())
}

/// Fails once the user has interrupted.
///
/// # Errors
///
/// The user has interrupted.
pub fn check() -> Result<()> {
    if INTERRUPTED.load(Ordering::Relaxed) {
        bail!("interrupted");
    }
    Ok(())
}
