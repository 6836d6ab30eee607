//! One step from what is to what should be, in words for a log.

use std::fmt;
use std::net::IpAddr;

use culvert_netlink::Route;
use culvert_nft::TableFamily;
use culvert_node::{host_ports, living, source_check};
use ipnet::IpNet;
use overlay_proto::Mac;

use super::desired::Parameter;
use super::ruleset::TABLE;
use crate::platform::sysctl;

/// A change of the node's kernel state. Devices are named, because an index dies with its device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Have the owner create or attach the TUN.
    OpenTun {
        /// The TUN.
        device: String,
    },
    /// Create the bridge.
    CreateBridge {
        /// The bridge.
        device: String,
        /// Its hardware address.
        mac: Mac,
    },
    /// Give a device of ours back the name that it had.
    Rename {
        /// The device, by the name that somebody gave it.
        device: String,
        /// Its own name.
        name: String,
    },
    /// Switch ARP and multicast on at a device.
    SetNeighbours {
        /// The device.
        device: String,
    },
    /// Have the bridge carry frames whatever their VLAN.
    UnsetVlanFiltering {
        /// The bridge.
        device: String,
    },
    /// Have the bridge deliver frames to its own hardware address on this node.
    Deliver {
        /// The bridge.
        device: String,
        /// Its hardware address.
        mac: Mac,
    },
    /// Set a device's alias.
    SetAlias {
        /// The device.
        device: String,
        /// The alias.
        alias: &'static str,
    },
    /// Set a device's hardware address.
    SetMac {
        /// The device.
        device: String,
        /// The hardware address.
        mac: Mac,
    },
    /// Set a device's MTU.
    SetMtu {
        /// The device.
        device: String,
        /// In bytes.
        mtu: u32,
    },
    /// Set how many packets a device queues.
    SetTxQueueLen {
        /// The device.
        device: String,
        /// The limit.
        packets: u32,
    },
    /// Switch off what a bridge does beside forwarding, and bound what it learns.
    SetBridgeOptions {
        /// The bridge.
        device: String,
    },
    /// Set a kernel parameter.
    SetSysctl {
        /// The parameter, written with slashes.
        key: String,
        /// The value.
        value: &'static str,
        /// Whether a kernel without the parameter is an error.
        needed: bool,
    },
    /// Bring a device up.
    SetUp {
        /// The device.
        device: String,
    },
    /// Add an address.
    AddAddress {
        /// The device.
        device: String,
        /// The address.
        address: IpNet,
    },
    /// Remove an address.
    RemoveAddress {
        /// The device.
        device: String,
        /// The address.
        address: IpNet,
    },
    /// Add a route.
    AddRoute {
        /// The device.
        device: String,
        /// The route; its link is looked up by the device's name.
        route: Route,
    },
    /// Put our route before another one of the same prefix and rank.
    PrependRoute {
        /// The device.
        device: String,
        /// The route; its link is looked up by the device's name.
        route: Route,
    },
    /// Put a route in place of ours of the same prefix and rank.
    ReplaceRoute {
        /// The device.
        device: String,
        /// The route; its link is looked up by the device's name.
        route: Route,
    },
    /// Remove a route.
    RemoveRoute {
        /// The route.
        route: Route,
    },
    /// Take a pod's device down, because what guards it goes or cannot be had.
    ShutPort {
        /// The node's end of the pod's cable.
        device: String,
    },
    /// Make a pod's device a port of the bridge again, with all options that it should have, and
    /// up.
    PlugPort {
        /// The node's end of the pod's cable.
        device: String,
        /// The bridge.
        bridge: String,
        /// Whether the bridge may send the pod's frames back to it.
        hairpin: bool,
        /// Whether it carries nothing between the pod and others that are isolated.
        isolated: bool,
    },
    /// Have the bridge forward the frames of a port again.
    Forward {
        /// The port.
        device: String,
    },
    /// Put the note back that a pod's port had.
    RestoreNote {
        /// The node's end of the pod's cable.
        device: String,
        /// The note.
        note: String,
    },
    /// Forget a hardware address that somebody wrote down for a pod and that is not the pod's.
    ForgetNeighbour {
        /// The bridge.
        device: String,
        /// The pod's address.
        address: IpAddr,
    },
    /// Replace the nftables table.
    ApplyRuleset,
    /// Make the nftables tables of the source check and of the pods' addresses those of the pods
    /// there are.
    ApplySourceCheck {
        /// The bridge of the pods.
        bridge: String,
    },
    /// Have the ports of the node lead to the pods that wanted them and live.
    ApplyHostPorts,
    /// Delete a device.
    DeleteLink {
        /// The device.
        device: String,
        /// How many ports it had, when it is a bridge.
        ports: usize,
    },
    /// Give a bridge back that was there before us.
    ReleaseBridge {
        /// The bridge.
        device: String,
    },
    /// Delete the nftables table.
    DeleteRuleset,
    /// Delete the nftables table of the source check.
    DeleteSourceCheck,
    /// Delete the nftables table of the pods' addresses.
    DeletePodAddresses,
    /// Delete the nftables table of the ports of the node that lead to pods.
    DeleteHostPorts,
    /// Delete an nftables table of network policies.
    DeletePolicies {
        /// Its family.
        family: TableFamily,
        /// Its name.
        table: &'static str,
    },
}

impl From<Parameter> for Action {
    fn from(parameter: Parameter) -> Self {
        let Parameter { key, value, needed } = parameter;
        Self::SetSysctl { key, value, needed }
    }
}

impl Action {
    /// Whether it puts back rules without which no pod may send.
    pub(super) fn guards_pods(&self) -> bool {
        matches!(self, Self::ApplyRuleset | Self::ApplySourceCheck { .. })
    }

    /// Whether it does what the plugin is about to do when a pod comes or goes: the note on a port
    /// is there before the rules, and they are there after the port.
    pub(crate) fn follows_pods(&self) -> bool {
        matches!(self, Self::ApplySourceCheck { .. } | Self::ApplyHostPorts)
    }

    /// Whether a pod that comes or goes can be the cause of it.
    pub(super) fn is_about_pods(&self) -> bool {
        matches!(
            self,
            Self::ApplySourceCheck { .. }
                | Self::ApplyHostPorts
                | Self::Forward { .. }
                | Self::ForgetNeighbour { .. }
                | Self::PlugPort { .. }
                | Self::RestoreNote { .. }
                | Self::ShutPort { .. }
        )
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OpenTun { device } => write!(f, "open TUN {device}"),
            Self::CreateBridge { device, mac } => {
                write!(f, "create bridge {device} address {mac}")
            }
            Self::Rename { device, name } => write!(f, "rename {device} to {name}"),
            Self::SetNeighbours { device } => write!(f, "set arp on, multicast on dev {device}"),
            Self::UnsetVlanFiltering { device } => write!(f, "set vlan_filtering off dev {device}"),
            Self::Deliver { device, mac } => {
                write!(f, "add forwarding entry {mac} dev {device}")
            }
            Self::SetAlias { device, alias } => write!(f, "set alias \"{alias}\" dev {device}"),
            Self::SetMac { device, mac } => write!(f, "set address {mac} dev {device}"),
            Self::SetMtu { device, mtu } => write!(f, "set mtu {mtu} dev {device}"),
            Self::SetTxQueueLen { device, packets } => {
                write!(f, "set txqueuelen {packets} dev {device}")
            }
            Self::SetBridgeOptions { device } => write!(f, "set bridge options dev {device}"),
            Self::SetSysctl { key, value, .. } => {
                write!(f, "set sysctl {}={value}", sysctl::dotted(key))
            }
            Self::SetUp { device } => write!(f, "set up dev {device}"),
            Self::AddAddress { device, address } => write!(f, "add address {address} dev {device}"),
            Self::RemoveAddress { device, address } => {
                write!(f, "remove address {address} dev {device}")
            }
            Self::AddRoute { device, route } => write!(f, "add route {} dev {device}", To(route)),
            Self::PrependRoute { device, route } => {
                write!(f, "prepend route {} dev {device}", To(route))
            }
            Self::ReplaceRoute { device, route } => {
                write!(f, "replace route {} dev {device}", To(route))
            }
            Self::RemoveRoute { route } => {
                write!(f, "remove route {} table {}", To(route), route.table)
            }
            Self::ShutPort { device } => write!(f, "set down dev {device}"),
            Self::PlugPort { device, bridge, .. } => write!(f, "plug {device} into {bridge}"),
            Self::Forward { device } => write!(f, "set state forwarding dev {device}"),
            Self::RestoreNote { device, .. } => write!(f, "put the note back on {device}"),
            Self::ForgetNeighbour { device, address } => {
                write!(f, "remove neighbour {address} dev {device}")
            }
            Self::ApplyRuleset => write!(f, "replace nft table {TABLE}"),
            Self::ApplySourceCheck { .. } => {
                write!(
                    f,
                    "repair nft tables {SourceCheck}, {} {}",
                    living::FAMILY.as_str(),
                    living::TABLE
                )
            }
            Self::ApplyHostPorts => write!(f, "repair nft table {HostPorts}"),
            Self::DeleteLink { device, ports: 0 } => write!(f, "delete link {device}"),
            Self::DeleteLink { device, ports } => {
                write!(f, "delete link {device}, which had {ports} ports")
            }
            Self::ReleaseBridge { device } => write!(f, "release bridge {device}"),
            Self::DeleteRuleset => write!(f, "delete nft table {TABLE}"),
            Self::DeleteSourceCheck => write!(f, "delete nft table {SourceCheck}"),
            Self::DeletePodAddresses => {
                write!(f, "delete nft table {} {}", living::FAMILY.as_str(), living::TABLE)
            }
            Self::DeleteHostPorts => write!(f, "delete nft table {HostPorts}"),
            Self::DeletePolicies { family, table } => {
                write!(f, "delete nft table {} {table}", family.as_str())
            }
        }
    }
}

/// The table of the source check, as the program `nft` names it.
struct SourceCheck;

impl fmt::Display for SourceCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", source_check::FAMILY.as_str(), source_check::TABLE)
    }
}

/// The table of the ports of the node, as the program `nft` names it.
struct HostPorts;

impl fmt::Display for HostPorts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", host_ports::FAMILY.as_str(), host_ports::TABLE)
    }
}

struct To<'a>(&'a Route);

impl fmt::Display for To<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.destination)?;
        match self.0.source {
            Some(source) => write!(f, " src {source}"),
            None => Ok(()),
        }
    }
}
