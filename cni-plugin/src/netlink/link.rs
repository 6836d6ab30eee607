//! Requests about network devices.

use std::os::fd::{AsFd, RawFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoBridgePort, InfoData, InfoKind, InfoPortData,
    InfoPortKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use overlay_proto::Mac;
use rustix::io::Errno;

use super::{Error, Request};
use culvert_node::pod_port::{DEVICE_GROUP, FORWARDED_GROUPS};

/// A veth pair to make: one end here, the other in a pod's namespace.
#[derive(Clone, Debug)]
pub(crate) struct Veth<'a> {
    pub(crate) host_name: &'a str,
    pub(crate) bridge: u32,
    pub(crate) pod_name: &'a str,
    pub(crate) pod_netns: RawFd,
    pub(crate) pod_mac: Mac,
    /// That of the pod's end.
    pub(crate) mtu: u16,
    /// That of the node's end, which is the bridge's: what a pod sends above it would be lost
    /// without an answer.
    pub(crate) host_mtu: u16,
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

/// The index of a device; `None` if there is none of that name.
///
/// kernel: unlike a look-up by netlink, this does not wait for those who change devices.
pub(crate) fn index_of(socket: impl AsFd, name: &str) -> Result<Option<u32>, Error> {
    match rustix::net::netdevice::name_to_index(socket, name) {
        Ok(index) => Ok(Some(index)),
        Err(Errno::NODEV) => Ok(None),
        Err(errno) => Err(Error::new("look up", format!("device {name}"), errno)),
    }
}

/// A request that makes a veth pair, each end with its final name in its final namespace.
///
/// One request does it all, so no end is ever seen under a temporary name, and a name that is
/// taken on either side makes the whole request fail.
///
/// kernel: unless told, it makes as many queues as the machine may have processors, then puts all
/// but one out of use, and waits for a grace period at each end.
pub(crate) fn create_veth(veth: &Veth<'_>) -> Request {
    let mut pod = LinkMessage::default();
    pod.attributes = vec![
        LinkAttribute::IfName(veth.pod_name.to_owned()),
        LinkAttribute::NetNsFd(veth.pod_netns),
        LinkAttribute::Address(veth.pod_mac.octets().to_vec()),
        LinkAttribute::Mtu(veth.mtu.into()),
        LinkAttribute::NumTxQueues(1),
        LinkAttribute::NumRxQueues(1),
    ];
    pod.attributes.extend(veth.gso_max_size.map(LinkAttribute::GsoMaxSize));
    let mut host = LinkMessage::default();
    host.attributes = vec![
        LinkAttribute::IfName(veth.host_name.to_owned()),
        LinkAttribute::Mtu(veth.host_mtu.into()),
        LinkAttribute::NumTxQueues(1),
        LinkAttribute::NumRxQueues(1),
        LinkAttribute::Controller(veth.bridge),
        LinkAttribute::Group(DEVICE_GROUP),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(pod))),
        ]),
    ];
    Request::new(
        "create",
        format!("veth pair {} and {}", veth.host_name, veth.pod_name),
        NLM_F_CREATE | NLM_F_EXCL,
        RouteNetlinkMessage::NewLink(host),
    )
}

/// A request that sets a bridge port's options and switches it on.
///
/// The port gets no IPv6 address of its own: the node talks to pods through the bridge. It hands
/// the node nothing either: see [`FORWARDED_GROUPS`].
pub(crate) fn start_port(port: &PortChange<'_>) -> Request {
    let mut message = named_up(port.name);
    message.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::PortKind(InfoPortKind::Bridge),
        LinkInfo::PortData(InfoPortData::BridgePort(vec![
            InfoBridgePort::HairpinMode(port.hairpin),
            InfoBridgePort::Isolated(port.isolated),
            InfoBridgePort::GroupFwdMask(FORWARDED_GROUPS),
        ])),
    ]));
    if port.device_has_ipv6 {
        let no_address = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
        message
            .attributes
            .push(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![no_address])]));
    }
    Request::new(
        "configure",
        format!("bridge port {}", port.name),
        0,
        RouteNetlinkMessage::NewLink(message),
    )
}

/// A request that leaves a text on a device, where everybody can read it.
///
/// kernel: a text that is given when the device is made is ignored (6.18).
pub(crate) fn set_alias(name: &str, alias: &str) -> Request {
    let mut message = LinkMessage::default();
    message.attributes =
        vec![LinkAttribute::IfName(name.to_owned()), LinkAttribute::IfAlias(alias.to_owned())];
    let target = format!("alias of device {name}");
    Request::new("set", target, 0, RouteNetlinkMessage::SetLink(message))
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
pub(crate) fn announce(name: &str, mac: Mac) -> Request {
    let mut message = LinkMessage::default();
    message.attributes =
        vec![LinkAttribute::IfName(name.to_owned()), LinkAttribute::Address(mac.octets().to_vec())];
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
