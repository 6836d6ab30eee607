//! Being the one daemon of this node: refused while there is another, or waited for.
//!
//! Owns the admin socket's place and the claim to the network namespace until the daemon's end.
//! With `node.stand_by` a daemon is complete and waiting when the one before it ends, so that pods
//! miss the network for as long as one start takes, and not for as long as it takes somebody to
//! arrange it.

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
        let holder = describe(config);
        if config.node.stand_by {
            let Some(claim) = stand_by(&holder, signals).await? else { return Ok(None) };
            let admin = AdminSocket::bind(&config.node.run_dir)?;
            return Ok(Some(Self { admin, claim }));
        }
        // The socket first: a second daemon on this node must disturb nothing of the first.
        let admin = AdminSocket::bind(&config.node.run_dir)?;
        // One with a run directory of its own would share the TUN's queues and the port with this
        // one; and whatever names it has, the nftables tables and the routes.
        let claim = match Claim::take(&holder) {
            Err(error) if is_held(&error) => {
                let other = holder_of_claim();
                anyhow::bail!(
                    "another daemon serves this network namespace ({other}), and this one would be \
                     {holder}. Two would replace each other's nftables tables and routes even if \
                     tun.name, bridge.name and underlay.port differ: stop the other, or give this \
                     one a network namespace of its own"
                )
            }
            claim => claim.context("making sure that this is the node's only daemon")?,
        };
        Ok(Some(Self { admin, claim }))
    }
}

/// Takes the claim for a cleanup, at once.
///
/// # Errors
///
/// A daemon has it, or the kernel cannot be asked.
pub(super) fn claim_for_cleanup() -> anyhow::Result<Claim> {
    let holder = format!("process {}, `culvert cleanup`", std::process::id());
    match Claim::take(&holder) {
        Err(error) if is_held(&error) => {
            anyhow::bail!(
                "a daemon serves this network namespace ({}): it would put back what is removed, and \
                 pods would be without their network meanwhile. Nothing was removed. Stop it first \
                 (`systemctl stop culvert`, or remove its DaemonSet or container)",
                holder_of_claim()
            )
        }
        claim => claim.context("making sure that no daemon serves this network namespace"),
    }
}

/// What whoever has the claim says of itself.
fn holder_of_claim() -> String {
    Claim::holder().unwrap_or_else(|| "it does not say which".to_owned())
}

/// Who has the claim, for whoever finds it taken.
fn describe(config: &Config) -> String {
    format!(
        "process {}, tun.name {}, bridge.name {}, underlay.port {}, node.run_dir {}",
        std::process::id(),
        config.tun.name,
        config.bridge.name,
        config.underlay.port,
        config.node.run_dir.display()
    )
}

/// Waits until nobody has the claim; `None` if a signal asked for the end before.
///
/// # Errors
///
/// The kernel cannot be asked.
async fn stand_by(holder: &str, signals: &mut Signals) -> anyhow::Result<Option<Claim>> {
    let mut is_told = false;
    loop {
        if Claim::may_be_free() {
            match Claim::take(holder) {
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
