//! Requests for routes.

use std::net::IpAddr;

use culvert_netlink::{MAIN_TABLE, Route as Found};
use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::route::{
    RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::Request;
use crate::config::RouteSpec;

/// kernel: RT_SCOPE_LINK and what is nearer have no next hop.
pub(crate) const SCOPE_LINK: u8 = 253;

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
    pub(crate) fn is(&self, found: &Found) -> bool {
        let open = |wanted: Option<u32>, found: Option<u32>| wanted.is_none() || wanted == found;
        self.dst == found.destination
            && self.gateway == found.gateway
            && Some(self.device) == found.link
            && self.table == found.table
            && open(self.priority, Some(found.priority))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// How the kernel lists what is asked of it.
    fn found(route: &Route) -> Found {
        let request = add_route(route);
        let RouteNetlinkMessage::NewRoute(message) = request.message() else {
            unreachable!("the request makes a route")
        };
        Found::read(message).unwrap()
    }

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
            let found = found(&route);
            assert_eq!(found.scope, route.scope);
            assert!(route.is(&found));
            assert!(!Route { device: 8, ..route.clone() }.is(&found));
            assert!(!Route { table: 9, ..route }.is(&found));
        }
    }

    #[test]
    fn open_fields_match_what_the_kernel_chose() {
        let wanted = Route::new("::/0".parse().unwrap(), "fd00::1".parse().ok(), 7);
        let found = found(&Route { priority: Some(1024), ..wanted.clone() });
        assert!(wanted.is(&found));
        assert!(!Route { priority: Some(5), ..wanted }.is(&found));
    }
}
