//! Ports of the node that lead to pods: what should be, by the files of the plugin, and whether it
//! is.

use std::collections::BTreeSet;

use anyhow::Context as _;
use culvert_node::host_ports::{self, PodPorts, Wanted};
use culvert_node::living;

use super::Reconciler;
use super::diff::Ruleset;

impl Reconciler {
    /// Which ports of the node lead to pods, as the plugin has written it.
    pub(super) fn host_ports(&self) -> Vec<PodPorts> {
        let Some(run_dir) = &self.run_dir else { return Vec::new() };
        host_ports::all(run_dir).unwrap_or_else(|error| {
            tracing::warn!(%error, "which ports of the node lead to pods cannot be read");
            Vec::new()
        })
    }

    /// Compares the table of the ports of the node with what it should be, and removes the files of
    /// pods that are gone.
    pub(super) fn host_ports_state(
        &mut self,
        pods: &[PodPorts],
        devices: &BTreeSet<String>,
        bridge: &living::Bridge,
    ) -> anyhow::Result<Ruleset> {
        let Some(run_dir) = &self.run_dir else { return Ok(Ruleset::Unchecked) };
        for pod in pods.iter().filter(|pod| !devices.contains(&pod.device)) {
            if let Err(error) = host_ports::forget(run_dir, &pod.device) {
                tracing::warn!(%error, device = pod.device, "a pod's ports cannot be forgotten");
            }
        }
        let wanted =
            Wanted { pods, living: devices, bridge: &bridge.name, subnets: &bridge.subnets };
        match self.firewall.look_at_host_ports(&wanted) {
            // Nothing led anywhere.
            Err(error) if error.is_unsupported() => Ok(Ruleset::Unchecked),
            other => other.context("checking the nftables table of the ports of the node"),
        }
    }
}
