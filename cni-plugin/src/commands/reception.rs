//! Waiting until a pod takes packets for its IPv6 addresses.
//!
//! kernel: an IPv6 address that was added is there at once, even as a source; but a work queue
//! makes the route by which packets to it are delivered, and joins the group in which neighbours
//! ask for it. The queue waits for the lock that all changes of devices take, tens of milliseconds
//! on a busy node. Until then the pod does not hear who asks for it, and drops the answers to what
//! it asks itself; and a neighbour asks again after a second. Seen on 6.18.

use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use culvert_netlink::{Flow, RouteAnswer};

use crate::error::Error;
use crate::netlink::Socket;

/// How long to wait, at most: the node is then so busy that a lost second is the least of its pods'
/// troubles.
const ATTEMPTS: u32 = 5000;
const PAUSE: Duration = Duration::from_millis(1);

/// Waits until the kernel delivers packets to each IPv6 address among `addresses`; false if it
/// takes too long.
pub(super) fn wait(
    pod: &mut Socket,
    addresses: impl IntoIterator<Item = IpAddr>,
) -> Result<bool, Error> {
    let flows: Vec<Flow> = addresses.into_iter().filter(IpAddr::is_ipv6).map(Flow::to).collect();
    for _attempt in 0..ATTEMPTS {
        let answers = pod.look_up_routes(flows.iter().copied())?;
        if answers.iter().all(|way| matches!(way, RouteAnswer::Local)) {
            return Ok(true);
        }
        thread::sleep(PAUSE);
    }
    Ok(false)
}
