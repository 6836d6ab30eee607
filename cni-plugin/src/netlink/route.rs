//! Calls about routes.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Error, Request, Socket};

/// A default route through a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DefaultRoute {
    pub(crate) gateway: IpAddr,
    /// Index of the device that the gateway is behind.
    pub(crate) device: u32,
}

/// A request that adds the default route of one family.
pub(crate) fn add_default_route(route: DefaultRoute) -> Request {
    let mut message = RouteMessage::default();
    message.header.address_family =
        if route.gateway.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Boot;
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    message.attributes =
        vec![RouteAttribute::Gateway(route.gateway.into()), RouteAttribute::Oif(route.device)];
    Request::new(
        "add",
        format!("default route via {}", route.gateway),
        NLM_F_CREATE | NLM_F_EXCL,
        RouteNetlinkMessage::NewRoute(message),
    )
}

impl Socket {
    /// The default routes of the main table.
    pub(crate) fn default_routes(&mut self) -> Result<Vec<DefaultRoute>, Error> {
        let message = RouteNetlinkMessage::GetRoute(RouteMessage::default());
        let request = Request::new("list", "routes", 0, message);
        let mut routes = Vec::new();
        for answer in self.dump(&request)? {
            if let RouteNetlinkMessage::NewRoute(message) = answer
                && message.header.destination_prefix_length == 0
                && message.header.table == RouteHeader::RT_TABLE_MAIN
            {
                routes.extend(parse(&message));
            }
        }
        Ok(routes)
    }
}

fn parse(message: &RouteMessage) -> Option<DefaultRoute> {
    let (mut gateway, mut device) = (None, None);
    for attribute in &message.attributes {
        if let RouteAttribute::Gateway(RouteAddress::Inet(address)) = attribute {
            gateway = Some(IpAddr::V4(*address));
        } else if let RouteAttribute::Gateway(RouteAddress::Inet6(address)) = attribute {
            gateway = Some(IpAddr::V6(*address));
        } else if let RouteAttribute::Oif(index) = attribute {
            device = Some(*index);
        }
    }
    Some(DefaultRoute { gateway: gateway?, device: device? })
}
