//! What the daemon asks and changes in this network namespace over route netlink.
//!
//! Owns the changes that only the daemon makes, built by `rtnetlink`; the socket and what is read
//! are those of `culvert-netlink`. Never decides what should be. Every call blocks, so that it runs
//! on the thread of the reconciler, never on the control runtime.

mod address;
mod events;
mod link;
mod route;

use culvert_netlink::{
    Address, Flow, Link, Request, Result, Route, RouteAnswer, RouteFilter, Rtnetlink, Socket,
};
use overlay_proto::Mac;
use rtnetlink::packet_route::RouteNetlinkMessage;

pub use self::events::{Notice, Notices, Watched};
pub use self::link::LinkChange;

/// A connection to the kernel's network configuration.
pub struct Netlink {
    socket: Socket<Rtnetlink>,
}

impl Netlink {
    /// Connects in the network namespace of this thread.
    ///
    /// # Errors
    ///
    /// When the socket cannot be opened.
    pub fn open() -> Result<Self> {
        Ok(Self { socket: Socket::open()? })
    }

    /// Lists the links.
    ///
    /// # Errors
    ///
    /// When the kernel refuses, or the links change faster than they can be listed.
    pub fn links(&mut self) -> Result<Vec<Link>> {
        self.socket.links()
    }

    /// Lists the addresses of every link, both families.
    ///
    /// # Errors
    ///
    /// When the kernel refuses, or the addresses change faster than they can be listed.
    pub fn addresses(&mut self) -> Result<Vec<Address>> {
        self.socket.addresses()
    }

    /// Lists the routes of every table that carry `protocol`.
    ///
    /// # Errors
    ///
    /// When the kernel refuses, or the routes change faster than they can be listed.
    pub fn routes_of(&mut self, protocol: u8) -> Result<Vec<Route>> {
        self.socket.routes(RouteFilter::Protocol(protocol))
    }

    /// Lists the routes of one table, both families.
    ///
    /// # Errors
    ///
    /// When the kernel refuses, or the routes change faster than they can be listed.
    pub fn routes_in(&mut self, table: u32) -> Result<Vec<Route>> {
        self.socket.routes(RouteFilter::Table(table))
    }

    /// Lists the routes of the main table to one device, both families.
    ///
    /// # Errors
    ///
    /// When the kernel refuses, or the routes change faster than they can be listed.
    pub fn routes_by(&mut self, link: u32) -> Result<Vec<Route>> {
        self.socket.routes(RouteFilter::Device(link))
    }

    /// Asks how the kernel would route each packet, in order.
    ///
    /// # Errors
    ///
    /// When the socket fails, not when a destination cannot be reached.
    pub fn look_up_routes(
        &mut self,
        flows: impl IntoIterator<Item = Flow>,
    ) -> Result<Vec<RouteAnswer>> {
        self.socket.look_up_routes(flows)
    }

    /// Whether the bridge with index `bridge` delivers frames to `mac` on this machine.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn delivers(&mut self, bridge: u32, mac: Mac) -> Result<bool> {
        self.socket.delivers(bridge, mac)
    }

    /// Has the bridge with index `bridge`, called `name`, deliver frames to `mac` on this machine.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn deliver(&mut self, bridge: u32, name: &str, mac: Mac) -> Result<()> {
        self.change(culvert_netlink::deliver(bridge, name, mac))
    }

    fn change(&mut self, request: Request<RouteNetlinkMessage>) -> Result<()> {
        self.socket.execute(request)
    }

    /// A change that somebody else may have made first by removing the object.
    fn change_unless_gone(&mut self, request: Request<RouteNetlinkMessage>) -> Result<()> {
        match self.change(request) {
            Err(error) if error.is_missing() => Ok(()),
            other => other,
        }
    }
}
