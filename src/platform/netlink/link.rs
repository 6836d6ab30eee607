//! Links: what there is, and changing one of them.

use std::fmt;

use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{
    BridgeBooleanOptionFlags, BridgeStpState, InfoBridge, InfoBridgePort, InfoData, InfoKind,
    InfoPortData, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage,
};
use rtnetlink::{LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec};

use super::Netlink;
use super::request::{dump, unless, unless_gone, verdict};
use crate::platform::{Error, Result};

/// A hardware address.
pub type Mac = [u8; 6];

/// A network device of this namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// The kernel's number for the device; never reused while the namespace lives.
    pub index: u32,
    /// Name of the device.
    pub name: String,
    /// What kind of device it is.
    pub kind: LinkKind,
    /// Whether it is administratively up.
    pub up: bool,
    /// Whether it takes packets: up, with carrier, and the kernel has acted on both.
    pub running: bool,
    /// Whether it is the loopback device.
    pub loopback: bool,
    /// Largest packet in bytes.
    pub mtu: u32,
    /// Free text that an administrator or a program left on the device.
    pub alias: String,
    /// Hardware address, on devices that have one.
    pub mac: Option<Mac>,
    /// Index of the bridge, bond or VRF that the device is a port of.
    pub controller: Option<u32>,
    /// Packets that the device queues.
    pub tx_queue_len: u32,
    /// Whether a bridge runs the spanning tree protocol.
    pub spanning_tree: bool,
    /// Whether a bridge forwards multicast only where it heard a listener.
    pub multicast_snooping: bool,
    /// Most hardware addresses that a bridge learns, 0 for all; none where the kernel knows no limit.
    pub learning_limit: Option<u32>,
    /// Whether a bridge learns from frames to the group addresses that it does not forward.
    pub learns_from_groups: bool,
    /// The number of the group of devices that it is in.
    pub group: u32,
    /// The group addresses 01:80:c2:00:00:0X that a bridge port forwards, as bits.
    pub forwarded_groups: u16,
}

/// The kinds of device that something here depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkKind {
    /// TUN or TAP.
    Tun,
    /// Bridge.
    Bridge,
    /// One end of a virtual cable.
    Veth,
    /// Anything else, by the kernel's name; empty for hardware.
    Other(String),
}

impl Default for LinkKind {
    fn default() -> Self {
        Self::Other(String::new())
    }
}

impl fmt::Display for LinkKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tun => f.write_str("TUN device"),
            Self::Bridge => f.write_str("bridge"),
            Self::Veth => f.write_str("veth device"),
            Self::Other(name) if name.is_empty() => f.write_str("hardware device"),
            Self::Other(name) => write!(f, "{name} device"),
        }
    }
}

/// One change of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkChange {
    /// Bring it up.
    Up,
    /// Take it down.
    Down,
    /// Set its largest packet, in bytes.
    Mtu(u32),
    /// Set its alias.
    Alias(String),
    /// Set its hardware address.
    Mac(Mac),
    /// Set how many packets it queues.
    TxQueueLen(u32),
    /// Make it a port of the link with this index.
    Controller(u32),
    /// Put it in the group of devices with this number.
    Group(u32),
    /// Switch spanning tree, multicast snooping, and learning from frames that are not forwarded off
    /// at a bridge, and bound what it learns where the kernel can (6.7).
    PlainBridge {
        /// Most hardware addresses that it learns.
        learning_limit: u32,
    },
    /// Set the options of a bridge port.
    Port {
        /// Whether frames may go back to where they came from.
        hairpin: bool,
        /// Whether nothing goes to another isolated port.
        isolated: bool,
        /// The group addresses 01:80:c2:00:00:0X to forward, as bits.
        forwarded_groups: u16,
    },
}

impl Netlink {
    /// Lists the links.
    ///
    /// # Errors
    ///
    /// When the kernel refuses, or the links change faster than they can be listed.
    pub async fn links(&mut self) -> Result<Vec<Link>> {
        let mut request = LinkMessage::default();
        // Statistics are two thirds of a link's description, and nobody here reads them.
        request.attributes = vec![LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])];
        let found = dump(&self.handle, RouteNetlinkMessage::GetLink(request))
            .await
            .map_err(|error| Error::new("list", "links", error))?;
        Ok(found
            .into_iter()
            .filter_map(|message| {
                let RouteNetlinkMessage::NewLink(message) = message else {
                    return None;
                };
                Some(Link::from(message))
            })
            .collect())
    }

    /// Creates a bridge with a hardware address of its own, down and without ports.
    ///
    /// # Errors
    ///
    /// When the kernel refuses: the name is taken, or bridges are not supported.
    pub async fn create_bridge(&mut self, name: &str, mac: Mac) -> Result<()> {
        let bridge = LinkMessageBuilder::<LinkBridge>::new(name).address(mac.to_vec()).build();
        verdict(self.handle.link().add(bridge).execute().await)
            .map_err(|error| Error::new("create bridge", name, error))
    }

    /// Changes the link with this index; `name` is for the error alone.
    ///
    /// A link that is gone is no error: pods come and go, and the next listing shows it.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub async fn change_link(&mut self, index: u32, name: &str, change: &LinkChange) -> Result<()> {
        let link = LinkUnspec::new_with_index(index);
        let (op, message) = match change {
            LinkChange::Up => ("bring up", link.up().build()),
            LinkChange::Down => ("take down", link.down().build()),
            LinkChange::Group(group) => {
                let mut message = link.build();
                message.attributes.push(LinkAttribute::Group(*group));
                ("set the group of", message)
            }
            LinkChange::Mtu(mtu) => ("set MTU of", link.mtu(*mtu).build()),
            LinkChange::Alias(alias) => ("set alias of", link.alias(alias).build()),
            LinkChange::Mac(mac) => ("set hardware address of", link.address(mac.to_vec()).build()),
            LinkChange::TxQueueLen(packets) => {
                ("set queue length of", link.txqueuelen(*packets).build())
            }
            LinkChange::Controller(bridge) => {
                ("plug into bridge", link.controller(*bridge).build())
            }
            LinkChange::PlainBridge { learning_limit } => {
                let bridge = LinkMessageBuilder::<LinkBridge>::new_with_info_kind(InfoKind::Bridge)
                    .index(index)
                    .stp_state(BridgeStpState::Disabled)
                    .mcast_snooping(false)
                    .no_linklocal_learn(true)
                    .fdb_max_learned(*learning_limit);
                ("set bridge options of", bridge.build())
            }
            LinkChange::Port { hairpin, isolated, forwarded_groups } => {
                let port = LinkBridgePort::new(index)
                    .hairpin(*hairpin)
                    .isolated(*isolated)
                    .group_fwd_mask(*forwarded_groups);
                ("set bridge port options of", port.build())
            }
        };
        unless(self.handle.link().change(message).execute().await, &[libc::ENODEV])
            .map_err(|error| Error::new(op, name, error))
    }

    /// Deletes the link with this index; one that is already gone is no error.
    ///
    /// # Errors
    ///
    /// When the kernel refuses: hardware cannot be deleted.
    pub async fn delete_link(&mut self, index: u32, name: &str) -> Result<()> {
        unless_gone(self.handle.link().del(index).execute().await)
            .map_err(|error| Error::new("delete link", name, error))
    }
}

impl From<LinkMessage> for Link {
    fn from(message: LinkMessage) -> Self {
        let mut link = Self {
            index: message.header.index,
            up: message.header.flags.contains(LinkFlags::Up),
            running: message.header.flags.contains(LinkFlags::Running),
            loopback: message.header.flags.contains(LinkFlags::Loopback),
            ..Self::default()
        };
        for attribute in message.attributes {
            if let LinkAttribute::IfName(name) = attribute {
                link.name = name;
            } else if let LinkAttribute::IfAlias(alias) = attribute {
                link.alias = alias;
            } else if let LinkAttribute::Mtu(mtu) = attribute {
                link.mtu = mtu;
            } else if let LinkAttribute::Address(address) = attribute {
                link.mac = Mac::try_from(address).ok();
            } else if let LinkAttribute::Controller(index) = attribute {
                link.controller = Some(index).filter(|index| *index != 0);
            } else if let LinkAttribute::TxQueueLen(packets) = attribute {
                link.tx_queue_len = packets;
            } else if let LinkAttribute::Group(group) = attribute {
                link.group = group;
            } else if let LinkAttribute::LinkInfo(details) = attribute {
                link.read_details(details);
            }
        }
        link
    }
}

impl Link {
    fn read_details(&mut self, details: Vec<LinkInfo>) {
        for detail in details {
            if let LinkInfo::Kind(kind) = detail {
                self.kind = if kind == InfoKind::Tun {
                    LinkKind::Tun
                } else if kind == InfoKind::Bridge {
                    LinkKind::Bridge
                } else if kind == InfoKind::Veth {
                    LinkKind::Veth
                } else {
                    LinkKind::Other(kind.to_string())
                };
            } else if let LinkInfo::Data(InfoData::Bridge(options)) = detail {
                for option in options {
                    if let InfoBridge::StpState(state) = option {
                        self.spanning_tree = state != BridgeStpState::Disabled;
                    } else if let InfoBridge::MulticastSnooping(snooping) = option {
                        self.multicast_snooping = snooping;
                    } else if let InfoBridge::FdbMaxLearned(limit) = option {
                        self.learning_limit = Some(limit);
                    } else if let InfoBridge::MultiBoolOpt(options) = option {
                        let not_learning = BridgeBooleanOptionFlags::NoLinkLocalLearn;
                        self.learns_from_groups = !options.value.contains(not_learning);
                    }
                }
            } else if let LinkInfo::PortData(InfoPortData::BridgePort(options)) = detail {
                for option in options {
                    if let InfoBridgePort::GroupFwdMask(groups) = option {
                        self.forwarded_groups = groups;
                    }
                }
            }
        }
    }
}
