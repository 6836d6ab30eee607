//! A small blocking netlink client for the handful of calls that plugging a pod needs.
//!
//! Owns one rtnetlink socket, and so one network namespace: the one that the opening thread was in.
//! The host and the pod are two sockets side by side, so each call says where it acts. Typed calls
//! only (`link`, `address`, `route`); every request is acknowledged by the kernel and the answer
//! checked. The kernel answers while it handles the request, so no call waits for anything else.

use std::fmt;
use std::io;
use std::os::fd::AsFd as _;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_ECHO, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload, NlasIterator,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket as KernelSocket, SocketAddr};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::RecvFlags;
use thiserror::Error;

use crate::fault::Step;
use crate::linger::Lingerer;

mod address;
mod link;
mod route;
mod survey;

pub(crate) use self::address::{Detection, add_address};
pub(crate) use self::link::{Link, PortChange, Veth, announce, set_up};
pub(crate) use self::route::{Route, add_route};
pub(crate) use self::survey::Pair;

/// Room for one answer. The kernel fits dumps into what the reader offers, up to this much.
const BUFFER_BYTES: usize = 32 * 1024;

/// How often a dump is repeated when the kernel says that the tables changed meanwhile.
const DUMP_ATTEMPTS: usize = 5;

/// How often a dump is tried whose answers need not be of one moment.
const CHANGING_DUMP_ATTEMPTS: usize = 3;

/// How often to look whether a process that was left behind still is.
const LINGERER_PAUSE: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// Length of the request's header, which an error repeats before its attributes.
const HEADER_BYTES: usize = 16;

/// Attribute of an error that carries the kernel's own words.
const NLMSGERR_ATTR_MSG: u16 = 0x1;

/// A refused or failed request: what was attempted, on which object, and why not.
#[derive(Debug, Error)]
#[error("cannot {op} {target}: {errno}{}", explain(.kernel_words.as_deref()))]
pub(crate) struct Error {
    op: &'static str,
    target: String,
    kernel_words: Option<String>,
    errno: io::Error,
}

fn explain(kernel_words: Option<&str>) -> String {
    kernel_words.map_or_else(String::new, |words| format!(" ({words})"))
}

impl Error {
    /// Whether the object to change is not there.
    pub(crate) fn is_not_found(&self) -> bool {
        self.errno() == Some(rustix::io::Errno::NODEV)
    }

    /// The number of the kernel's refusal, if it was the kernel that refused.
    pub(crate) fn errno(&self) -> Option<rustix::io::Errno> {
        rustix::io::Errno::from_io_error(&self.errno)
    }

    /// Whether the object to make is there already.
    pub(crate) fn is_exists(&self) -> bool {
        self.errno.kind() == io::ErrorKind::AlreadyExists
    }
}

/// One request and what it is about.
#[derive(Debug)]
pub(crate) struct Request {
    op: &'static str,
    target: String,
    flags: u16,
    message: RouteNetlinkMessage,
}

impl Request {
    fn new(
        op: &'static str,
        target: impl fmt::Display,
        flags: u16,
        message: RouteNetlinkMessage,
    ) -> Self {
        Self { op, target: target.to_string(), flags, message }
    }

    fn failed(&self, errno: io::Error) -> Error {
        Error { op: self.op, target: self.target.clone(), kernel_words: None, errno }
    }
}

/// An rtnetlink socket in one network namespace.
pub(crate) struct Socket {
    kernel: KernelSocket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    /// Opens a socket in the network namespace of the calling thread.
    pub(crate) fn open() -> Result<Self, Error> {
        let open = || {
            let mut kernel = KernelSocket::new(NETLINK_ROUTE)?;
            kernel.bind(&SocketAddr::new(0, 0))?;
            // Errors then carry the kernel's words instead of a copy of the request.
            kernel.set_ext_ack(true)?;
            kernel.set_cap_ack(true)?;
            Ok(kernel)
        };
        let kernel = open().map_err(|errno| Error {
            op: "open",
            target: "a netlink socket".to_owned(),
            kernel_words: None,
            errno,
        })?;
        Ok(Self { kernel, sequence: 0, buffer: Vec::with_capacity(BUFFER_BYTES) })
    }

    /// Sends one request and waits for its acknowledgement.
    pub(crate) fn execute(&mut self, request: Request) -> Result<(), Error> {
        self.execute_all(vec![request])
    }

    /// Sends all requests at once and waits for every acknowledgement.
    ///
    /// The kernel works through them in order and goes on after a refusal; the first one is
    /// reported.
    pub(crate) fn execute_all(&mut self, requests: Vec<Request>) -> Result<(), Error> {
        let Some(first_request) = requests.first() else {
            return Ok(());
        };
        let first_sequence = self.sequence.wrapping_add(1);
        let mut bytes = Vec::new();
        for request in &requests {
            self.append(&mut bytes, request, NLM_F_ACK | request.flags);
        }
        self.send(&bytes).map_err(|errno| first_request.failed(errno))?;
        let mut outcome = Ok(());
        let mut pending = requests.len();
        while pending > 0 {
            let answers = self.receive().map_err(|errno| first_request.failed(errno))?;
            for answer in answers {
                let position = answer.header.sequence_number.wrapping_sub(first_sequence);
                let Some(request) = requests.get(position as usize) else {
                    continue;
                };
                let NetlinkPayload::Error(verdict) = answer.payload else {
                    continue;
                };
                pending -= 1;
                if outcome.is_ok() && verdict.code.is_some() {
                    outcome = Err(Error {
                        kernel_words: kernel_words(&verdict.header),
                        ..request.failed(verdict.to_io())
                    });
                }
            }
        }
        outcome
    }

    /// Has a process that is left behind send a request, and waits for its echo or its
    /// acknowledgement, whichever comes first.
    fn execute_early(&mut self, request: &Request, reached: &dyn Fn(Step)) -> Result<(), Error> {
        let failed = |errno| request.failed(errno);
        let mut bytes = Vec::new();
        let sequence = self.append(&mut bytes, request, NLM_F_ACK | NLM_F_ECHO | request.flags);
        let lingerer = Lingerer::start(&[self.kernel.as_fd()], || {
            reached(Step::LeftBehind);
            // The socket is the same, so the kernel's refusal reaches the parent.
            let _ = self.send(&bytes);
            reached(Step::Lingered);
        });
        let lingerer = match lingerer {
            Ok(lingerer) => Some(lingerer),
            // Nobody to leave behind, so we wait ourselves.
            Err(_) => {
                self.send(&bytes).map_err(failed)?;
                None
            }
        };
        loop {
            if let Some(lingerer) = lingerer {
                self.wait_for(lingerer).map_err(failed)?;
            }
            for answer in self.receive().map_err(failed)? {
                if answer.header.sequence_number != sequence {
                    continue;
                }
                let NetlinkPayload::Error(verdict) = answer.payload else {
                    return Ok(());
                };
                return match verdict.code {
                    None => Ok(()),
                    Some(_) => Err(Error {
                        kernel_words: kernel_words(&verdict.header),
                        ..failed(verdict.to_io())
                    }),
                };
            }
        }
    }

    /// Waits for an answer to what `lingerer` sends, unless somebody kills it before it does.
    fn wait_for(&self, lingerer: Lingerer) -> io::Result<()> {
        let is_answered = |pause: &Timespec| {
            let mut sources = [PollFd::new(&self.kernel, PollFlags::IN)];
            match poll(&mut sources, Some(pause)) {
                Ok(ready) => Ok(ready > 0),
                Err(rustix::io::Errno::INTR) => Ok(false),
                Err(error) => Err(io::Error::from(error)),
            }
        };
        while !is_answered(&LINGERER_PAUSE)? {
            // What it did before it ended has been answered by now.
            if lingerer.has_ended() && !is_answered(&Timespec::default())? {
                return Err(io::Error::other("the process that was to do it was killed"));
            }
        }
        Ok(())
    }

    /// Sends a query for one object and returns the answer.
    fn query(&mut self, request: &Request) -> Result<RouteNetlinkMessage, Error> {
        let failed = |errno| request.failed(errno);
        let mut bytes = Vec::new();
        let sequence = self.append(&mut bytes, request, request.flags);
        self.send(&bytes).map_err(failed)?;
        loop {
            for answer in self.receive().map_err(failed)? {
                if answer.header.sequence_number != sequence {
                    continue;
                }
                if let NetlinkPayload::InnerMessage(message) = answer.payload {
                    return Ok(message);
                }
                if let NetlinkPayload::Error(verdict) = answer.payload {
                    return Err(Error {
                        kernel_words: kernel_words(&verdict.header),
                        ..failed(verdict.to_io())
                    });
                }
            }
        }
    }

    /// Sends a query for all objects of a kind, and puts up with changes meanwhile.
    ///
    /// What was there all the time is among the answers; what came or went meanwhile may be, and an
    /// object may be there several times.
    ///
    /// kernel: devices are listed by their index since 6.8, so that one attempt has all that stayed.
    /// Before, one that went could hide another of the same hash bucket, in that one attempt.
    fn dump_despite_changes(
        &mut self,
        request: &Request,
    ) -> Result<Vec<RouteNetlinkMessage>, Error> {
        let mut all = Vec::new();
        for _ in 0..CHANGING_DUMP_ATTEMPTS {
            let (messages, is_whole) = self.dump_once(request)?;
            all.extend(messages);
            if is_whole {
                break;
            }
        }
        Ok(all)
    }

    /// Sends a query for all objects of a kind and returns the answers.
    fn dump(&mut self, request: &Request) -> Result<Vec<RouteNetlinkMessage>, Error> {
        for _ in 0..DUMP_ATTEMPTS {
            let (messages, is_whole) = self.dump_once(request)?;
            if is_whole {
                return Ok(messages);
            }
        }
        Err(request.failed(io::Error::from(io::ErrorKind::Interrupted)))
    }

    /// One attempt at a dump; false when the kernel's tables changed while it went on.
    fn dump_once(&mut self, request: &Request) -> Result<(Vec<RouteNetlinkMessage>, bool), Error> {
        let failed = |errno| request.failed(errno);
        let mut bytes = Vec::new();
        let sequence = self.append(&mut bytes, request, NLM_F_DUMP | request.flags);
        self.send(&bytes).map_err(failed)?;
        let mut messages = Vec::new();
        let mut is_whole = true;
        loop {
            for answer in self.receive().map_err(failed)? {
                if answer.header.sequence_number != sequence {
                    continue;
                }
                is_whole &= answer.header.flags & NLM_F_DUMP_INTR == 0;
                match answer.payload {
                    NetlinkPayload::InnerMessage(message) => messages.push(message),
                    NetlinkPayload::Done(done) if done.code == 0 => {
                        return Ok((messages, is_whole));
                    }
                    NetlinkPayload::Done(done) => {
                        return Err(failed(io::Error::from_raw_os_error(-done.code)));
                    }
                    NetlinkPayload::Error(verdict) => return Err(failed(verdict.to_io())),
                    NetlinkPayload::Noop | NetlinkPayload::Overrun(_) | _ => {}
                }
            }
        }
    }

    /// Appends a request to `bytes` and returns its sequence number.
    fn append(&mut self, bytes: &mut Vec<u8>, request: &Request, flags: u16) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let payload = NetlinkPayload::InnerMessage(request.message.clone());
        let mut message = NetlinkMessage::new(header, payload);
        message.finalize();
        let start = bytes.len();
        // Messages in one datagram begin at multiples of four.
        bytes.resize(start + message.buffer_len().next_multiple_of(4), 0);
        message.serialize(&mut bytes[start..start + message.buffer_len()]);
        self.sequence
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        retry(|| self.kernel.send_to(bytes, &SocketAddr::new(0, 0), 0))?;
        Ok(())
    }

    /// Receives one datagram and splits it into messages.
    fn receive(&mut self) -> io::Result<Vec<NetlinkMessage<RouteNetlinkMessage>>> {
        let flags = RecvFlags::TRUNC.bits().cast_signed();
        let (kernel, buffer) = (&self.kernel, &mut self.buffer);
        let length = retry(|| {
            buffer.clear();
            kernel.recv(buffer, flags)
        })?;
        if length > self.buffer.len() {
            return Err(io::Error::other(format!(
                "the kernel's answer has {length} bytes, more than the {} there is room for",
                self.buffer.len()
            )));
        }
        let mut messages = Vec::new();
        let mut rest = &self.buffer[..];
        while rest.len() >= HEADER_BYTES {
            let message = NetlinkMessage::deserialize(rest).map_err(io::Error::other)?;
            let length = (message.header.length as usize).next_multiple_of(4);
            messages.push(message);
            rest = rest.get(length..).unwrap_or_default();
        }
        Ok(messages)
    }
}

/// Repeats a system call that a signal interrupted.
fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// The explanation in an extended acknowledgement, if there is one.
fn kernel_words(payload: &[u8]) -> Option<String> {
    let attributes = payload.get(HEADER_BYTES..)?;
    let words = NlasIterator::new(attributes)
        .flatten()
        .find(|attribute| attribute.kind() == NLMSGERR_ATTR_MSG)?;
    let text = String::from_utf8_lossy(words.value());
    Some(text.trim_end_matches('\0').to_owned())
}
