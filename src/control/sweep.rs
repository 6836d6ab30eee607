//! The daemon's sweep: makes the address store agree with the pods that run.
//!
//! Frees addresses of pods that are gone although nobody called DEL: several runtimes never call
//! GC, and a node that lost its power calls no DEL. Makes a store anew that was lost, and writes
//! down what it lacks, by the notes on pods' ports. Looks once at start, when what an earlier boot
//! left is freed and the file is examined, and then at a slow interval. Each look runs on a thread
//! that may block, so that neither SQLite nor a slow disk holds up the control runtime; when it is
//! slow, the next one comes later.

use std::convert::Infallible;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use culvert_dataplane::platform::clock;
use culvert_node::ipam::{self, GRACE, Store, Surveyor, Sweep, Swept, boot_id};

/// How often all allocations are looked at: often enough that a leak is gone soon after the grace
/// time, seldom enough that a look, some microseconds for each pod, is nothing.
const INTERVAL: Duration = Duration::from_secs(60);

/// Sweeps the store under `state_dir` until the task is aborted, and shows each time which
/// addresses it holds.
pub(crate) async fn keep_sweeping(
    state_dir: PathBuf,
    show: impl Fn(Vec<IpAddr>) + Send,
) -> Infallible {
    let mut sweep = Sweep::new(boot_id(), GRACE);
    let mut is_failing = false;
    loop {
        let held;
        (sweep, held) = sweep_once(sweep, state_dir.clone(), &mut is_failing).await;
        if let Some(held) = held {
            show(held);
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Looks once, logs what was freed, and hands the sweep back with the addresses that are held.
async fn sweep_once(
    mut sweep: Sweep,
    state_dir: PathBuf,
    is_failing: &mut bool,
) -> (Sweep, Option<Vec<IpAddr>>) {
    let path = state_dir.clone();
    let look = tokio::task::spawn_blocking(move || {
        let swept = Surveyor::open()
            .and_then(|mut surveyor| sweep.run(&state_dir, &mut surveyor, clock::now()));
        let held = swept.is_ok().then(|| held(&state_dir)).flatten();
        (sweep, swept, held)
    });
    match look.await {
        Ok((sweep, swept, held)) => {
            report(swept, &path, is_failing);
            (sweep, held)
        }
        Err(error) => {
            tracing::error!(%error, "looking for leaked pod addresses failed; this is a bug");
            (Sweep::new(boot_id(), GRACE), None)
        }
    }
}

/// The addresses that the store holds, if it can be read: none before there is one.
fn held(state_dir: &Path) -> Option<Vec<IpAddr>> {
    let Some(mut store) = Store::open(state_dir).ok()? else { return Some(Vec::new()) };
    let records = store.records().ok()?;
    Some(records.iter().map(|record| record.allocation.address).collect())
}

/// Logs what was done; what fails is said once, and so is its end.
fn report(swept: Result<Swept, ipam::Error>, state_dir: &Path, is_failing: &mut bool) {
    let was_failing = std::mem::replace(is_failing, swept.is_err());
    match swept {
        Ok(_) if was_failing => {
            tracing::info!(state_dir = %state_dir.display(), "the pods' addresses can be looked at again");
        }
        Err(_) if was_failing => return,
        Ok(_) | Err(_) => {}
    }
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
