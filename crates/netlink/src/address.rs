//! Addresses of devices.

use ipnet::IpNet;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage,
};

use crate::error::Result;
use crate::protocol::Rtnetlink;
use crate::request::Request;
use crate::socket::Socket;

/// An address of a device, with the prefix length of its subnet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Index of the device.
    pub link: u32,
    /// The address; its host bits are kept.
    pub net: IpNet,
    /// Who says that they added it (`IFA_PROTO`, Linux 5.18); older kernels forget.
    pub protocol: Option<u8>,
    /// Whether somebody else on the link may have it.
    pub detection: Detection,
    /// Whether the kernel made the route to its subnet, with it.
    pub has_route: bool,
}

/// How far duplicate address detection has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Detection {
    /// Nobody else has the address, or nobody asked.
    #[default]
    Passed,
    /// Not decided yet.
    Pending,
    /// Somebody else has it.
    Duplicate,
}

impl Socket<Rtnetlink> {
    /// Lists the addresses of every device, both families.
    ///
    /// # Errors
    ///
    /// When the kernel refuses, or the addresses change faster than they can be listed.
    pub fn addresses(&mut self) -> Result<Vec<Address>> {
        let message = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let request = Request::new("list", "addresses", 0, message);
        Ok(self.dump(&request)?.iter().filter_map(parse).collect())
    }
}

fn parse(answer: &RouteNetlinkMessage) -> Option<Address> {
    let RouteNetlinkMessage::NewAddress(message) = answer else {
        return None;
    };
    let (mut local, mut remote, mut protocol) = (None, None, None);
    let mut has_route = true;
    for attribute in &message.attributes {
        if let AddressAttribute::Local(ip) = attribute {
            local = Some(*ip);
        } else if let AddressAttribute::Address(ip) = attribute {
            remote = Some(*ip);
        } else if let AddressAttribute::Protocol(by) = attribute {
            protocol = Some(u8::from(*by));
        } else if let AddressAttribute::Flags(flags) = attribute {
            has_route = !flags.contains(AddressFlags::Noprefixroute);
        }
    }
    let flags = message.header.flags;
    let detection = if flags.contains(AddressHeaderFlags::Dadfailed) {
        Detection::Duplicate
    } else if flags.contains(AddressHeaderFlags::Tentative) {
        Detection::Pending
    } else {
        Detection::Passed
    };
    // On a point-to-point link ADDRESS is the other end, and LOCAL is ours; IPv6 gives only
    // ADDRESS.
    let net = IpNet::new(local.or(remote)?, message.header.prefix_len).ok()?;
    Some(Address { link: message.header.index, net, protocol, detection, has_route })
}
