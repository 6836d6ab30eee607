//! Being the one daemon of this node: refused while there is another, or waited for.
//!
//! Owns the admin socket's place and the claim to the TUN's name until the daemon's end. With
//! `node.stand_by` a daemon is complete and waiting when the one before it ends, so that pods miss
//! the network for as long as one start takes, and not for as long as it takes somebody to arrange
//! it.

use std::io;
use std::time::Duration;

use anyhow::Context as _;
use culvert_dataplane::platform;

use crate::config::Config;
use crate::lifecycle::{Signal, Signals};
use crate::observe::AdminSocket;
use crate::platform::claim::Claim;

/// How often a daemon that stands by looks whether it is its turn: looking is a question to the
/// kernel that takes microseconds, and what is lost by looking late is pods' packets.
const LOOK: Duration = Duration::from_millis(10);

/// The right to serve this node, which ends when this is dropped.
pub(super) struct Turn {
    /// Taken when it begins to serve.
    pub(super) admin: AdminSocket,
    /// Held for longer than anything that two daemons could dispute.
    pub(super) claim: Claim,
}

impl Turn {
    /// Takes the turn, at once or, with `node.stand_by`, when it comes. `None` if a signal asked
    /// for the end before.
    ///
    /// # Errors
    ///
    /// Another daemon serves this node and this one does not stand by; or the run directory cannot
    /// be written.
    pub(super) async fn take(
        config: &Config,
        signals: &mut Signals,
    ) -> anyhow::Result<Option<Self>> {
        let name = &config.tun.name;
        if config.node.stand_by {
            let Some(claim) = stand_by(name, signals).await? else { return Ok(None) };
            let admin = AdminSocket::bind(&config.node.run_dir)?;
            return Ok(Some(Self { admin, claim }));
        }
        // The socket first: a second daemon on this node must disturb nothing of the first.
        let admin = AdminSocket::bind(&config.node.run_dir)?;
        // One with a run directory of its own would share the TUN's queues and the port with this
        // one.
        let claim = match Claim::take(name) {
            Err(error) if is_held(&error) => anyhow::bail!(
                "another daemon of this network namespace owns the TUN {name}; stop it, or give this \
                 one its own tun.name, bridge.name and underlay.port"
            ),
            claim => claim.context("making sure that this is the node's only daemon")?,
        };
        Ok(Some(Self { admin, claim }))
    }
}

/// Waits until nobody holds `name`; `None` if a signal asked for the end before.
///
/// # Errors
///
/// The kernel cannot be asked.
async fn stand_by(name: &str, signals: &mut Signals) -> anyhow::Result<Option<Claim>> {
    let mut is_told = false;
    loop {
        if Claim::may_be_free(name) {
            match Claim::take(name) {
                Ok(claim) => return Ok(Some(claim)),
                Err(error) if is_held(&error) => {}
                Err(error) => {
                    return Err(error).context("making sure that this is the node's only daemon");
                }
            }
        }
        if !is_told {
            tracing::info!("another daemon serves this node; standing by");
            is_told = true;
        }
        tokio::select! {
            signal = signals.next() => match signal {
                Signal::Stop => return Ok(None),
                // There is no table yet that could be read again.
                Signal::Reload => {}
            },
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

fn is_held(error: &platform::Error) -> bool {
    error.cause.kind() == io::ErrorKind::AddrInUse
}
