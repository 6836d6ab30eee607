//! The daemon's sweep: makes the address store agree with the pods that run.
//!
//! Frees addresses of pods that are gone although nobody called DEL: several runtimes never call
//! GC, and a node that lost its power calls no DEL. Makes a store anew that was lost, and writes
//! down what it lacks, by the notes on pods' ports. Looks once at start, when what an earlier boot
//! left is freed and the file is examined, and then at a slow interval. Each look runs on a thread
//! that may block, so that neither SQLite nor a slow disk holds up the control runtime; when it is
//! slow, the next one comes later.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::time::Duration;

use culvert_dataplane::platform::clock;
use culvert_node::ipam::{self, GRACE, Surveyor, Sweep, Swept, boot_id};

/// How often all allocations are looked at: often enough that a leak is gone soon after the grace
/// time, seldom enough that a look, some microseconds for each pod, is nothing.
const INTERVAL: Duration = Duration::from_secs(60);

/// Sweeps the store under `state_dir` until the task is aborted.
pub(crate) async fn keep_sweeping(state_dir: PathBuf) -> Infallible {
    let mut sweep = Sweep::new(boot_id(), GRACE);
    loop {
        sweep = sweep_once(sweep, state_dir.clone()).await;
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Looks once, logs what was freed, and hands the sweep back.
async fn sweep_once(mut sweep: Sweep, state_dir: PathBuf) -> Sweep {
    let path = state_dir.clone();
    let look = tokio::task::spawn_blocking(move || {
        let swept = Surveyor::open()
            .and_then(|mut surveyor| sweep.run(&state_dir, &mut surveyor, clock::now()));
        (sweep, swept)
    });
    match look.await {
        Ok((sweep, swept)) => {
            report(swept, &path);
            sweep
        }
        Err(error) => {
            tracing::error!(%error, "looking for leaked pod addresses failed; this is a bug");
            Sweep::new(boot_id(), GRACE)
        }
    }
}

fn report(swept: Result<Swept, ipam::Error>, state_dir: &Path) {
    match swept {
        Ok(Swept { freed, adopted, restored }) => {
            if let Some(restored) = restored {
                tracing::warn!(state_dir = %state_dir.display(), "{restored}");
            }
            if adopted > 0 {
                tracing::warn!(
                    addresses = adopted,
                    state_dir = %state_dir.display(),
                    "the address store lacked pods that run; it has them again, by their ports' notes"
                );
            }
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

fn complain(error: &ipam::Error, state_dir: &Path) {
    let cause = std::error::Error::source(error).map(ToString::to_string);
    tracing::warn!(%error, cause, state_dir = %state_dir.display(), "looking at the pods' addresses failed");
}
