//! Carries actions out.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context as _, anyhow};
use culvert_netlink::{Address, BridgePort, Detection, Route};
use culvert_node::pod_port::{DEVICE_GROUP, FORWARDED_GROUPS, PodPort};
use culvert_node::{host_ports, living, source_check};
use rustix::io::Errno;

use super::action::Action;
use super::desired::Desired;
use super::firewall::Firewall;
use super::{PROTOCOL, TunOwner, ruleset};
use crate::platform::netlink::{LinkChange, Netlink};
use crate::platform::sysctl::Sysctls;

/// Most hardware addresses that the bridge learns, where the kernel has such a limit. A pod that is
/// checked teaches it one; one that is not teaches it as many as it likes. Each takes some 200
/// bytes.
const LEARNING_LIMIT: u32 = 4096;

/// What an action is carried out with.
pub(super) struct Executor<'a> {
    pub(super) netlink: &'a mut Netlink,
    pub(super) firewall: &'a mut Firewall,
    pub(super) tun: &'a dyn TunOwner,
    /// Index of each device by name; an entry is dropped when its device is created anew.
    pub(super) indexes: HashMap<String, u32>,
    /// What should be; none, when everything is to go.
    pub(super) desired: Option<&'a Desired>,
    pub(super) sysctls: &'a Sysctls,
    /// Where the plugin writes which ports of the node lead to pods.
    pub(super) run_dir: Option<&'a Path>,
}

impl Executor<'_> {
    /// Carries out what is to be done; false, if nothing was left to do.
    pub(super) fn execute(&mut self, action: &Action) -> anyhow::Result<bool> {
        self.try_execute(action).with_context(|| action.to_string())
    }

    fn try_execute(&mut self, action: &Action) -> anyhow::Result<bool> {
        match action {
            Action::OpenTun { device } => {
                self.indexes.remove(device);
                self.tun.open()?;
            }
            Action::CreateBridge { device, mac } => {
                self.indexes.remove(device);
                self.netlink.create_bridge(device, *mac)?;
            }
            Action::SetAlias { device, alias } => {
                self.change(device, LinkChange::Alias((*alias).to_owned()))?;
            }
            Action::SetMac { device, mac } => self.change(device, LinkChange::Mac(*mac))?,
            Action::SetMtu { device, mtu } => self.change(device, LinkChange::Mtu(*mtu))?,
            Action::SetTxQueueLen { device, packets } => {
                self.change(device, LinkChange::TxQueueLen(*packets))?;
            }
            Action::SetBridgeOptions { device } => {
                let learning_limit = LEARNING_LIMIT;
                self.change(device, LinkChange::PlainBridge { learning_limit })?;
            }
            Action::SetSysctl { key, value, needed } => {
                if *needed || self.sysctls.read(key)?.is_some() {
                    self.sysctls.write(key, value)?;
                }
            }
            Action::Rename { device, name } => {
                // kernel: before 6.2 only a device that is down can be renamed.
                self.change(device, LinkChange::Down)?;
                self.change(device, LinkChange::Name(name.clone()))?;
                if let Some(index) = self.indexes.remove(device) {
                    self.indexes.insert(name.clone(), index);
                }
            }
            Action::SetNeighbours { device } => self.change(device, LinkChange::Neighbours)?,
            Action::UnsetVlanFiltering { device } => {
                self.change(device, LinkChange::NoVlanFiltering)?;
            }
            Action::Deliver { device, mac } => {
                let index = self.index(device)?;
                self.netlink.deliver(index, device, *mac)?;
            }
            Action::SetUp { device } => self.change(device, LinkChange::Up)?,
            Action::AddAddress { device, address } => {
                let address = self.address(device, *address)?;
                self.netlink.add_address(&address, device)?;
            }
            Action::RemoveAddress { device, address } => {
                let address = self.address(device, *address)?;
                self.netlink.remove_address(&address, device)?;
            }
            Action::AddRoute { device, route } => {
                let route = self.route(device, route)?;
                self.netlink.add_route(&route, device).map_err(|error| {
                    let taken = error.is_exists();
                    let error = anyhow!(error);
                    if taken { error.context(foreign(&route)) } else { error }
                })?;
            }
            Action::PrependRoute { device, route } => {
                let route = self.route(device, route)?;
                self.netlink.remove_route(&route)?;
                self.netlink.prepend_route(&route, device)?;
            }
            Action::ReplaceRoute { device, route } => {
                let route = self.route(device, route)?;
                self.netlink.replace_route(&route, device)?;
            }
            Action::RemoveRoute { route } => self.netlink.remove_route(route)?,
            Action::ShutPort { device } => self.change(device, LinkChange::Down)?,
            Action::PlugPort { device, bridge, hairpin, isolated } => {
                let bridge = self.index(bridge)?;
                self.change(device, LinkChange::Group(DEVICE_GROUP))?;
                self.change(device, LinkChange::Controller(bridge))?;
                let port = BridgePort {
                    hairpin: *hairpin,
                    isolated: *isolated,
                    forwarded_groups: FORWARDED_GROUPS,
                    ..BridgePort::default()
                };
                self.change(device, LinkChange::Port(port))?;
                self.change(device, LinkChange::Neighbours)?;
                self.change(device, LinkChange::Up)?;
            }
            Action::Forward { device } => {
                let index = self.index(device)?;
                match self.netlink.change_link(index, device, &LinkChange::Forward) {
                    // It lost its carrier meanwhile, and forwards when it has one.
                    Err(error) if error.errno() == Some(Errno::NETDOWN) => {}
                    outcome => outcome?,
                }
            }
            Action::RestoreNote { device, note } => {
                self.change(device, LinkChange::Alias(note.clone()))?;
            }
            Action::ForgetNeighbour { device, address } => {
                let index = self.index(device)?;
                self.netlink.forget_neighbour(index, device, *address)?;
            }
            Action::ApplyRuleset => {
                if let Some(desired) = self.desired {
                    self.firewall.apply(&desired.ruleset)?;
                    self.forget_untranslated(desired);
                }
            }
            Action::ApplySourceCheck { .. } => {
                if let Some(desired) = self.desired {
                    return self.firewall.apply_pods(self.netlink, &desired.pods);
                }
            }
            Action::ApplyHostPorts => {
                if let (Some(desired), Some(run_dir)) = (self.desired, self.run_dir) {
                    return self.firewall.apply_host_ports(self.netlink, run_dir, &desired.pods);
                }
            }
            Action::DeleteLink { device, .. } => {
                let index = self.index(device)?;
                self.netlink.delete_link(index, device)?;
            }
            Action::ReleaseBridge { device } => {
                self.change(device, LinkChange::Alias(String::new()))?;
            }
            Action::DeleteRuleset => {
                self.firewall.remove(ruleset::FAMILY, ruleset::TABLE_NAME)?;
            }
            Action::DeleteSourceCheck => {
                self.firewall.remove(source_check::FAMILY, source_check::TABLE)?;
            }
            Action::DeleteHostPorts => {
                self.firewall.remove(host_ports::FAMILY, host_ports::TABLE)?;
            }
            Action::DeletePodAddresses => self.firewall.remove(living::FAMILY, living::TABLE)?,
            Action::DeletePolicies { family, table } => self.firewall.remove(*family, table)?,
        }
        Ok(true)
    }

    /// Has connections begin anew that pods opened to the outside while nothing translated them.
    fn forget_untranslated(&mut self, desired: &Desired) {
        let Some(is_wrong) = desired.untranslated() else { return };
        match self.firewall.forget(is_wrong) {
            Ok(0) => {}
            Ok(connections) => tracing::info!(connections, "forgot connections without masquerade"),
            // They hang until they end; nothing of them leaves the node.
            Err(error) => tracing::warn!(%error, "connections without masquerade go on"),
        }
    }

    /// Takes the ports of `pods` down: better no network than one without what guards it.
    pub(super) fn shut_ports(&mut self, pods: &[PodPort]) {
        for pod in pods {
            let action = Action::ShutPort { device: pod.device.clone() };
            match self.execute(&action) {
                Ok(_) => tracing::error!(%action, "the rules for pods cannot be put back"),
                Err(error) => {
                    tracing::error!(error = format!("{error:#}"), "shutting a port failed")
                }
            }
        }
    }

    fn change(&mut self, device: &str, change: LinkChange) -> anyhow::Result<()> {
        let index = self.index(device)?;
        Ok(self.netlink.change_link(index, device, &change)?)
    }

    fn address(&mut self, device: &str, net: ipnet::IpNet) -> anyhow::Result<Address> {
        Ok(Address {
            link: self.index(device)?,
            net,
            protocol: Some(PROTOCOL),
            detection: Detection::default(),
            has_route: true,
        })
    }

    fn route(&mut self, device: &str, route: &Route) -> anyhow::Result<Route> {
        Ok(Route { link: Some(self.index(device)?), ..route.clone() })
    }

    fn index(&mut self, device: &str) -> anyhow::Result<u32> {
        if let Some(index) = self.indexes.get(device) {
            return Ok(*index);
        }
        self.indexes =
            self.netlink.socket.links()?.into_iter().map(|link| (link.name, link.index)).collect();
        self.indexes.get(device).copied().ok_or_else(|| anyhow!("there is no device {device}"))
    }
}

/// What it means that the kernel has another route in the place of ours, and what to do.
fn foreign(route: &Route) -> String {
    let family = if route.destination.addr().is_ipv4() { "ip" } else { "ip -6" };
    format!(
        "another program has a route to {0} of the same rank; remove it (`{family} route del {0}`), or \
         choose another cluster network",
        route.destination
    )
}
