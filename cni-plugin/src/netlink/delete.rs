//! Removing a device without waiting for what the kernel does after that.

use std::io;
use std::os::fd::AsFd as _;
use std::time::Duration;

use netlink_packet_core::{NLM_F_ACK, NLM_F_ECHO};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};

use super::{Error, Request, Socket};
use crate::fault::Step;
use crate::linger::Lingerer;

/// How often to look whether a process that was left behind still is.
const PAUSE: Duration = Duration::from_secs(1);

/// How many of these pauses a removal may take: the kernel lets one after the other change devices,
/// and on a node whose pods all go at once there may be hundreds before this one.
const PAUSES: usize = 60;

/// Removes a device and, if it is one end of a pair, the other; says whether there was one.
///
/// kernel: it takes both devices off all lists, echoes the removal (since 6.2), lets go of its
/// lock, and then waits some 20 ms for a grace period before it acknowledges. A process that is
/// left behind does that waiting, and tells `reached` how far it has come.
pub(crate) fn delete_link(
    socket: &mut Socket,
    name: &str,
    reached: &dyn Fn(Step),
) -> Result<bool, Error> {
    let mut message = LinkMessage::default();
    message.attributes = vec![LinkAttribute::IfName(name.to_owned())];
    let message = RouteNetlinkMessage::DelLink(message);
    let request = Request::new("delete", format!("device {name}"), 0, message);
    match execute_early(socket, &request, reached) {
        Ok(()) => Ok(true),
        Err(error) if error.is_missing() => Ok(false),
        Err(error) => Err(error),
    }
}

/// Has a process that is left behind send a request, and waits for its echo or its acknowledgement,
/// whichever comes first.
fn execute_early(
    socket: &mut Socket,
    request: &Request,
    reached: &dyn Fn(Step),
) -> Result<(), Error> {
    let prepared = socket.prepare(request, NLM_F_ACK | NLM_F_ECHO);
    let lingerer = Lingerer::start(&[socket.as_fd()], || {
        reached(Step::LeftBehind);
        // The socket is the same, so the kernel's refusal reaches the parent.
        let _ = socket.send(&prepared);
        reached(Step::Lingered);
    });
    let lingerer = match lingerer {
        Ok(lingerer) => Some(lingerer),
        // There is no process to leave behind, so we wait ourselves.
        Err(_) => {
            socket.send(&prepared).map_err(|error| request.failed(error))?;
            None
        }
    };
    loop {
        if let Some(lingerer) = lingerer {
            wait_for(socket, lingerer).map_err(|error| request.failed(error))?;
        }
        if socket.is_answered(request, &prepared)? {
            return Ok(());
        }
    }
}

/// Waits for an answer to what `lingerer` sends, unless somebody kills it before it does.
fn wait_for(socket: &Socket, lingerer: Lingerer) -> io::Result<()> {
    for _pause in 0..PAUSES {
        if socket.is_readable(PAUSE)? {
            return Ok(());
        }
        // What it did before it ended has been answered by now.
        if lingerer.has_ended() && !socket.is_readable(Duration::ZERO)? {
            return Err(io::Error::other("the process that was to do it was killed"));
        }
    }
    let text = format!("the kernel did not do it within {:?}", PAUSE * PAUSES as u32);
    Err(io::Error::new(io::ErrorKind::TimedOut, text))
}
