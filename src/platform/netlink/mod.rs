//! What the daemon asks and changes in this network namespace over route netlink.
//!
//! Owns the changes that only the daemon makes, built by `rtnetlink`; the socket and what is read
//! are those of `culvert-netlink`. Never decides what should be. Every call blocks, so that it runs
//! on the thread of the reconciler, never on the control runtime.

mod address;
mod events;
mod link;
mod packet_log;
mod route;

use std::net::IpAddr;

use culvert_netlink::{Request, Result, Rtnetlink, Socket};
use overlay_proto::Mac;
use rtnetlink::packet_route::RouteNetlinkMessage;

pub(crate) use self::events::{Notice, Notices, Watched};
pub(crate) use self::link::LinkChange;
pub(crate) use self::packet_log::{Logged, PacketLog};

/// A connection to the kernel's network configuration.
pub(crate) struct Netlink {
    /// What is asked goes through this one.
    pub(crate) socket: Socket<Rtnetlink>,
}

impl Netlink {
    /// Connects in the network namespace of this thread.
    ///
    /// # Errors
    ///
    /// When the socket cannot be opened.
    pub(crate) fn open() -> Result<Self> {
        Ok(Self { socket: Socket::open()? })
    }

    /// Has the bridge with index `bridge`, called `name`, deliver frames to `mac` on this machine.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub(crate) fn deliver(&mut self, bridge: u32, name: &str, mac: Mac) -> Result<()> {
        self.change(culvert_netlink::deliver(bridge, name, mac))
    }

    /// Forgets the neighbour `address` behind the device with index `link`, called `name`; one that
    /// is forgotten already is no error.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub(crate) fn forget_neighbour(
        &mut self,
        link: u32,
        name: &str,
        address: IpAddr,
    ) -> Result<()> {
        self.change_unless_gone(culvert_netlink::forget_neighbour(link, name, address))
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
