//! Calls about routes.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteProtocol,
    RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Error, Request, Socket};
use crate::config::RouteSpec;

/// The kernel's main routing table.
const MAIN_TABLE: u32 = RouteHeader::RT_TABLE_MAIN as u32;

/// A route through a gateway, or straight to a device's neighbours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) dst: IpNet,
    /// The next hop; none for what is on the link itself.
    pub(crate) gateway: Option<IpAddr>,
    /// Index of the device that the gateway is behind.
    pub(crate) device: u32,
    pub(crate) table: u32,
    /// How far away the destination is, in the kernel's numbers; 0 is anywhere.
    pub(crate) scope: u8,
    /// The lower, the better; `None` leaves it to the kernel.
    pub(crate) priority: Option<u32>,
    /// Largest packet on this route, in bytes; `None` for that of the device.
    pub(crate) mtu: Option<u32>,
    /// TCP segment size to announce, in bytes; `None` to follow from the MTU.
    pub(crate) advmss: Option<u32>,
}

impl Route {
    /// A route of the main table with nothing special about it.
    pub(crate) fn new(dst: IpNet, gateway: Option<IpAddr>, device: u32) -> Self {
        Self {
            dst,
            gateway,
            device,
            table: MAIN_TABLE,
            scope: RouteScope::Universe.into(),
            priority: None,
            mtu: None,
            advmss: None,
        }
    }

    /// The route that `spec` wants, on the device with index `device`.
    pub(crate) fn of(spec: &RouteSpec, device: u32) -> Self {
        let plain = Self::new(spec.dst, spec.gateway, device);
        Self {
            table: spec.table.filter(|table| *table != 0).unwrap_or(plain.table),
            scope: spec.scope.unwrap_or(plain.scope),
            priority: spec.priority,
            mtu: spec.mtu,
            advmss: spec.advmss,
            ..plain
        }
    }

    /// The route in words.
    pub(crate) fn describe(&self) -> String {
        let mut text = if self.dst.prefix_len() == 0 {
            "default route".to_owned()
        } else {
            format!("route to {}", self.dst)
        };
        if let Some(gateway) = self.gateway {
            text += &format!(" via {gateway}");
        }
        if self.table != MAIN_TABLE {
            text += &format!(" in table {}", self.table);
        }
        text
    }

    /// Whether `found`, as the kernel lists it, is this route. What this one leaves open may be
    /// anything there.
    pub(crate) fn is(&self, found: &Self) -> bool {
        let open = |wanted: Option<u32>, found: Option<u32>| wanted.is_none() || wanted == found;
        self.dst == found.dst
            && self.gateway == found.gateway
            && self.device == found.device
            && self.table == found.table
            && open(self.priority, found.priority)
            && open(self.mtu, found.mtu)
            && open(self.advmss, found.advmss)
    }
}

/// A request that adds a route.
pub(crate) fn add_route(route: &Route) -> Request {
    let is_v6 = route.dst.addr().is_ipv6();
    let mut message = RouteMessage::default();
    message.header.address_family = if is_v6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
    message.header.protocol = RouteProtocol::Boot;
    message.header.scope = route.scope.into();
    message.header.kind = RouteType::Unicast;
    message.attributes = vec![RouteAttribute::Oif(route.device)];
    message.attributes.extend(route.gateway.map(|gateway| RouteAttribute::Gateway(gateway.into())));
    if route.dst.prefix_len() > 0 {
        message.header.destination_prefix_length = route.dst.prefix_len();
        message.attributes.push(RouteAttribute::Destination(route.dst.network().into()));
    }
    // The header's field has a byte; the attribute has room for every table.
    message.header.table = u8::try_from(route.table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
    message.attributes.push(RouteAttribute::Table(route.table));
    message.attributes.extend(route.priority.map(RouteAttribute::Priority));
    let mtu = route.mtu.map(RouteMetric::Mtu);
    let metrics: Vec<_> = mtu.into_iter().chain(route.advmss.map(RouteMetric::Advmss)).collect();
    if !metrics.is_empty() {
        message.attributes.push(RouteAttribute::Metrics(metrics));
    }
    let target = route.describe();
    Request::new("add", target, NLM_F_CREATE | NLM_F_EXCL, RouteNetlinkMessage::NewRoute(message))
}

impl Socket {
    /// The routes of every table.
    pub(crate) fn routes(&mut self) -> Result<Vec<Route>, Error> {
        let message = RouteNetlinkMessage::GetRoute(RouteMessage::default());
        let request = Request::new("list", "routes", 0, message);
        let mut routes = Vec::new();
        for answer in self.dump(&request)? {
            if let RouteNetlinkMessage::NewRoute(message) = answer {
                routes.extend(parse(&message));
            }
        }
        Ok(routes)
    }
}

fn parse(message: &RouteMessage) -> Option<Route> {
    let header = &message.header;
    let everywhere: IpAddr =
        if header.address_family == AddressFamily::Inet6 { [0; 16].into() } else { [0; 4].into() };
    let length = header.destination_prefix_length;
    let mut route = Route::new(IpNet::new(everywhere, length).ok()?, None, 0);
    route.table = header.table.into();
    route.scope = header.scope.into();
    for attribute in &message.attributes {
        if let RouteAttribute::Destination(destination) = attribute {
            route.dst = IpNet::new(ip(destination)?, length).ok()?;
        } else if let RouteAttribute::Gateway(gateway) = attribute {
            route.gateway = ip(gateway);
        } else if let RouteAttribute::Oif(index) = attribute {
            route.device = *index;
        } else if let RouteAttribute::Table(table) = attribute {
            route.table = *table;
        } else if let RouteAttribute::Priority(priority) = attribute {
            route.priority = Some(*priority);
        } else if let RouteAttribute::Metrics(metrics) = attribute {
            for metric in metrics {
                if let RouteMetric::Mtu(mtu) = metric {
                    route.mtu = Some(*mtu);
                } else if let RouteMetric::Advmss(advmss) = metric {
                    route.advmss = Some(*advmss);
                }
            }
        }
    }
    Some(route)
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    if let RouteAddress::Inet(v4) = address {
        Some(IpAddr::V4(*v4))
    } else if let RouteAddress::Inet6(v6) = address {
        Some(IpAddr::V6(*v6))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_of_the_kernel_is_read_back_the_same() {
        let plain = Route::new("0.0.0.0/0".parse().unwrap(), "10.0.0.1".parse().ok(), 7);
        let detailed = Route {
            table: 1000,
            priority: Some(50),
            mtu: Some(1300),
            advmss: Some(1240),
            ..Route::new("fd00:9::/64".parse().unwrap(), "fd00::1".parse().ok(), 7)
        };
        let on_link = Route { scope: 253, ..Route::new("10.9.0.0/16".parse().unwrap(), None, 7) };
        for route in [plain, detailed, on_link] {
            let RouteNetlinkMessage::NewRoute(message) = add_route(&route).message else {
                unreachable!("the request makes a route")
            };
            let found = parse(&message).unwrap();
            assert_eq!(found, route);
            assert!(route.is(&found));
            assert!(!route.is(&Route { device: 8, ..found.clone() }));
            assert!(!route.is(&Route { table: 9, ..found }));
        }
    }

    #[test]
    fn open_fields_match_what_the_kernel_chose() {
        let wanted = Route::new("::/0".parse().unwrap(), "fd00::1".parse().ok(), 7);
        let found = Route { priority: Some(1024), ..wanted.clone() };
        assert!(wanted.is(&found));
        assert!(!Route { priority: Some(5), ..wanted }.is(&found));
    }
}
