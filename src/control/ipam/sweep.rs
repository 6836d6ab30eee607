//! The daemon's sweep: addresses of pods that are gone although nobody called DEL.
//!
//! Several runtimes never call GC, and a node that lost its power calls no DEL. Looks once at start,
//! when what an earlier boot left is freed, and then at a slow interval. Each look runs on a thread
//! that may block, so that neither SQLite nor a slow disk holds up the control runtime; when it is
//! slow, the next one comes later.

use std::convert::Infallible;
use std::path::PathBuf;
use std::time::Duration;

use culvert_cni::ipam::{self, GRACE, Record, Store, Sweep, boot_id};

use crate::platform::clock;

/// How often all allocations are looked at: often enough that a leak is gone soon after the grace
/// time, seldom enough that a look, some microseconds for each pod, is nothing.
const INTERVAL: Duration = Duration::from_secs(60);

/// Sweeps the store under `state_dir` until the task is aborted.
pub async fn keep_sweeping(state_dir: PathBuf) -> Infallible {
    let mut sweep = Sweep::new(boot_id(), GRACE);
    examine(state_dir.clone()).await;
    loop {
        sweep = sweep_once(sweep, state_dir.clone()).await;
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Looks once, logs what was freed, and hands the sweep back.
async fn sweep_once(mut sweep: Sweep, state_dir: PathBuf) -> Sweep {
    let path = state_dir.clone();
    let look = tokio::task::spawn_blocking(move || {
        let freed = sweep.run(&state_dir, clock::now());
        (sweep, freed)
    });
    match look.await {
        Ok((sweep, freed)) => {
            report(freed, &path);
            sweep
        }
        Err(error) => {
            tracing::error!(%error, "looking for leaked pod addresses failed; this is a bug");
            Sweep::new(boot_id(), GRACE)
        }
    }
}

fn report(freed: Result<Vec<Record>, ipam::Error>, state_dir: &std::path::Path) {
    match freed {
        Ok(freed) => {
            for record in freed {
                tracing::info!(
                    container = record.attachment.container(),
                    interface = record.attachment.ifname(),
                    "freed an address: its pod is gone, and nobody called DEL"
                );
                tracing::debug!(address = %record.allocation.address, "freed");
            }
        }
        Err(error) => complain(&error, state_dir),
    }
}

/// Looks through the whole file once, so that damage is known before a pod meets it.
async fn examine(state_dir: PathBuf) {
    let path = state_dir.clone();
    let faults = tokio::task::spawn_blocking(move || {
        Store::open(&path)?.map_or_else(|| Ok(Vec::new()), |mut store| store.faults())
    });
    match faults.await {
        Ok(Ok(faults)) => {
            for fault in faults {
                tracing::error!(fault, "the address store is damaged; see `culvert ipam rebuild`");
            }
        }
        Ok(Err(error)) => complain(&error, &state_dir),
        Err(error) => tracing::error!(%error, "examining the address store failed; this is a bug"),
    }
}

fn complain(error: &ipam::Error, state_dir: &std::path::Path) {
    let cause = std::error::Error::source(error).map(ToString::to_string);
    tracing::warn!(%error, cause, state_dir = %state_dir.display(), "looking at the pods' addresses failed");
}
