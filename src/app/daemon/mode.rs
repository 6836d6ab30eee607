//! The configuration is read again, and its `sealed.mode` comes into force without a restart.
//!
//! Of all keys only this one: it says how strict a node is with peers that it has sessions with
//! already, so that nothing has to be made anew. From `prefer` to `require` no packet may get lost,
//! neither this node's nor one that a peer sends in plain as long as it has no session. So
//! sessions with all peers come first, and the plain port is closed behind them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use culvert_dataplane::platform::clock;

use super::Daemon;
use crate::app::sealed;
use crate::config::{Config, SealedMode};

/// Reads the configuration as it was read at the start.
pub(in crate::app) type Reread = Arc<dyn Fn() -> anyhow::Result<Config> + Send + Sync>;

/// How often sessions are looked for that are still missing.
pub(super) const LOOK: Duration = Duration::from_millis(100);

/// For how long they are waited for: a peer that is down gets none, and that must hold up nobody.
const PATIENCE: Duration = Duration::from_secs(10);

/// Peers without a session that the log names.
const NAMED: usize = 8;

/// `sealed.mode = "require"`, which is not in force yet.
pub(super) struct Insisting {
    config: Arc<Config>,
    until: Instant,
}

/// What another configuration asks of a daemon that runs.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    /// Nothing.
    Nothing,
    /// To be less strict, which can be at once.
    Prefer,
    /// To insist, once there are sessions.
    Require,
    /// To begin or end sealing, which only a start does.
    Restart,
}

fn asked(present: SealedMode, next: SealedMode) -> Asked {
    match (present, next) {
        (SealedMode::Off, SealedMode::Off)
        | (SealedMode::Prefer, SealedMode::Prefer)
        | (SealedMode::Require, SealedMode::Require) => Asked::Nothing,
        (SealedMode::Require, SealedMode::Prefer) => Asked::Prefer,
        (SealedMode::Prefer, SealedMode::Require) => Asked::Require,
        (SealedMode::Off, _) | (_, SealedMode::Off) => Asked::Restart,
    }
}

impl Daemon {
    /// Reads the configuration again, and begins to go by its `sealed.mode`. One that cannot be
    /// used changes nothing.
    pub(super) async fn reread_config(&mut self) {
        let reread = Arc::clone(&self.reread);
        let read = tokio::task::spawn_blocking(move || reread()).await;
        let next = match read.context("reading the configuration").flatten() {
            Ok(next) => next,
            Err(error) => {
                let error = format!("{error:#}");
                tracing::error!(error, "the new configuration is refused; the old one stays");
                return;
            }
        };
        let mode = next.sealed.mode;
        let config = Arc::new(with_mode(&self.config, mode));
        if next != *config {
            tracing::warn!(
                "of a changed configuration only sealed.mode comes into force without a restart"
            );
        }
        self.insisting = None;
        match asked(self.config.sealed.mode, mode) {
            Asked::Nothing => {}
            Asked::Prefer => self.change_mode(config).await,
            Asked::Require => {
                tracing::info!("looking for sessions with all peers, to insist on them");
                self.insisting = Some(Insisting { config, until: clock::now() + PATIENCE });
                self.insist().await;
            }
            Asked::Restart => {
                let mode = mode.as_str();
                tracing::warn!(mode, "a node begins or ends to seal with a restart only");
            }
        }
    }

    /// Insists on sealed packets, once all peers seal or have had the time to.
    pub(super) async fn insist(&mut self) {
        let Some(Insisting { config, until }) = &self.insisting else { return };
        let missing = self.plane.seek_sessions();
        if !missing.is_empty() && clock::now() < *until {
            return;
        }
        if !missing.is_empty() {
            let named = missing.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>();
            let (count, peers) = (missing.len(), named.join(" "));
            tracing::warn!(count, peers, "insisting without a session with some peers");
        }
        let config = Arc::clone(config);
        self.insisting = None;
        self.change_mode(config).await;
    }

    /// Goes by `config`, which differs from the one in force by how strict it is.
    async fn change_mode(&mut self, config: Arc<Config>) {
        let before = self.go_by_config(config);
        match self.try_table(&before).await {
            Ok(()) => {
                let mode = self.config.sealed.mode.as_str();
                tracing::info!(mode, "sealed.mode has changed");
            }
            Err(reason) => {
                tracing::error!(%reason, "sealed.mode stays as it was");
                self.go_by_config(before);
            }
        }
    }

    /// Understands everything as `config` says; returns what said so before.
    fn go_by_config(&mut self, config: Arc<Config>) -> Arc<Config> {
        self.feed.go_by(Arc::clone(&config));
        self.sealed.go_by(Arc::clone(&config));
        self.paths.go_by(&config);
        if let Some(mode) = sealed::mode(&config) {
            self.plane.set_sealed_mode(mode);
        }
        std::mem::replace(&mut self.config, config)
    }
}

fn with_mode(config: &Config, mode: SealedMode) -> Config {
    let mut config = config.clone();
    config.sealed.mode = mode;
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn between_the_modes_that_seal_no_restart_is_needed() {
        use SealedMode::{Off, Prefer, Require};
        assert_eq!(asked(Prefer, Require), Asked::Require);
        assert_eq!(asked(Require, Prefer), Asked::Prefer);
        for mode in SealedMode::ALL {
            assert_eq!(asked(mode, mode), Asked::Nothing);
        }
        for mode in [Prefer, Require] {
            assert_eq!((asked(mode, Off), asked(Off, mode)), (Asked::Restart, Asked::Restart));
        }
    }
}
