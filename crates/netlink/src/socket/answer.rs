//! What comes back in one datagram.

use std::io;

use netlink_packet_core::{
    NetlinkBuffer, NetlinkDeserializable, NetlinkMessage, NetlinkPayload, NlasIterator,
};

use crate::error::Error;
use crate::request::Request;

/// Messages in one datagram begin at multiples of this many bytes.
const ALIGN_BYTES: usize = 4;

/// Length of the request's header, which an error repeats before its attributes.
const HEADER_BYTES: usize = 16;

/// Attribute of an error that carries the kernel's own words (`NLMSGERR_ATTR_MSG`).
const WORDS: u16 = 1;

/// One message that came back.
pub(super) struct Answer<M> {
    pub(super) sequence: u32,
    pub(super) flags: u16,
    pub(super) body: Body<M>,
}

/// What a message says.
pub(super) enum Body<M> {
    /// An object, or the echo of a change.
    Object(M),
    /// An object that cannot be decoded, or nothing of interest.
    Unreadable,
    /// The end of a dump.
    Done(Result<(), Refusal>),
    /// An acknowledgement, or the reason why not.
    Verdict(Result<(), Refusal>),
}

/// An error number, with the kernel's words if it had some.
pub(super) struct Refusal {
    cause: io::Error,
    words: Option<String>,
}

impl Refusal {
    /// The error that this is for `request`.
    pub(super) fn of<M>(self, request: &Request<M>) -> Error {
        Error { kernel_words: self.words, ..request.failed(self.cause) }
    }
}

/// Splits what one read returned into answers; whatever follows a broken one is left out.
pub(super) fn split<M: NetlinkDeserializable>(mut bytes: &[u8]) -> impl Iterator<Item = Answer<M>> {
    std::iter::from_fn(move || {
        let message = NetlinkBuffer::new_checked(bytes).ok()?;
        let length = usize::try_from(message.length()).ok()?;
        let answer = Answer {
            sequence: message.sequence_number(),
            flags: message.flags(),
            body: NetlinkMessage::deserialize(bytes).map_or(Body::Unreadable, body),
        };
        bytes = bytes.get(length.next_multiple_of(ALIGN_BYTES)..).unwrap_or_default();
        Some(answer)
    })
}

fn body<M>(message: NetlinkMessage<M>) -> Body<M> {
    match message.payload {
        NetlinkPayload::InnerMessage(object) => Body::Object(object),
        NetlinkPayload::Done(done) => Body::Done(verdict(done.code, || words(&done.extended_ack))),
        NetlinkPayload::Error(error) => {
            let words = || words(error.header.get(HEADER_BYTES..)?);
            Body::Verdict(verdict(error.code.map_or(0, i32::from), words))
        }
        NetlinkPayload::Noop | NetlinkPayload::Overrun(_) | _ => Body::Unreadable,
    }
}

fn verdict(code: i32, words: impl FnOnce() -> Option<String>) -> Result<(), Refusal> {
    if code == 0 {
        return Ok(());
    }
    let cause = io::Error::from_raw_os_error(code.saturating_neg());
    Err(Refusal { cause, words: words() })
}

/// The explanation in an extended acknowledgement, if there is one.
fn words(attributes: &[u8]) -> Option<String> {
    let words =
        NlasIterator::new(attributes).flatten().find(|attribute| attribute.kind() == WORDS)?;
    let text = String::from_utf8_lossy(words.value());
    Some(text.trim_end_matches('\0').to_owned())
}
