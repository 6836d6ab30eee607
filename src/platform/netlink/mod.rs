//! Links, addresses and routes of this network namespace, over route netlink.
//!
//! Turns what the daemon wants into rtnetlink's requests, and what comes back into plain values. Never
//! decides what should be. Runs on the control runtime, one request at a time, with the task that
//! serves the socket; the kernel answers only what was asked, so nothing queues.

mod address;
mod events;
mod link;
mod request;
mod route;

use std::io;
use std::net::IpAddr;

use rtnetlink::Handle;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::sys::AsyncSocket as _;
use tokio::task::JoinHandle;

pub use self::address::Address;
pub use self::events::{Notice, Notices, Watched};
pub use self::link::{Link, LinkChange, LinkKind, Mac};
pub use self::route::{MAIN_TABLE, Path, Route, default_priority};
use super::{Error, Result};

/// A connection to the kernel's network configuration.
pub struct Netlink {
    handle: Handle,
    connection: JoinHandle<()>,
}

impl Netlink {
    /// Connects, on the current tokio runtime and in the network namespace of this thread.
    ///
    /// # Errors
    ///
    /// When the socket cannot be opened.
    pub fn open() -> Result<Self> {
        let connect = || -> io::Result<Self> {
            let (mut connection, handle, _unsolicited) = rtnetlink::new_connection()?;
            // The mark of an interrupted dump may come with its end alone.
            connection.set_forward_done(true);
            // Filters of dumps work only with strict checking (Linux 4.20); callers filter again, so
            // an older kernel costs time, not correctness.
            let _unsupported =
                connection.socket_mut().socket_ref().set_netlink_get_strict_chk(true);
            Ok(Self { handle, connection: tokio::spawn(connection) })
        };
        connect().map_err(|error| Error::new("open", "netlink socket", error))
    }
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}
