//! Routes of the routing tables.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::error::Result;
use crate::protocol::Rtnetlink;
use crate::request::Request;
use crate::socket::Socket;

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
    /// How far away the destination is, in the kernel's numbers; 0 is anywhere.
    pub scope: u8,
    /// Rank among routes to the same prefix, lowest first; see [`default_priority`].
    pub priority: u32,
    /// Index of the device; none for a route with several next hops or without any.
    pub link: Option<u32>,
    /// The next hop; none for what is on the link itself.
    pub gateway: Option<IpAddr>,
    /// Source address for the node's own traffic.
    pub source: Option<IpAddr>,
    /// Largest packet on this route, in bytes, if it is not that of the device.
    pub mtu: Option<u32>,
    /// TCP segment size to announce, in bytes, if it does not follow from the MTU.
    pub advmss: Option<u32>,
    /// Whether packets leave on `link` and reach their destination without a gateway.
    pub direct: bool,
}

/// Which routes to list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteFilter {
    /// Those of every table.
    All,
    /// Those of every table that carry this protocol number.
    Protocol(u8),
    /// Those of one table.
    Table(u32),
    /// Those of the main table that lead to the device with this index.
    Device(u32),
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

impl Socket<Rtnetlink> {
    /// Lists routes, both families.
    ///
    /// # Errors
    ///
    /// When the kernel refuses, or the routes change faster than they can be listed.
    pub fn routes(&mut self, filter: RouteFilter) -> Result<Vec<Route>> {
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            match filter {
                RouteFilter::All => {}
                RouteFilter::Protocol(number) => {
                    message.header.protocol = RouteProtocol::from(number);
                }
                RouteFilter::Table(number) => {
                    message.attributes = vec![RouteAttribute::Table(number)];
                }
                RouteFilter::Device(index) => {
                    message.attributes =
                        vec![RouteAttribute::Table(MAIN_TABLE), RouteAttribute::Oif(index)];
                }
            }
            let request = Request::new("list", "routes", 0, RouteNetlinkMessage::GetRoute(message));
            match self.dump(&request) {
                Ok(found) => routes.extend(found.iter().filter_map(parse)),
                // A kernel that has never seen a route in the table says that there is no such
                // table.
                Err(error) if error.is_missing() => {}
                Err(error) => return Err(error),
            }
        }
        routes.retain(|route| match filter {
            RouteFilter::All => true,
            RouteFilter::Protocol(number) => route.protocol == number,
            RouteFilter::Table(number) => route.table == number,
            RouteFilter::Device(index) => route.table == MAIN_TABLE && route.link == Some(index),
        });
        Ok(routes)
    }
}

fn parse(answer: &RouteNetlinkMessage) -> Option<Route> {
    let RouteNetlinkMessage::NewRoute(message) = answer else {
        return None;
    };
    Route::read(message)
}

impl Route {
    /// The route that a message of the kernel describes; none for families other than IP.
    #[must_use]
    pub fn read(message: &RouteMessage) -> Option<Self> {
        let header = &message.header;
        // The kernel leaves the destination of a default route out.
        let everywhere = unspecified(header.address_family)?;
        let mut route = Self {
            destination: IpNet::new(everywhere, header.destination_prefix_length).ok()?,
            table: header.table.into(),
            protocol: header.protocol.into(),
            scope: header.scope.into(),
            priority: 0,
            link: None,
            gateway: None,
            source: None,
            mtu: None,
            advmss: None,
            direct: header.kind == RouteType::Unicast,
        };
        for attribute in &message.attributes {
            if let RouteAttribute::Destination(address) = attribute {
                let length = header.destination_prefix_length;
                route.destination = IpNet::new(ip(address)?, length).ok()?;
            } else if let RouteAttribute::Table(number) = attribute {
                route.table = *number;
            } else if let RouteAttribute::Priority(rank) = attribute {
                route.priority = *rank;
            } else if let RouteAttribute::Oif(index) = attribute {
                route.link = Some(*index);
            } else if let RouteAttribute::PrefSource(address) = attribute {
                route.source = ip(address);
            } else if let RouteAttribute::Metrics(metrics) = attribute {
                route.read_metrics(metrics);
            } else if let RouteAttribute::Gateway(address) = attribute {
                route.gateway = ip(address);
                route.direct = false;
            } else if let RouteAttribute::Via(_)
            | RouteAttribute::MultiPath(_)
            | RouteAttribute::Encap(_)
            | RouteAttribute::NhId(_) = attribute
            {
                route.direct = false;
            }
        }
        route.direct &= route.link.is_some();
        Some(route)
    }

    fn read_metrics(&mut self, metrics: &[RouteMetric]) {
        for metric in metrics {
            if let RouteMetric::Mtu(mtu) = metric {
                self.mtu = Some(*mtu);
            } else if let RouteMetric::Advmss(advmss) = metric {
                self.advmss = Some(*advmss);
            }
        }
    }
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
