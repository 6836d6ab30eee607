//! A blocking netlink client: one socket type for every protocol, and what the kernel says about
//! links, addresses and routes as plain values.
//!
//! Owns requests and their acknowledgements, dumps of one consistent state, deadlines, and errors
//! that name operation and object. The daemon, the plugin and the nftables crate all talk to the
//! kernel through it. Never decides what should be: callers bring the changes, as messages of
//! `netlink-packet-route` or of their own.
//!
//! Every call blocks the calling thread. An answer that does not come ends the call after the
//! socket's patience. What no deadline can end is a system call that waits inside the kernel for a
//! lock that another process holds: who must not wait for that makes the call on a thread of its
//! own.

#![forbid(unsafe_code)]

mod address;
mod error;
mod forwarding;
mod link;
mod namespace;
mod neighbour;
mod path;
mod protocol;
mod request;
mod route;
mod rule;
mod rule_line;
mod socket;

pub use address::{Address, Detection};
pub use error::{Error, Result};
pub use forwarding::deliver;
pub use link::{BridgePort, Link, LinkKind, Peer, link_by_name};
pub use neighbour::{FixedNeighbour, Neighbour, Standing, forget_neighbour};
pub use path::{Flow, Path, RouteAnswer, route_refusal};
pub use protocol::{Protocol, Rtnetlink};
pub use request::Request;
pub use route::{MAIN_TABLE, Route, RouteFilter, default_priority};
pub use rule::Rule;
pub use rule_line::RuleLine;
pub use socket::{Prepared, Socket};
