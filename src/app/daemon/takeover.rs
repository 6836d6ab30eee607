//! The tunnel of a node that flannel served goes over to the daemon, or back.
//!
//! Flannel's VXLAN device goes on carrying, with its port and its routes, until everything else is
//! set up here. Then it goes down, and the port is had in the same breath; its routes go with it,
//! and what they had led elsewhere takes the one to the TUN. On the way back the device gets the
//! port and is up again; the daemon goes on sending until flanneld has written its routes.

use std::time::Duration;

use anyhow::Context as _;
use culvert_dataplane::{DataPlane, Ends};
use culvert_netlink::Link;
use overlay_proto::CodecKind;

use super::table::binding;
use crate::app::in_force::InForce;
use crate::config::Config;
use crate::control::node::{Kernel, NodeSpec};

/// How often and how far apart the device is set up again: workers let go of the port when they
/// next look at their sockets.
const TRIES: usize = 200;
const PAUSE: Duration = Duration::from_millis(5);

/// A device of flannel's, and which of the two is to have the tunnel.
pub(super) struct Takeover {
    device: Link,
    goes_back: bool,
}

impl Takeover {
    /// What there is to go over on this node for `next`.
    pub(super) async fn of(
        next: &InForce,
        config: &Config,
        kernel: &Kernel,
    ) -> anyhow::Result<Option<Self>> {
        if !config.is_from_flannel() {
            return Ok(None);
        }
        let device = kernel.flannel_device(config.network.vxlan_vni).await;
        let device = device.context("looking for flannel's VXLAN device")?;
        let goes_back = next.goes_back(config);
        let wrong = device.filter(|device| device.up != goes_back);
        Ok(wrong.map(|device| Self { device, goes_back }))
    }

    /// What can be bound of `ends` so far.
    pub(super) fn before(&self, ends: &Ends) -> Ends {
        let mut before = ends.clone();
        before.tunnels.retain(|tunnel| tunnel.codec != CodecKind::Vxlan);
        before
    }

    /// Has the rules of `spec` let the device carry.
    pub(super) fn let_carry(&self, spec: &mut NodeSpec) {
        if let Some(predecessor) = &mut spec.predecessor {
            predecessor.carries = true;
        }
    }

    /// Has it go over: `plane` has all of `ends` afterwards.
    pub(super) async fn complete(
        self,
        config: &Config,
        kernel: &Kernel,
        plane: &DataPlane,
        ends: &Ends,
    ) -> anyhow::Result<()> {
        let device = self.device.name.clone();
        if !self.goes_back {
            let down = kernel.set_device(self.device.clone(), false).await;
            down.with_context(|| format!("taking {device} down"))?;
        }
        let sockets = plane.bind(ends).with_context(|| binding(config, ends))?;
        plane.listen(sockets);
        if !self.goes_back {
            tracing::info!(device, "took over flannel's tunnel; the device stays, down");
            return Ok(());
        }
        for _in_use in 1..TRIES {
            if kernel.set_device(self.device.clone(), true).await.is_ok() {
                tracing::info!(device, "gave the tunnel back to flannel");
                return Ok(());
            }
            tokio::time::sleep(PAUSE).await;
        }
        let up = kernel.set_device(self.device, true).await;
        up.with_context(|| format!("setting {device} up"))
    }
}
