//! Links: what the kernel says about network devices.

use std::fmt;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    BridgeBooleanOptionFlags, BridgePortState, BridgeStpState, InfoBridge, InfoBridgePort,
    InfoData, InfoKind, InfoPortData, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo,
    LinkMessage,
};
use overlay_proto::Mac;

use crate::error::Result;
use crate::protocol::Rtnetlink;
use crate::request::Request;
use crate::socket::Socket;

/// A network device.
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
    /// Whether it asks for the hardware addresses of its neighbours (`arp on`).
    pub arp: bool,
    /// Whether it takes part in multicast (`multicast on`).
    pub multicast: bool,
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
    /// Whether a bridge keeps its ports apart by VLAN.
    pub vlan_filtering: bool,
    /// Most hardware addresses that a bridge learns, 0 for all; none where the kernel has no limit.
    pub learning_limit: Option<u32>,
    /// Whether a bridge learns from frames to the group addresses that it does not forward.
    pub learns_from_groups: bool,
    /// Whether the frames that a bridge forwards pass the rules and the address translation of
    /// IPv4, and those of IPv6, only if a parameter of the whole machine says so.
    pub skips_rules: [bool; 2],
    /// The number of the group of devices that it is in.
    pub group: u32,
    /// What a bridge does for the port that the device is.
    pub port: Option<BridgePort>,
    /// The other end of a cable that leads into another namespace.
    pub peer: Option<Peer>,
}

/// The options of a bridge port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BridgePort {
    /// Whether frames may go back to where they came from.
    pub hairpin: bool,
    /// Whether nothing goes to another isolated port.
    pub isolated: bool,
    /// Whether the bridge learns which hardware addresses are behind the port.
    pub learning: bool,
    /// Whether frames to unknown hardware addresses go out of the port.
    pub flood: bool,
    /// The group addresses 01:80:c2:00:00:0X whose frames it forwards, as bits.
    pub forwarded_groups: u16,
    /// Whether it holds frames back that a new port lets through: to groups or to everybody, from
    /// hardware addresses that nobody entered, or questions for neighbours that the bridge answers.
    pub holds_back: bool,
    /// Whether frames pass it at all. The bridge says so once the device carries packets.
    pub is_forwarding: bool,
}

impl Default for BridgePort {
    /// What a new port has.
    fn default() -> Self {
        Self {
            hairpin: false,
            isolated: false,
            learning: true,
            flood: true,
            forwarded_groups: 0,
            holds_back: false,
            is_forwarding: false,
        }
    }
}

/// The end of a cable in another namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its index, there.
    pub index: u32,
    /// This namespace's number for the other one.
    pub netns: i32,
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

/// A request for the device called `name`.
#[must_use]
pub fn link_by_name(name: &str) -> Request<RouteNetlinkMessage> {
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]),
    ];
    Request::new("look up", format!("device {name}"), 0, RouteNetlinkMessage::GetLink(message))
}

impl Socket<Rtnetlink> {
    /// Lists the devices of the socket's namespace.
    ///
    /// # Errors
    ///
    /// When the kernel refuses, or the devices change faster than they can be listed.
    pub fn links(&mut self) -> Result<Vec<Link>> {
        Ok(self.dump(&all_links())?.into_iter().filter_map(parse).collect())
    }

    /// Lists the devices of the socket's namespace, and puts up with changes meanwhile; see
    /// [`dump_despite_changes`](Self::dump_despite_changes).
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn links_despite_changes(&mut self) -> Result<Vec<Link>> {
        let answers = self.dump_despite_changes(&all_links())?;
        Ok(answers.into_iter().filter_map(parse).collect())
    }

    /// How many packets the kernel has dropped that were to leave by a device: for a TUN, those
    /// that nobody fetched in time. None if there is no device of that name, or it does not count.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn dropped_packets(&mut self, name: &str) -> Result<Option<u64>> {
        let Some(RouteNetlinkMessage::NewLink(message)) = self.query(&link_by_name(name))? else {
            return Ok(None);
        };
        let statistics = message.attributes.into_iter().find_map(|attribute| {
            if let LinkAttribute::Stats64(statistics) = attribute {
                return Some(statistics.tx_dropped);
            }
            None
        });
        Ok(statistics)
    }

    /// Looks a device up; none if there is none of that name.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>> {
        Ok(self.query(&link_by_name(name))?.and_then(parse))
    }
}

fn all_links() -> Request<RouteNetlinkMessage> {
    let mut message = LinkMessage::default();
    // Statistics are two thirds of a link's description, and nobody here reads them.
    message.attributes = vec![LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])];
    Request::new("list", "devices", 0, RouteNetlinkMessage::GetLink(message))
}

fn parse(answer: RouteNetlinkMessage) -> Option<Link> {
    let RouteNetlinkMessage::NewLink(message) = answer else {
        return None;
    };
    Some(message.into())
}

impl From<LinkMessage> for Link {
    fn from(message: LinkMessage) -> Self {
        let flags = message.header.flags;
        let mut link = Self {
            index: message.header.index,
            up: flags.contains(LinkFlags::Up),
            running: flags.contains(LinkFlags::Running),
            loopback: flags.contains(LinkFlags::Loopback),
            arp: !flags.contains(LinkFlags::Noarp),
            multicast: flags.contains(LinkFlags::Multicast),
            ..Self::default()
        };
        let (mut peer, mut netns) = (None, None);
        for attribute in message.attributes {
            if let LinkAttribute::IfName(name) = attribute {
                link.name = name;
            } else if let LinkAttribute::IfAlias(alias) = attribute {
                link.alias = alias;
            } else if let LinkAttribute::Mtu(mtu) = attribute {
                link.mtu = mtu;
            } else if let LinkAttribute::Address(address) = attribute {
                link.mac = <[u8; 6]>::try_from(address).ok().map(Mac::new);
            } else if let LinkAttribute::Controller(index) = attribute {
                link.controller = Some(index).filter(|index| *index != 0);
            } else if let LinkAttribute::TxQueueLen(packets) = attribute {
                link.tx_queue_len = packets;
            } else if let LinkAttribute::Group(group) = attribute {
                link.group = group;
            } else if let LinkAttribute::Link(index) = attribute {
                peer = Some(index);
            } else if let LinkAttribute::LinkNetNsId(number) = attribute {
                netns = Some(number);
            } else if let LinkAttribute::LinkInfo(details) = attribute {
                link.read_details(details);
            }
        }
        link.peer = peer.zip(netns).map(|(index, netns)| Peer { index, netns });
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
                    } else if let InfoBridge::VlanFiltering(filtering) = option {
                        self.vlan_filtering = filtering;
                    } else if let InfoBridge::NfCallIpTables(calls) = option {
                        self.skips_rules[0] = !calls;
                    } else if let InfoBridge::NfCallIp6Tables(calls) = option {
                        self.skips_rules[1] = !calls;
                    } else if let InfoBridge::FdbMaxLearned(limit) = option {
                        self.learning_limit = Some(limit);
                    } else if let InfoBridge::MultiBoolOpt(options) = option {
                        let not_learning = BridgeBooleanOptionFlags::NoLinkLocalLearn;
                        self.learns_from_groups = !options.value.contains(not_learning);
                    }
                }
            } else if let LinkInfo::PortData(InfoPortData::BridgePort(options)) = detail {
                self.port = Some(BridgePort::read(&options));
            }
        }
    }
}

impl BridgePort {
    fn read(options: &[InfoBridgePort]) -> Self {
        let mut port = Self::default();
        for option in options {
            if let InfoBridgePort::HairpinMode(hairpin) = option {
                port.hairpin = *hairpin;
            } else if let InfoBridgePort::Isolated(isolated) = option {
                port.isolated = *isolated;
            } else if let InfoBridgePort::Learning(learning) = option {
                port.learning = *learning;
            } else if let InfoBridgePort::UnicastFlood(flood) = option {
                port.flood = *flood;
            } else if let InfoBridgePort::GroupFwdMask(groups) = option {
                port.forwarded_groups = *groups;
            } else if let InfoBridgePort::BroadcastFlood(floods)
            | InfoBridgePort::MulticastFlood(floods) = option
            {
                port.holds_back |= !floods;
            } else if let InfoBridgePort::Locked(holds_back)
            | InfoBridgePort::NeighSupress(holds_back) = option
            {
                port.holds_back |= holds_back;
            } else if let InfoBridgePort::State(state) = option {
                port.is_forwarding = *state == BridgePortState::Forwarding;
            }
        }
        port
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bridge_port_is_recognised_with_its_options() {
        let mut message = LinkMessage::default();
        message.header.flags = LinkFlags::Up;
        message.attributes = vec![
            LinkAttribute::IfName("culv0".to_owned()),
            LinkAttribute::Controller(7),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::PortData(InfoPortData::BridgePort(vec![
                    InfoBridgePort::HairpinMode(true),
                    InfoBridgePort::Isolated(false),
                    InfoBridgePort::Learning(false),
                    InfoBridgePort::State(BridgePortState::Forwarding),
                    InfoBridgePort::BroadcastFlood(true),
                ])),
            ]),
            LinkAttribute::IfAlias("a pod".to_owned()),
        ];
        let link = Link::from(message);
        assert_eq!((link.name.as_str(), link.alias.as_str()), ("culv0", "a pod"));
        assert_eq!((link.controller, &link.kind), (Some(7), &LinkKind::Veth));
        let port = BridgePort {
            hairpin: true,
            learning: false,
            is_forwarding: true,
            ..BridgePort::default()
        };
        assert_eq!(link.port, Some(port));
        assert!(link.up && !link.running && link.arp && !link.loopback);
    }

    #[test]
    fn port_that_holds_frames_back_is_recognised() {
        let of = |option| BridgePort::read(&[option]);
        for option in [
            InfoBridgePort::BroadcastFlood(false),
            InfoBridgePort::MulticastFlood(false),
            InfoBridgePort::Locked(true),
            InfoBridgePort::NeighSupress(true),
        ] {
            assert!(of(option.clone()).holds_back, "{option:?}");
        }
        assert!(!of(InfoBridgePort::Locked(false)).holds_back);
        assert!(!of(InfoBridgePort::State(BridgePortState::Blocking)).is_forwarding);
    }

    #[test]
    fn device_that_is_no_port_has_no_options_of_one() {
        let link = Link::from(LinkMessage::default());
        assert_eq!((link.controller, link.port, link.peer), (None, None, None));
    }

    #[test]
    fn other_end_is_known_by_index_and_namespace() {
        let mut message = LinkMessage::default();
        message.attributes = vec![LinkAttribute::Link(4)];
        assert_eq!(Link::from(message.clone()).peer, None, "the other end is in this namespace");
        message.attributes.push(LinkAttribute::LinkNetNsId(2));
        assert_eq!(Link::from(message).peer, Some(Peer { index: 4, netns: 2 }));
    }
}
