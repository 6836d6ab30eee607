//! Routes: adding, replacing and removing one.

use std::net::IpAddr;

use culvert_netlink::{Request, Result, Route};
use ipnet::IpNet;
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use rtnetlink::packet_route::route::{
    RouteAttribute, RouteMessage, RouteMetric, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::Netlink;

impl Netlink {
    /// Adds a direct route. `name`, the device's, is for the error alone.
    ///
    /// # Errors
    ///
    /// When the kernel refuses, so when somebody has a route of that prefix and rank.
    pub(crate) fn add_route(&mut self, route: &Route, name: &str) -> Result<()> {
        self.new_route("add", NLM_F_CREATE | NLM_F_EXCL, route, name)
    }

    /// Puts a direct route in place of the one of the same prefix and rank.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub(crate) fn replace_route(&mut self, route: &Route, name: &str) -> Result<()> {
        self.new_route("replace", NLM_F_CREATE | NLM_F_REPLACE, route, name)
    }

    /// Adds a direct route before all others of the same prefix and rank.
    ///
    /// # Errors
    ///
    /// When the kernel refuses, so when the same route is there already.
    pub(crate) fn prepend_route(&mut self, route: &Route, name: &str) -> Result<()> {
        self.new_route("prepend", NLM_F_CREATE, route, name)
    }

    fn new_route(&mut self, op: &'static str, flags: u16, route: &Route, name: &str) -> Result<()> {
        let message = RouteNetlinkMessage::NewRoute(direct(route));
        let target = format!("route {} dev {name}", route.destination);
        self.change(Request::new(op, target, flags, message))
    }

    /// Removes a route; one that is already gone is no error.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub(crate) fn remove_route(&mut self, route: &Route) -> Result<()> {
        // kernel: "nowhere" matches every scope, and the type "unspecified" every type.
        let message = message(route).scope(RouteScope::NoWhere).kind(RouteType::Unspec).build();
        let target = format!("route {}", route.destination);
        let message = RouteNetlinkMessage::DelRoute(message);
        self.change_unless_gone(Request::new("remove", target, 0, message))
    }
}

fn direct(route: &Route) -> RouteMessage {
    message(route).scope(route.scope.into()).build()
}

fn message(route: &Route) -> RouteMessageBuilder {
    let mut builder = RouteMessageBuilder::<IpAddr>::new()
        .table_id(route.table)
        .protocol(RouteProtocol::from(route.protocol))
        .priority(route.priority);
    if let Some(link) = route.link {
        builder = builder.output_interface(link);
    }
    // Not by the setters: they fail on families that differ, and the kernel says that better.
    let message = builder.get_mut();
    message.header.address_family = match route.destination {
        IpNet::V4(_) => AddressFamily::Inet,
        IpNet::V6(_) => AddressFamily::Inet6,
    };
    message.header.destination_prefix_length = route.destination.prefix_len();
    message.attributes.push(RouteAttribute::Destination(route.destination.network().into()));
    message.attributes.extend(route.source.map(|ip| RouteAttribute::PrefSource(ip.into())));
    let metrics = route.mtu.map(|mtu| RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)]));
    message.attributes.extend(metrics);
    builder
}
