//! Calls about network devices.

use std::os::fd::RawFd;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoBridgePort, InfoData, InfoKind, InfoPortData,
    InfoPortKind, InfoVeth, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage, State,
};

use rustix::io::Errno;

use super::{Error, Request, Socket};
use crate::fault::Step;
use crate::mac::MacAddress;

/// What the kernel says about a device, as far as this plugin cares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) mac: Option<MacAddress>,
    pub(crate) mtu: u32,
    /// Switched on by its owner.
    pub(crate) is_up: bool,
    /// Switched on and connected.
    pub(crate) is_running: bool,
    /// Index of the bridge that the device is a port of.
    pub(crate) bridge: Option<u32>,
    /// Whether the bridge may send a frame back out of the port it came from.
    pub(crate) hairpin: bool,
    /// Whether the bridge carries nothing between the port and others that are isolated.
    pub(crate) isolated: bool,
    /// Free text that somebody left on the device.
    pub(crate) alias: String,
}

/// A veth pair to make: one end here, the other in a pod's namespace.
#[derive(Clone, Debug)]
pub(crate) struct Veth<'a> {
    pub(crate) host_name: &'a str,
    pub(crate) bridge: u32,
    pub(crate) pod_name: &'a str,
    pub(crate) pod_netns: RawFd,
    pub(crate) pod_mac: MacAddress,
    pub(crate) mtu: u16,
    /// Longest super-packet that the pod may send, if it is limited.
    pub(crate) gso_max_size: Option<u32>,
}

/// How a bridge port is to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PortChange<'a> {
    pub(crate) name: &'a str,
    pub(crate) hairpin: bool,
    pub(crate) isolated: bool,
    /// Whether the device has IPv6, so that there is something to switch off.
    ///
    /// kernel: it has none if its MTU is below 1280, and then a word about IPv6 is refused.
    pub(crate) device_has_ipv6: bool,
}

impl Socket {
    /// Looks a device up; `None` if there is none of that name.
    pub(crate) fn link_by_name(&mut self, name: &str) -> Result<Option<Link>, Error> {
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]),
        ];
        let target = format!("device {name}");
        let request = Request::new("look up", target, 0, RouteNetlinkMessage::GetLink(message));
        match self.query(&request) {
            Ok(RouteNetlinkMessage::NewLink(message)) => Ok(Some(parse(&message))),
            Ok(_) => Ok(None),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The index of a device; `None` if there is none of that name.
    ///
    /// kernel: unlike a look-up by netlink, this does not wait for those who change devices.
    pub(crate) fn index_of(&self, name: &str) -> Result<Option<u32>, Error> {
        match rustix::net::netdevice::name_to_index(&self.kernel, name) {
            Ok(index) => Ok(Some(index)),
            Err(Errno::NODEV) => Ok(None),
            Err(errno) => Err(Error {
                op: "look up",
                target: format!("device {name}"),
                kernel_words: None,
                errno: errno.into(),
            }),
        }
    }

    /// Makes a veth pair, each end with its final name in its final namespace.
    ///
    /// One request does it all, so no end is ever seen under a temporary name, and a name that is
    /// taken on either side makes the whole request fail.
    ///
    /// kernel: unless told, it makes as many queues as the machine may have processors, then puts all
    /// but one out of use, and waits for a grace period at each end.
    pub(crate) fn create_veth(&mut self, veth: &Veth<'_>) -> Result<(), Error> {
        let mut pod = LinkMessage::default();
        pod.attributes = vec![
            LinkAttribute::IfName(veth.pod_name.to_owned()),
            LinkAttribute::NetNsFd(veth.pod_netns),
            LinkAttribute::Address(veth.pod_mac.0.to_vec()),
            LinkAttribute::Mtu(veth.mtu.into()),
            LinkAttribute::NumTxQueues(1),
            LinkAttribute::NumRxQueues(1),
        ];
        pod.attributes.extend(veth.gso_max_size.map(LinkAttribute::GsoMaxSize));
        let mut host = LinkMessage::default();
        host.attributes = vec![
            LinkAttribute::IfName(veth.host_name.to_owned()),
            LinkAttribute::Mtu(veth.mtu.into()),
            LinkAttribute::NumTxQueues(1),
            LinkAttribute::NumRxQueues(1),
            LinkAttribute::Controller(veth.bridge),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(pod))),
            ]),
        ];
        self.execute(Request::new(
            "create",
            format!("veth pair {} and {}", veth.host_name, veth.pod_name),
            NLM_F_CREATE | NLM_F_EXCL,
            RouteNetlinkMessage::NewLink(host),
        ))
    }

    /// Sets a bridge port's options and switches it on.
    ///
    /// The port gets no IPv6 address of its own: the node talks to pods through the bridge.
    pub(crate) fn start_port(&mut self, port: &PortChange<'_>) -> Result<(), Error> {
        let mut message = named_up(port.name);
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(InfoPortData::BridgePort(vec![
                InfoBridgePort::HairpinMode(port.hairpin),
                InfoBridgePort::Isolated(port.isolated),
            ])),
        ]));
        if port.device_has_ipv6 {
            let no_address = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
            message
                .attributes
                .push(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![no_address])]));
        }
        self.execute(Request::new(
            "configure",
            format!("bridge port {}", port.name),
            0,
            RouteNetlinkMessage::NewLink(message),
        ))
    }

    /// Leaves a text on a device, where everybody can read it.
    ///
    /// kernel: a text that is given when the device is made is ignored (6.18).
    pub(crate) fn set_alias(&mut self, name: &str, alias: &str) -> Result<(), Error> {
        let mut message = LinkMessage::default();
        message.attributes =
            vec![LinkAttribute::IfName(name.to_owned()), LinkAttribute::IfAlias(alias.to_owned())];
        let target = format!("alias of device {name}");
        self.execute(Request::new("set", target, 0, RouteNetlinkMessage::SetLink(message)))
    }

    /// Removes a device and, if it is one end of a pair, the other; says whether there was one.
    ///
    /// kernel: it takes both devices off all lists, echoes the removal (since 6.2), lets go of its lock,
    /// and then waits some 20 ms for a grace period before it acknowledges. A process that is left
    /// behind does that waiting, and tells `reached` how far it has come.
    pub(crate) fn delete_link(
        &mut self,
        name: &str,
        reached: &dyn Fn(Step),
    ) -> Result<bool, Error> {
        let mut message = LinkMessage::default();
        message.attributes = vec![LinkAttribute::IfName(name.to_owned())];
        let target = format!("device {name}");
        let request = Request::new("delete", target, 0, RouteNetlinkMessage::DelLink(message));
        match self.execute_early(&request, reached) {
            Ok(()) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// A request that switches a device on.
pub(crate) fn set_up(name: &str) -> Request {
    let message = RouteNetlinkMessage::SetLink(named_up(name));
    Request::new("set up", format!("device {name}"), 0, message)
}

/// A request that makes the kernel announce a device's addresses to its neighbours.
///
/// kernel: setting the MAC address of a running device, even to what it is already, sends a
/// gratuitous ARP for each IPv4 address (with `arp_notify`) and an unsolicited neighbour
/// advertisement for each IPv6 address (with `ndisc_notify`). Seen on 6.18.
pub(crate) fn announce(name: &str, mac: MacAddress) -> Request {
    let mut message = LinkMessage::default();
    message.attributes =
        vec![LinkAttribute::IfName(name.to_owned()), LinkAttribute::Address(mac.0.to_vec())];
    let target = format!("device {name}");
    Request::new("announce", target, 0, RouteNetlinkMessage::SetLink(message))
}

fn named_up(name: &str) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message.attributes = vec![LinkAttribute::IfName(name.to_owned())];
    message
}

fn parse(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        is_up: message.header.flags.contains(LinkFlags::Up),
        ..Link::default()
    };
    for attribute in &message.attributes {
        if let LinkAttribute::IfName(name) = attribute {
            link.name.clone_from(name);
        } else if let LinkAttribute::Address(bytes) = attribute {
            link.mac = bytes.as_slice().try_into().ok().map(MacAddress);
        } else if let LinkAttribute::Mtu(mtu) = attribute {
            link.mtu = *mtu;
        } else if let LinkAttribute::OperState(state) = attribute {
            link.is_running = *state == State::Up;
        } else if let LinkAttribute::Controller(index) = attribute {
            link.bridge = Some(*index);
        } else if let LinkAttribute::IfAlias(alias) = attribute {
            link.alias.clone_from(alias);
        } else if let LinkAttribute::LinkInfo(infos) = attribute {
            link.hairpin = has(infos, &InfoBridgePort::HairpinMode(true));
            link.isolated = has(infos, &InfoBridgePort::Isolated(true));
        }
    }
    link
}

/// Whether the device is a bridge port with `option`.
fn has(infos: &[LinkInfo], option: &InfoBridgePort) -> bool {
    infos.iter().any(|info| {
        if let LinkInfo::PortData(InfoPortData::BridgePort(port)) = info {
            port.contains(option)
        } else {
            false
        }
    })
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
            LinkAttribute::LinkInfo(vec![LinkInfo::PortData(InfoPortData::BridgePort(vec![
                InfoBridgePort::HairpinMode(true),
                InfoBridgePort::Isolated(false),
            ]))]),
            LinkAttribute::IfAlias("a pod".to_owned()),
        ];
        let link = parse(&message);
        assert_eq!((link.bridge, link.hairpin, link.is_up), (Some(7), true, true));
        assert!(!link.is_running && !link.isolated);
        assert_eq!(link.alias, "a pod");
    }
}
