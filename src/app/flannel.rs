//! What flannel has in this node's kernel, for commands beside the daemon.

use anyhow::{Context as _, ensure};
use overlay_proto::Vni;

use super::turn;
use crate::control::node::Reconciler;

pub(crate) use crate::control::node::device_name as flannel_device;

/// Makes sure that no daemon serves this node.
///
/// # Errors
///
/// One does, or the kernel cannot be asked.
pub(crate) fn ensure_no_daemon() -> anyhow::Result<()> {
    turn::claim_for_cleanup().map(drop)
}

/// Whether there is flannel's VXLAN device in the network `vni`.
///
/// # Errors
///
/// The kernel cannot be asked.
pub(crate) fn has_flannel_device(vni: Vni) -> anyhow::Result<bool> {
    Ok(Reconciler::open()?.flannel_device(vni)?.is_some())
}

/// Sets flannel's VXLAN device in the network `vni` up, if there is one, and removes what a daemon
/// made beside it. Pods and their bridge stay as they are.
///
/// # Errors
///
/// A daemon serves this node; or the first thing that the kernel refused, of all that was tried.
pub(crate) fn give_back(vni: Vni) -> anyhow::Result<()> {
    let _claim = turn::claim_for_cleanup()?;
    let mut reconciler = Reconciler::open()?;
    // The rules first, which let nothing through but the daemon's.
    let report = reconciler.leave_pods();
    if let Some(device) = reconciler.flannel_device(vni)? {
        reconciler.set_device(&device, true)?;
    }
    let failed = report.failed.len();
    match report.failed.into_iter().next() {
        Some(first) => Err(first.context(format!("{failed} things could not be removed"))),
        None => Ok(()),
    }
}

/// Deletes flannel's VXLAN device in the network `vni`.
///
/// # Errors
///
/// It is up, so that flannel carries with it; or the kernel refuses.
pub(crate) fn delete_flannel_device(vni: Vni) -> anyhow::Result<()> {
    let mut reconciler = Reconciler::open()?;
    let device = reconciler.flannel_device(vni)?;
    let device = device.with_context(|| format!("{} is gone", flannel_device(vni)))?;
    ensure!(!device.up, "{} is up: flannel carries with it", device.name);
    reconciler.delete_device(&device)
}
