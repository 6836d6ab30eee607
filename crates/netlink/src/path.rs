//! Asking the kernel how it would route a packet.

use std::net::IpAddr;

use netlink_packet_route::route::{RouteAttribute, RouteFlags, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::protocol::Rtnetlink;
use crate::request::Request;
use crate::route::Route;
use crate::socket::Socket;

/// The number of UDP in the headers of IP.
const UDP: u8 = 17;

/// A packet that is to be routed: what rules and routes may decide by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Where it goes.
    pub destination: IpAddr,
    /// Where it comes from, unless the kernel is to choose.
    pub source: Option<IpAddr>,
    /// Index of the device it arrives by; none if this machine sends it.
    pub incoming: Option<u32>,
    /// UDP port it goes to, if it is UDP.
    pub udp_port: Option<u16>,
    /// The mark of the socket that sends it; 0 is none.
    pub mark: u32,
}

impl Flow {
    /// A packet of this machine to `destination`.
    #[must_use]
    pub const fn to(destination: IpAddr) -> Self {
        Self { destination, source: None, incoming: None, udp_port: None, mark: 0 }
    }
}

/// What the kernel would do with a packet.
#[derive(Debug)]
pub enum RouteAnswer {
    /// Send it on.
    Out(Path),
    /// Deliver it on this machine.
    Local,
    /// Drop it, for this reason.
    Refused(Error),
}

/// Why the kernel routes a packet nowhere, in words of `ip route`.
#[must_use]
pub fn route_refusal(error: &Error) -> String {
    match error.errno() {
        // kernel: it says the same of a packet whose source no route leads back to by that device.
        Some(Errno::INVAL) => {
            "a route or rule says blackhole, or none leads back to the sender".to_owned()
        }
        Some(Errno::HOSTUNREACH) => {
            "a route or rule says unreachable, or nobody is there".to_owned()
        }
        Some(Errno::ACCESS) => "a route or rule says prohibit".to_owned(),
        Some(Errno::NETUNREACH) => "there is no route".to_owned(),
        Some(_) | None => error.cause.to_string(),
    }
}

/// The route that the kernel would take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// The route.
    pub route: Route,
    /// Indexes of the devices that packets may leave by.
    pub links: Vec<u32>,
}

impl Socket<Rtnetlink> {
    /// Asks how each packet would be routed, in order.
    ///
    /// What the kernel learned about a path's MTU from ICMP does not count: the answer describes
    /// the routing table, not its exceptions.
    ///
    /// # Errors
    ///
    /// When the socket fails, not when a destination cannot be reached.
    pub fn look_up_routes(
        &mut self,
        flows: impl IntoIterator<Item = Flow>,
    ) -> Result<Vec<RouteAnswer>> {
        let requests: Vec<_> = flows.into_iter().map(|flow| look_up(&flow)).collect();
        let answers = self.query_all(&requests)?;
        Ok(answers
            .into_iter()
            .map(|answer| answer.map_or_else(RouteAnswer::Refused, read))
            .collect())
    }
}

fn look_up(flow: &Flow) -> Request<RouteNetlinkMessage> {
    let mut message = RouteMessage::default();
    (message.header.address_family, message.header.destination_prefix_length) =
        match flow.destination {
            IpAddr::V4(_) => (AddressFamily::Inet, 32),
            IpAddr::V6(_) => (AddressFamily::Inet6, 128),
        };
    message.header.flags = RouteFlags::FibMatch;
    // kernel: IPv4 says which table it was only if asked, IPv6 always, and takes no such flag.
    if flow.destination.is_ipv4() {
        message.header.flags |= RouteFlags::LookupTable;
    }
    message.attributes = vec![RouteAttribute::Destination(flow.destination.into())];
    if let Some(source) = flow.source {
        message.header.source_prefix_length = message.header.destination_prefix_length;
        message.attributes.push(RouteAttribute::Source(source.into()));
    }
    message.attributes.extend(flow.incoming.map(RouteAttribute::Iif));
    if let Some(port) = flow.udp_port {
        message.attributes.extend([RouteAttribute::IpProto(UDP), RouteAttribute::Dport(port)]);
    }
    if flow.mark != 0 {
        message.attributes.push(RouteAttribute::Mark(flow.mark));
    }
    let target = format!("the route to {}", flow.destination);
    Request::new("look up", target, 0, RouteNetlinkMessage::GetRoute(message))
}

fn read(answer: RouteNetlinkMessage) -> RouteAnswer {
    let unreadable = || {
        let cause = std::io::Error::from(std::io::ErrorKind::InvalidData);
        RouteAnswer::Refused(Error::new("read", "a route", cause))
    };
    let RouteNetlinkMessage::NewRoute(message) = answer else {
        return unreadable();
    };
    if message.header.kind == RouteType::Local {
        return RouteAnswer::Local;
    }
    let Some(route) = Route::read(&message) else {
        return unreadable();
    };
    // kernel: IPv6 answers with the route that drops the packet, IPv4 with its error number.
    if message.header.kind != RouteType::Unicast {
        let kind = format!("{:?}", message.header.kind).to_lowercase();
        let text = format!("there is a route of type {kind}");
        let target = format!("packets to {}", route.destination);
        return RouteAnswer::Refused(Error::new("send", target, std::io::Error::other(text)));
    }
    let mut links: Vec<u32> = route.link.into_iter().collect();
    for attribute in &message.attributes {
        if let RouteAttribute::MultiPath(hops) = attribute {
            links.extend(hops.iter().map(|hop| hop.interface_index));
        }
    }
    RouteAnswer::Out(Path { route, links })
}
