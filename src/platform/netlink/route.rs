//! Routes: listing, changing, and asking which one leads to an address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric,
    RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::request::{dump, look_up, unless_gone, verdict};
use super::{Netlink, family};
use crate::platform::{Error, Result};

/// The routing table that decides when no rule says otherwise.
pub const MAIN_TABLE: u32 = RouteHeader::RT_TABLE_MAIN as u32;

/// A route to a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The prefix.
    pub destination: IpNet,
    /// Number of the routing table.
    pub table: u32,
    /// Who made the route.
    pub protocol: u8,
    /// Rank among routes to the same prefix, lowest first; see [`default_priority`].
    pub priority: u32,
    /// Index of the device; none for a route with several next hops or without any.
    pub link: Option<u32>,
    /// Source address for the node's own traffic.
    pub source: Option<IpAddr>,
    /// Whether packets leave on `link` and reach their destination without a gateway.
    pub direct: bool,
}

/// The route that the kernel would take to one address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Path {
    /// MTU set on the route itself.
    pub mtu: Option<u32>,
    /// Indexes of the devices it may leave by.
    pub links: Vec<u32>,
}

/// The rank that the kernel gives to a route that was added without one.
#[must_use]
pub fn default_priority(destination: &IpNet) -> u32 {
    match destination {
        IpNet::V4(_) => 0,
        // kernel: IP6_RT_PRIO_USER.
        IpNet::V6(_) => 1024,
    }
}

impl Netlink {
    /// Lists the routes of every table that carry `protocol`.
    ///
    /// # Errors
    ///
    /// When the kernel refuses, or the routes change faster than they can be listed.
    pub async fn routes_of(&mut self, protocol: u8) -> Result<Vec<Route>> {
        let mut request = RouteMessage::default();
        request.header.protocol = RouteProtocol::from(protocol);
        let mut routes = self.dump_routes(request).await?;
        routes.retain(|route| route.protocol == protocol);
        Ok(routes)
    }

    /// Lists the routes of one table, both families.
    ///
    /// # Errors
    ///
    /// When the kernel refuses, or the routes change faster than they can be listed.
    pub async fn routes_in(&mut self, table: u32) -> Result<Vec<Route>> {
        let mut request = RouteMessage::default();
        request.attributes = vec![RouteAttribute::Table(table)];
        let mut routes = self.dump_routes(request).await?;
        routes.retain(|route| route.table == table);
        Ok(routes)
    }

    async fn dump_routes(&mut self, request: RouteMessage) -> Result<Vec<Route>> {
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = request.clone();
            request.header.address_family = family;
            let found = dump(&self.handle, RouteNetlinkMessage::GetRoute(request)).await;
            // A kernel that has never seen a route in the table says that there is no such table.
            let found = match found {
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Vec::new(),
                other => other.map_err(|error| Error::new("list", "routes", error))?,
            };
            routes.extend(found.into_iter().filter_map(|message| {
                let RouteNetlinkMessage::NewRoute(message) = message else {
                    return None;
                };
                parse(&message)
            }));
        }
        Ok(routes)
    }

    /// Adds a direct route. `name`, the device's, is for the error alone.
    ///
    /// # Errors
    ///
    /// When the kernel refuses; `AlreadyExists` when somebody has a route of that prefix and rank.
    pub async fn add_route(&mut self, route: &Route, name: &str) -> Result<()> {
        let request = self.handle.route().add(direct(route));
        verdict(request.execute().await)
            .map_err(|error| Error::new("add route", target(route, name), error))
    }

    /// Puts a direct route in place of the one of the same prefix and rank.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub async fn replace_route(&mut self, route: &Route, name: &str) -> Result<()> {
        let request = self.handle.route().add(direct(route)).replace();
        verdict(request.execute().await)
            .map_err(|error| Error::new("replace route", target(route, name), error))
    }

    /// Removes a route; one that is already gone is no error.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub async fn remove_route(&mut self, route: &Route) -> Result<()> {
        // kernel: "nowhere" matches every scope, and the type "unspecified" every type.
        let message = message(route).scope(RouteScope::NoWhere).kind(RouteType::Unspec).build();
        unless_gone(self.handle.route().del(message).execute().await)
            .map_err(|error| Error::new("remove route", route.destination.to_string(), error))
    }

    /// Asks which route leads to each destination; none for one that has no route, or that is local.
    ///
    /// What the kernel learned about a path's MTU from ICMP does not count: the answer describes the
    /// routing table, not its exceptions.
    ///
    /// # Errors
    ///
    /// When the socket fails, not when a destination cannot be reached.
    pub async fn paths_to(&mut self, destinations: &[IpAddr]) -> Result<Vec<Option<Path>>> {
        let requests = destinations.iter().copied().map(|destination| {
            let mut message = RouteMessage::default();
            message.header.address_family = family(destination);
            message.header.destination_prefix_length = match destination {
                IpAddr::V4(_) => 32,
                IpAddr::V6(_) => 128,
            };
            message.header.flags = RouteFlags::FibMatch;
            message.attributes = vec![RouteAttribute::Destination(destination.into())];
            RouteNetlinkMessage::GetRoute(message)
        });
        let answers = look_up(&self.handle, requests)
            .await
            .map_err(|error| Error::new("look up", "routes", error))?;
        Ok(answers.into_iter().map(|answer| path(&answer?)).collect())
    }
}

fn target(route: &Route, name: &str) -> String {
    format!("{} dev {name}", route.destination)
}

fn direct(route: &Route) -> RouteMessage {
    let message = message(route);
    match route.destination {
        IpNet::V4(_) => message.scope(RouteScope::Link).build(),
        IpNet::V6(_) => message.build(),
    }
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
    message.header.address_family = family(route.destination.addr());
    message.header.destination_prefix_length = route.destination.prefix_len();
    message.attributes.push(RouteAttribute::Destination(route.destination.network().into()));
    message.attributes.extend(route.source.map(|ip| RouteAttribute::PrefSource(ip.into())));
    builder
}

fn parse(message: &RouteMessage) -> Option<Route> {
    let mut destination = None;
    let mut table = u32::from(message.header.table);
    let mut priority = 0;
    let mut link = None;
    let mut source = None;
    let mut direct = message.header.kind == RouteType::Unicast;
    for attribute in &message.attributes {
        if let RouteAttribute::Destination(address) = attribute {
            destination = ip(address);
        } else if let RouteAttribute::Table(number) = attribute {
            table = *number;
        } else if let RouteAttribute::Priority(rank) = attribute {
            priority = *rank;
        } else if let RouteAttribute::Oif(index) = attribute {
            link = Some(*index);
        } else if let RouteAttribute::PrefSource(address) = attribute {
            source = ip(address);
        } else if let RouteAttribute::Gateway(_)
        | RouteAttribute::Via(_)
        | RouteAttribute::MultiPath(_)
        | RouteAttribute::Encap(_)
        | RouteAttribute::NhId(_) = attribute
        {
            direct = false;
        }
    }
    // The kernel leaves the destination of a default route out.
    let destination = destination.or_else(|| unspecified(message.header.address_family))?;
    Some(Route {
        destination: IpNet::new(destination, message.header.destination_prefix_length).ok()?,
        table,
        protocol: message.header.protocol.into(),
        priority,
        link,
        source,
        direct: direct && link.is_some(),
    })
}

fn unspecified(family: AddressFamily) -> Option<IpAddr> {
    if family == AddressFamily::Inet {
        Some(Ipv4Addr::UNSPECIFIED.into())
    } else if family == AddressFamily::Inet6 {
        Some(Ipv6Addr::UNSPECIFIED.into())
    } else {
        None
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    if let RouteAddress::Inet(address) = address {
        Some((*address).into())
    } else if let RouteAddress::Inet6(address) = address {
        Some((*address).into())
    } else {
        None
    }
}

fn path(answer: &RouteNetlinkMessage) -> Option<Path> {
    let RouteNetlinkMessage::NewRoute(message) = answer else {
        return None;
    };
    // An address of this machine, or one that is refused.
    if message.header.kind != RouteType::Unicast {
        return None;
    }
    let mut path = Path::default();
    for attribute in &message.attributes {
        if let RouteAttribute::Oif(index) = attribute {
            path.links.push(*index);
        } else if let RouteAttribute::MultiPath(hops) = attribute {
            path.links.extend(hops.iter().map(|hop| hop.interface_index));
        } else if let RouteAttribute::Metrics(metrics) = attribute {
            path.mtu = metrics.iter().find_map(|metric| {
                if let RouteMetric::Mtu(mtu) = metric { Some(*mtu) } else { None }
            });
        }
    }
    Some(path)
}
