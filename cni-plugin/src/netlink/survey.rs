//! Calls that find out which pods there are: veth ends here, their other ends, and whose those are.

use std::os::fd::{AsRawFd as _, BorrowedFd};

use ipnet::IpNet;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::{LinkAttribute, LinkExtentMask, LinkMessage};
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};

use super::{Error, Request, Socket};
use crate::mac::MacAddress;

/// A device, as far as it may be a pod's or have the MAC address of one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Device {
    pub(crate) name: String,
    /// What its maker wrote on it.
    pub(crate) alias: Option<String>,
    pub(crate) mac: Option<MacAddress>,
}

/// A device whose other end is in another namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pair {
    pub(crate) index: u32,
    pub(crate) name: String,
    /// Index of the other end, there.
    pub(crate) peer: u32,
    /// This namespace's number for the other one.
    pub(crate) netns: i32,
}

impl Socket {
    /// All devices of this namespace; those that come or go meanwhile may be among them.
    pub(crate) fn devices(&mut self) -> Result<Vec<Device>, Error> {
        let answers = self.dump_despite_changes(&list_devices())?;
        Ok(answers.into_iter().filter_map(device).collect())
    }

    /// All devices of this namespace whose other end is in another.
    pub(crate) fn pairs(&mut self) -> Result<Vec<Pair>, Error> {
        let answers = self.dump(&list_devices())?;
        Ok(answers.into_iter().filter_map(|answer| pair(&answer)).collect())
    }

    /// This namespace's number for `netns`, if there is a device between the two.
    pub(crate) fn number_of(&mut self, netns: BorrowedFd<'_>) -> Result<Option<i32>, Error> {
        let mut message = NsidMessage::default();
        message.attributes = vec![NsidAttribute::Fd(netns.as_raw_fd().cast_unsigned())];
        let request = Request::new(
            "look up",
            "a network namespace",
            0,
            RouteNetlinkMessage::GetNsId(message),
        );
        let RouteNetlinkMessage::NewNsId(answer) = self.query(&request)? else {
            return Ok(None);
        };
        let number = answer.attributes.iter().find_map(|attribute| {
            if let NsidAttribute::Id(number) = attribute { Some(*number) } else { None }
        });
        // kernel: -1 stands for "has none".
        Ok(number.filter(|number| *number >= 0))
    }

    /// Every address of this namespace, with the index of its device.
    pub(crate) fn all_addresses(&mut self) -> Result<Vec<(u32, IpNet)>, Error> {
        let message = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let answers = self.dump(&Request::new("list", "addresses", 0, message))?;
        let own = |answer: RouteNetlinkMessage| {
            let RouteNetlinkMessage::NewAddress(message) = answer else {
                return None;
            };
            Some((message.header.index, super::address::parse(&message)?))
        };
        Ok(answers.into_iter().filter_map(own).collect())
    }
}

fn list_devices() -> Request {
    let mut message = LinkMessage::default();
    message.attributes = vec![LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])];
    Request::new("list", "devices", 0, RouteNetlinkMessage::GetLink(message))
}

fn device(answer: RouteNetlinkMessage) -> Option<Device> {
    let RouteNetlinkMessage::NewLink(message) = answer else {
        return None;
    };
    let mut found = Device::default();
    for attribute in message.attributes {
        if let LinkAttribute::IfName(name) = attribute {
            found.name = name;
        } else if let LinkAttribute::IfAlias(alias) = attribute {
            found.alias = Some(alias);
        } else if let LinkAttribute::Address(bytes) = attribute {
            found.mac = <[u8; 6]>::try_from(bytes).ok().map(MacAddress);
        }
    }
    Some(found)
}

fn pair(answer: &RouteNetlinkMessage) -> Option<Pair> {
    let RouteNetlinkMessage::NewLink(message) = answer else {
        return None;
    };
    let (mut found, mut peer, mut netns) = (Pair::default(), None, None);
    found.index = message.header.index;
    for attribute in &message.attributes {
        if let LinkAttribute::IfName(name) = attribute {
            found.name.clone_from(name);
        } else if let LinkAttribute::Link(index) = attribute {
            peer = Some(*index);
        } else if let LinkAttribute::LinkNetNsId(number) = attribute {
            netns = Some(*number);
        }
    }
    Some(Pair { peer: peer?, netns: netns?, ..found })
}
