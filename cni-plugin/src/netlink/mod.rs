//! What the plugin changes in the kernel's network configuration, as requests.
//!
//! Owns the messages that only plugging and unplugging a pod needs; asking and reading are those of
//! [`culvert_netlink`]. The host and the pod are two sockets side by side, so each call says where
//! it acts.

mod address;
mod delete;
mod link;
mod route;
mod rule;

use culvert_netlink::Rtnetlink;
pub(crate) use culvert_netlink::{Address, Detection, Error, Link, RouteFilter, Rule};
use netlink_packet_route::RouteNetlinkMessage;

pub(crate) use self::address::add_address;
pub(crate) use self::delete::delete_link;
pub(crate) use self::link::{
    PortChange, Veth, announce, create_veth, index_of, set_alias, set_up, start_port,
};
pub(crate) use self::route::{Route, SCOPE_LINK, add_route};
pub(crate) use self::rule::{add_rule, delete_rule};

/// A socket in one network namespace: the one that the opening thread was in.
pub(crate) type Socket = culvert_netlink::Socket<Rtnetlink>;

/// A request to change something.
pub(crate) type Request = culvert_netlink::Request<RouteNetlinkMessage>;
