//! The protocols over netlink that are spoken here.

use std::fmt::Debug;

use netlink_packet_core::{NetlinkDeserializable, NetlinkSerializable};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;

/// A protocol over netlink.
pub trait Protocol {
    /// Its number (`NETLINK_*`).
    const NUMBER: isize;

    /// What its socket is called in an error, with its article.
    const SOCKET: &'static str;

    /// Bytes of requests that the kernel may have to take at once; the default is some 200 KiB.
    const SEND_BYTES: Option<usize> = None;

    /// A request or an answer.
    type Message: NetlinkSerializable + NetlinkDeserializable + Clone + Debug;
}

/// Links, addresses, routes, neighbours.
#[derive(Debug)]
pub enum Rtnetlink {}

impl Protocol for Rtnetlink {
    const NUMBER: isize = NETLINK_ROUTE;
    const SOCKET: &'static str = "a netlink socket";
    type Message = RouteNetlinkMessage;
}
