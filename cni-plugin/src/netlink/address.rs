//! Requests about addresses of devices.

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::Request;

/// A request that adds `address` to the device with index `device`.
///
/// IPv6 skips duplicate address detection unless it is asked for: the store hands out each address
/// once, and the second that detection takes would be a second of every pod's start.
///
/// `has_route` says whether the kernel is to make the route to the address's subnet.
pub(crate) fn add_address(
    device: u32,
    address: IpNet,
    duplicate_detection: bool,
    has_route: bool,
) -> Request {
    let mut message = AddressMessage::default();
    message.header.index = device;
    message.header.prefix_len = address.prefix_len();
    message.header.scope = AddressScope::Universe;
    message.attributes =
        vec![AddressAttribute::Local(address.addr()), AddressAttribute::Address(address.addr())];
    let mut flags = AddressFlags::empty();
    flags.set(AddressFlags::Noprefixroute, !has_route);
    match address {
        IpNet::V4(v4) => {
            message.header.family = AddressFamily::Inet;
            message.attributes.push(AddressAttribute::Broadcast(v4.broadcast()));
        }
        IpNet::V6(_) => {
            message.header.family = AddressFamily::Inet6;
            flags.set(AddressFlags::Nodad, !duplicate_detection);
        }
    }
    message.attributes.push(AddressAttribute::Flags(flags));
    Request::new(
        "add",
        format!("address {address}"),
        NLM_F_CREATE | NLM_F_EXCL,
        RouteNetlinkMessage::NewAddress(message),
    )
}
