//! Requests for which rtnetlink has no method: consistent dumps, and many look-ups at once.
//!
//! Owns no protocol: rtnetlink numbers the requests, sends them and sorts the answers. What it does
//! not do is tell an interrupted dump from a complete one.

use std::io;

use futures_util::{StreamExt as _, stream};
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::{Error, Handle};

/// How often an interrupted dump is started over before the caller hears of it.
const DUMP_ATTEMPTS: usize = 10;

/// Look-ups under way at once. The answers to one occupy up to 4 KiB of the default 208 KiB receive
/// buffer, and an answer that does not fit is lost.
const WINDOW: usize = 32;

/// Reads every object that `request` selects, from one consistent state of the kernel.
pub(super) async fn dump(
    handle: &Handle,
    request: RouteNetlinkMessage,
) -> io::Result<Vec<RouteNetlinkMessage>> {
    for _ in 0..DUMP_ATTEMPTS {
        if let Some(messages) = dump_once(handle.clone(), request.clone()).await? {
            return Ok(messages);
        }
    }
    Err(io::Error::new(
        io::ErrorKind::Interrupted,
        format!("the objects changed during each of {DUMP_ATTEMPTS} dumps"),
    ))
}

/// None when the objects changed meanwhile.
async fn dump_once(
    mut handle: Handle,
    request: RouteNetlinkMessage,
) -> io::Result<Option<Vec<RouteNetlinkMessage>>> {
    let mut answers =
        handle.request(with_flags(request, NLM_F_REQUEST | NLM_F_DUMP)).map_err(io_error)?;
    let mut messages = Vec::new();
    let mut interrupted = false;
    while let Some(answer) = answers.next().await {
        // kernel: the mark may come on any message, and on the last one alone.
        interrupted |= answer.header.flags & NLM_F_DUMP_INTR != 0;
        if let NetlinkPayload::InnerMessage(message) = answer.payload {
            messages.push(message);
        } else if let NetlinkPayload::Error(error) = answer.payload {
            return Err(error.into());
        } else if let NetlinkPayload::Done(done) = answer.payload {
            return match done.code {
                0 => Ok((!interrupted).then_some(messages)),
                code => Err(io::Error::from_raw_os_error(code.saturating_neg())),
            };
        }
    }
    Err(io_error(Error::RequestFailed))
}

/// Looks every request up, in order; a refused one yields none.
pub(super) async fn look_up(
    handle: &Handle,
    requests: impl Iterator<Item = RouteNetlinkMessage>,
) -> io::Result<Vec<Option<RouteNetlinkMessage>>> {
    let lookups = requests.map(|request| look_up_one(handle.clone(), request));
    let answers: Vec<_> = stream::iter(lookups).buffered(WINDOW).collect().await;
    answers.into_iter().collect()
}

async fn look_up_one(
    mut handle: Handle,
    request: RouteNetlinkMessage,
) -> io::Result<Option<RouteNetlinkMessage>> {
    // rtnetlink skips an answer that it cannot read, and would wait for another. The acknowledgement
    // ends the request in any case.
    let mut answers =
        handle.request(with_flags(request, NLM_F_REQUEST | NLM_F_ACK)).map_err(io_error)?;
    let mut found = None;
    while let Some(answer) = answers.next().await {
        if let NetlinkPayload::InnerMessage(message) = answer.payload {
            found = Some(message);
        }
    }
    Ok(found)
}

fn with_flags(request: RouteNetlinkMessage, flags: u16) -> NetlinkMessage<RouteNetlinkMessage> {
    let mut message = NetlinkMessage::from(request);
    message.header.flags = flags;
    message
}

/// What the kernel said about a change.
pub(super) fn verdict(result: Result<(), Error>) -> io::Result<()> {
    result.map_err(io_error)
}

/// Forgives a removal that somebody else did first.
pub(super) fn unless_gone(result: Result<(), Error>) -> io::Result<()> {
    unless(result, &[libc::ENODEV, libc::ENOENT, libc::ESRCH, libc::EADDRNOTAVAIL])
}

/// Forgives the error numbers in `harmless`.
pub(super) fn unless(result: Result<(), Error>, harmless: &[i32]) -> io::Result<()> {
    match verdict(result) {
        Err(error) if error.raw_os_error().is_some_and(|code| harmless.contains(&code)) => Ok(()),
        other => other,
    }
}

/// The kernel's error number, where there is one.
fn io_error(error: Error) -> io::Error {
    if let Error::NetlinkError(refusal) = error { refusal.into() } else { io::Error::other(error) }
}
