//! Addresses of links.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use rtnetlink::AddressMessageBuilder;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};

use super::Netlink;
use super::request::{dump, unless, unless_gone};
use crate::platform::{Error, Result};

/// An address of a link, with the prefix length of its subnet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Index of the link.
    pub link: u32,
    /// The address; its host bits are kept.
    pub net: IpNet,
    /// Who says that they added it (`IFA_PROTO`, Linux 5.18); older kernels forget.
    pub protocol: Option<u8>,
}

impl Netlink {
    /// Lists the addresses of every link, both families.
    ///
    /// # Errors
    ///
    /// When the kernel refuses, or the addresses change faster than they can be listed.
    pub async fn addresses(&mut self) -> Result<Vec<Address>> {
        let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let found = dump(&self.handle, request)
            .await
            .map_err(|error| Error::new("list", "addresses", error))?;
        Ok(found
            .into_iter()
            .filter_map(|message| {
                let RouteNetlinkMessage::NewAddress(message) = message else {
                    return None;
                };
                parse(&message)
            })
            .collect())
    }

    /// Adds an address, usable at once (an IPv6 one skips duplicate address detection).
    ///
    /// An address that is already there is no error; `name` is for the error alone.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub async fn add_address(&mut self, address: &Address, name: &str) -> Result<()> {
        let (ip, prefix_len) = (address.net.addr(), address.net.prefix_len());
        let mut request = self.handle.address().add(address.link, ip, prefix_len);
        let attributes = &mut request.message_mut().attributes;
        attributes.extend(address.protocol.map(|by| AddressAttribute::Protocol(by.into())));
        if ip.is_ipv6() {
            attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        unless(request.execute().await, &[libc::EEXIST]).map_err(|error| {
            Error::new("add address", format!("{} dev {name}", address.net), error)
        })
    }

    /// Removes an address; one that is already gone is no error.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub async fn remove_address(&mut self, address: &Address, name: &str) -> Result<()> {
        unless_gone(self.handle.address().del(message(address)).execute().await).map_err(|error| {
            Error::new("remove address", format!("{} dev {name}", address.net), error)
        })
    }
}

fn message(address: &Address) -> AddressMessage {
    match address.net {
        IpNet::V4(net) => AddressMessageBuilder::<Ipv4Addr>::new()
            .index(address.link)
            .address(net.addr(), net.prefix_len())
            .build(),
        IpNet::V6(net) => AddressMessageBuilder::<Ipv6Addr>::new()
            .index(address.link)
            .address(net.addr(), net.prefix_len())
            .build(),
    }
}

fn parse(message: &AddressMessage) -> Option<Address> {
    let mut local = None;
    let mut remote = None;
    let mut protocol = None;
    for attribute in &message.attributes {
        if let AddressAttribute::Local(ip) = attribute {
            local = Some(*ip);
        } else if let AddressAttribute::Address(ip) = attribute {
            remote = Some(*ip);
        } else if let AddressAttribute::Protocol(by) = attribute {
            protocol = Some(u8::from(*by));
        }
    }
    // On a point-to-point link ADDRESS is the other end, and LOCAL is ours; IPv6 gives only ADDRESS.
    let net = IpNet::new(local.or(remote)?, message.header.prefix_len).ok()?;
    Some(Address { link: message.header.index, net, protocol })
}
