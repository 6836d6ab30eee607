//! Addresses of links: adding and removing one.

use std::net::{Ipv4Addr, Ipv6Addr};

use culvert_netlink::{Address, Request, Result};
use ipnet::IpNet;
use rtnetlink::AddressMessageBuilder;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};

use super::Netlink;

impl Netlink {
    /// Adds an address, usable at once (an IPv6 one skips duplicate address detection).
    ///
    /// An address that is already there is no error; `name` is for the error alone.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub(crate) fn add_address(&mut self, address: &Address, name: &str) -> Result<()> {
        let mut message = message(address);
        message.attributes.extend(address.protocol.map(|by| AddressAttribute::Protocol(by.into())));
        if address.net.addr().is_ipv6() {
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        let message = RouteNetlinkMessage::NewAddress(message);
        let target = format!("address {} dev {name}", address.net);
        match self.change(Request::new("add", target, NLM_F_CREATE | NLM_F_EXCL, message)) {
            Err(error) if error.is_exists() => Ok(()),
            other => other,
        }
    }

    /// Removes an address; one that is already gone is no error.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub(crate) fn remove_address(&mut self, address: &Address, name: &str) -> Result<()> {
        let message = RouteNetlinkMessage::DelAddress(message(address));
        let target = format!("address {} dev {name}", address.net);
        self.change_unless_gone(Request::new("remove", target, 0, message))
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
