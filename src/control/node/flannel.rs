//! The VXLAN device that flannel has left, whose port the daemon takes over.

use culvert_netlink::{Link, LinkKind};
use overlay_proto::Vni;

use super::Reconciler;
use crate::platform::netlink::LinkChange;

/// Flannel's name for its VXLAN device in the network `vni`.
pub(crate) fn device_name(vni: Vni) -> String {
    format!("flannel.{}", vni.get())
}

impl Reconciler {
    /// Flannel's VXLAN device in the network `vni`. While it is up, the kernel has its port.
    ///
    /// # Errors
    ///
    /// When the kernel cannot be asked.
    pub(crate) fn flannel_device(&mut self, vni: Vni) -> anyhow::Result<Option<Link>> {
        let link = self.netlink.socket.link(&device_name(vni))?;
        Ok(link.filter(|link| link.kind == LinkKind::Other("vxlan".to_owned())))
    }

    /// Sets `device` up, or takes it down, which frees its port and takes its routes away.
    ///
    /// # Errors
    ///
    /// When the kernel refuses: a program has the port.
    pub(crate) fn set_device(&mut self, device: &Link, up: bool) -> anyhow::Result<()> {
        let change = if up { LinkChange::Up } else { LinkChange::Down };
        Ok(self.netlink.change_link(device.index, &device.name, &change)?)
    }

    /// Deletes `device`.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    #[cfg(feature = "databases")]
    pub(crate) fn delete_device(&mut self, device: &Link) -> anyhow::Result<()> {
        Ok(self.netlink.delete_link(device.index, &device.name)?)
    }
}
