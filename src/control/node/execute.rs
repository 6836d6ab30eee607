//! Carries actions out.

use std::collections::HashMap;

use anyhow::{Context as _, anyhow};
use culvert_cni::pod_port::{DEVICE_GROUP, FORWARDED_GROUPS, PodPort};
use culvert_cni::source_check;

use super::action::Action;
use super::firewall::Firewall;
use super::{PROTOCOL, TunOwner, ruleset};
use crate::platform::netlink::{Address, LinkChange, Netlink, Route};
use crate::platform::nft::Table;
use crate::platform::sysctl::Sysctls;

/// Most hardware addresses that the bridge learns, where the kernel has such a limit. A pod that is
/// checked teaches it one; one that is not teaches it as many as it likes. Each takes some 200 bytes.
const LEARNING_LIMIT: u32 = 4096;

/// What an action is carried out with.
pub(super) struct Executor<'a> {
    pub(super) netlink: &'a mut Netlink,
    pub(super) firewall: &'a mut Firewall,
    pub(super) tun: &'a mut dyn TunOwner,
    /// Index of each device by name; an entry is dropped when its device is created anew.
    pub(super) indexes: HashMap<String, u32>,
    /// The node's nftables table as it should be; none, when everything is to go.
    pub(super) ruleset: Option<&'a Table>,
    pub(super) sysctls: &'a Sysctls,
}

impl Executor<'_> {
    pub(super) async fn execute(&mut self, action: &Action) -> anyhow::Result<()> {
        self.try_execute(action).await.with_context(|| action.to_string())
    }

    async fn try_execute(&mut self, action: &Action) -> anyhow::Result<()> {
        match action {
            Action::OpenTun { device } => {
                self.indexes.remove(device);
                self.tun.open()?;
            }
            Action::CreateBridge { device, mac } => {
                self.indexes.remove(device);
                self.netlink.create_bridge(device, *mac).await?;
            }
            Action::SetAlias { device, alias } => {
                self.change(device, LinkChange::Alias((*alias).to_owned())).await?;
            }
            Action::SetMac { device, mac } => self.change(device, LinkChange::Mac(*mac)).await?,
            Action::SetMtu { device, mtu } => self.change(device, LinkChange::Mtu(*mtu)).await?,
            Action::SetTxQueueLen { device, packets } => {
                self.change(device, LinkChange::TxQueueLen(*packets)).await?;
            }
            Action::SetBridgeOptions { device } => {
                let learning_limit = LEARNING_LIMIT;
                self.change(device, LinkChange::PlainBridge { learning_limit }).await?;
            }
            Action::SetSysctl { key, value, needed } => {
                if *needed || self.sysctls.read(key)?.is_some() {
                    self.sysctls.write(key, value)?;
                }
            }
            Action::SetUp { device } => self.change(device, LinkChange::Up).await?,
            Action::AddAddress { device, address } => {
                let address = self.address(device, *address).await?;
                self.netlink.add_address(&address, device).await?;
            }
            Action::RemoveAddress { device, address } => {
                let address = self.address(device, *address).await?;
                self.netlink.remove_address(&address, device).await?;
            }
            Action::AddRoute { device, route } => {
                let route = self.route(device, route).await?;
                self.netlink.add_route(&route, device).await?;
            }
            Action::ReplaceRoute { device, route } => {
                let route = self.route(device, route).await?;
                self.netlink.replace_route(&route, device).await?;
            }
            Action::RemoveRoute { route } => self.netlink.remove_route(route).await?,
            Action::ShutPort { device } => self.change(device, LinkChange::Down).await?,
            Action::PlugPort { device, bridge, hairpin, isolated } => {
                let bridge = self.index(bridge).await?;
                self.change(device, LinkChange::Group(DEVICE_GROUP)).await?;
                self.change(device, LinkChange::Controller(bridge)).await?;
                let (hairpin, isolated) = (*hairpin, *isolated);
                let forwarded_groups = FORWARDED_GROUPS;
                self.change(device, LinkChange::Port { hairpin, isolated, forwarded_groups })
                    .await?;
                self.change(device, LinkChange::Up).await?;
            }
            Action::ApplyRuleset => {
                if let Some(ruleset) = self.ruleset {
                    self.firewall.apply(ruleset)?;
                }
            }
            Action::ApplySourceCheck { bridge } => {
                self.firewall.apply_source_check(self.netlink, bridge).await?;
            }
            Action::DeleteLink { device, .. } => {
                let index = self.index(device).await?;
                self.netlink.delete_link(index, device).await?;
            }
            Action::ReleaseBridge { device } => {
                self.change(device, LinkChange::Alias(String::new())).await?;
            }
            Action::DeleteRuleset => {
                self.firewall.remove(ruleset::FAMILY, ruleset::TABLE_NAME)?;
            }
            Action::DeleteSourceCheck => {
                self.firewall.remove(source_check::FAMILY, source_check::TABLE)?;
            }
        }
        Ok(())
    }

    /// Takes the ports of `pods` down: better no network than one without what guards it.
    pub(super) async fn shut_ports(&mut self, pods: &[PodPort]) {
        for pod in pods {
            let action = Action::ShutPort { device: pod.device.clone() };
            match self.execute(&action).await {
                Ok(()) => tracing::error!(%action, "the rules for pods cannot be put back"),
                Err(error) => tracing::error!(error = format!("{error:#}"), "shutting a port failed"),
            }
        }
    }

    async fn change(&mut self, device: &str, change: LinkChange) -> anyhow::Result<()> {
        let index = self.index(device).await?;
        Ok(self.netlink.change_link(index, device, &change).await?)
    }

    async fn address(&mut self, device: &str, net: ipnet::IpNet) -> anyhow::Result<Address> {
        Ok(Address { link: self.index(device).await?, net, protocol: Some(PROTOCOL) })
    }

    async fn route(&mut self, device: &str, route: &Route) -> anyhow::Result<Route> {
        Ok(Route { link: Some(self.index(device).await?), ..route.clone() })
    }

    async fn index(&mut self, device: &str) -> anyhow::Result<u32> {
        if let Some(index) = self.indexes.get(device) {
            return Ok(*index);
        }
        self.indexes =
            self.netlink.links().await?.into_iter().map(|link| (link.name, link.index)).collect();
        self.indexes.get(device).copied().ok_or_else(|| anyhow!("there is no device {device}"))
    }
}
