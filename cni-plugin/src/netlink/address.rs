//! Calls about addresses of devices.

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::{
    AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Error, Request, Socket};

/// A request that adds `address` to the device with index `device`.
///
/// IPv6 skips duplicate address detection unless it is asked for: the store hands out each address
/// once, and the second that detection takes would be a second of every pod's start.
pub(crate) fn add_address(device: u32, address: IpNet, duplicate_detection: bool) -> Request {
    let mut message = AddressMessage::default();
    message.header.index = device;
    message.header.prefix_len = address.prefix_len();
    message.header.scope = AddressScope::Universe;
    message.attributes =
        vec![AddressAttribute::Local(address.addr()), AddressAttribute::Address(address.addr())];
    match address {
        IpNet::V4(v4) => {
            message.header.family = AddressFamily::Inet;
            message.attributes.push(AddressAttribute::Broadcast(v4.broadcast()));
        }
        IpNet::V6(_) => {
            message.header.family = AddressFamily::Inet6;
            if !duplicate_detection {
                message.header.flags = AddressHeaderFlags::Nodad;
            }
        }
    }
    Request::new(
        "add",
        format!("address {address}"),
        NLM_F_CREATE | NLM_F_EXCL,
        RouteNetlinkMessage::NewAddress(message),
    )
}

/// How far duplicate address detection has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Detection {
    /// Nobody else has any of the addresses.
    Passed,
    /// Not decided yet.
    Pending,
    /// Somebody else has this one.
    Duplicate(IpNet),
}

impl Socket {
    /// How far duplicate address detection has come on the device with index `device`.
    pub(crate) fn detection(&mut self, device: u32) -> Result<Detection, Error> {
        let mut detection = Detection::Passed;
        for message in self.address_messages(device)? {
            let flags = message.header.flags;
            if flags.contains(AddressHeaderFlags::Dadfailed)
                && let Some(address) = parse(&message)
            {
                return Ok(Detection::Duplicate(address));
            }
            if flags.contains(AddressHeaderFlags::Tentative) {
                detection = Detection::Pending;
            }
        }
        Ok(detection)
    }

    /// The addresses of the device with index `device`.
    pub(crate) fn addresses(&mut self, device: u32) -> Result<Vec<IpNet>, Error> {
        Ok(self.address_messages(device)?.iter().filter_map(parse).collect())
    }

    fn address_messages(&mut self, device: u32) -> Result<Vec<AddressMessage>, Error> {
        let request = Request::new(
            "list",
            "addresses",
            0,
            RouteNetlinkMessage::GetAddress(AddressMessage::default()),
        );
        let mut addresses = Vec::new();
        for answer in self.dump(&request)? {
            if let RouteNetlinkMessage::NewAddress(message) = answer
                && message.header.index == device
            {
                addresses.push(message);
            }
        }
        Ok(addresses)
    }
}

/// The device's own address; on a point-to-point device `Address` would be the other side's.
pub(super) fn parse(message: &AddressMessage) -> Option<IpNet> {
    let mut own = None;
    for attribute in &message.attributes {
        if let AddressAttribute::Local(address) = attribute {
            own = Some(*address);
        } else if let AddressAttribute::Address(address) = attribute {
            own = own.or(Some(*address));
        }
    }
    IpNet::new(own?, message.header.prefix_len).ok()
}
