//! The socket: acknowledged requests, look-ups, dumps and transactions, each with a deadline.

mod answer;
#[cfg(test)]
mod tests;

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_sys::{Socket as KernelSocket, SocketAddr};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{RecvFlags, SendFlags, recv, send};

use self::answer::{Answer, Body, split};
use crate::error::{Error, Result};
use crate::protocol::Protocol;
use crate::request::Request;

/// How long an answer may take. The kernel answers while it handles the request, so that one that
/// is not there after this time was lost.
const PATIENCE: Duration = Duration::from_secs(5);

/// Room for one datagram. The kernel fits dumps into what the reader offers, up to this much.
const BUFFER_BYTES: usize = 32 * 1024;

/// How often a dump is started over when the objects changed meanwhile.
const DUMP_ATTEMPTS: usize = 20;

/// How often a dump is tried whose objects need not be of one moment.
const CHANGING_DUMP_ATTEMPTS: usize = 3;

/// Requests in one datagram. The answers to one occupy up to 4 KiB of the default 208 KiB receive
/// buffer, and an answer that does not fit is lost.
const WINDOW: usize = 32;

/// A netlink socket in one network namespace.
pub struct Socket<P: Protocol> {
    kernel: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
    patience: Duration,
    protocol: PhantomData<P>,
}

/// A request in bytes, ready to be sent by whoever holds the socket.
#[derive(Debug)]
pub struct Prepared {
    bytes: Vec<u8>,
    sequence: u32,
}

impl<P: Protocol> Socket<P> {
    /// Opens a socket in the network namespace of the calling thread.
    ///
    /// # Errors
    ///
    /// When the kernel does not know the family or refuses.
    pub fn open() -> Result<Self> {
        let open = || -> io::Result<OwnedFd> {
            let mut kernel = KernelSocket::new(P::NUMBER)?;
            kernel.bind(&SocketAddr::new(0, 0))?;
            // Whoever else sends to a socket that is connected to the kernel is refused.
            kernel.connect(&SocketAddr::new(0, 0))?;
            // Errors then carry the kernel's words instead of a copy of the request.
            kernel.set_ext_ack(true)?;
            kernel.set_cap_ack(true)?;
            // Filters of dumps work only with strict checking (Linux 4.20); callers filter again,
            // so an older kernel costs time, not correctness.
            let _unsupported = kernel.set_netlink_get_strict_chk(true);
            if let Some(bytes) = P::SEND_BYTES {
                sockopt::set_socket_send_buffer_size_force(&kernel, bytes)?;
            }
            kernel.as_fd().try_clone_to_owned()
        };
        open()
            .and_then(|kernel| Self::over(kernel, PATIENCE))
            .map_err(|error| Error::new("open", P::SOCKET, error))
    }

    /// Speaks through `kernel`, at whose other end something answers like the kernel, and gives up
    /// after `patience` without an answer.
    ///
    /// # Errors
    ///
    /// When the descriptor is no socket.
    pub fn over(kernel: OwnedFd, patience: Duration) -> io::Result<Self> {
        for direction in [Timeout::Recv, Timeout::Send] {
            sockopt::set_socket_timeout(&kernel, direction, Some(patience))?;
        }
        let buffer = vec![0; BUFFER_BYTES];
        Ok(Self { kernel, sequence: 0, buffer, patience, protocol: PhantomData })
    }

    /// Sends one request and waits until the kernel has acknowledged it.
    ///
    /// # Errors
    ///
    /// The kernel refused, or did not answer in time.
    pub fn execute(&mut self, request: Request<P::Message>) -> Result<()> {
        self.execute_all(&[request])
    }

    /// Sends all requests at once and waits until the kernel has acknowledged each.
    ///
    /// The kernel works through them in order and goes on after a refusal; the first one is
    /// reported.
    ///
    /// # Errors
    ///
    /// The first request that the kernel refused, or that it did not answer in time.
    pub fn execute_all(&mut self, requests: &[Request<P::Message>]) -> Result<()> {
        let mut outcome = Ok(());
        self.exchange(requests, |position, body| {
            let Body::Verdict(verdict) = body else { return false };
            if outcome.is_ok() {
                outcome = verdict.map_err(|refusal| refusal.of(&requests[position]));
            }
            true
        })?;
        outcome
    }

    /// Sends a transaction: `begin`, the requests and `end`. The kernel tells of requests that it
    /// refuses, acknowledges the last one, and refuses `begin` when it refuses the whole.
    ///
    /// kernel: it goes through all requests whatever becomes of them, and answers in their order,
    /// so that the answer to the last one says that there are no more. Thousands of
    /// acknowledgements would not fit the socket's buffer.
    ///
    /// # Errors
    ///
    /// The first message that the kernel refused, or that it did not answer in time.
    pub fn transact(
        &mut self,
        begin: &Request<P::Message>,
        requests: &[Request<P::Message>],
        end: &Request<P::Message>,
    ) -> Result<()> {
        let Some((last, others)) = requests.split_last() else { return Ok(()) };
        let mut bytes = Vec::new();
        let first = self.append(&mut bytes, begin, 0);
        for request in others {
            self.append(&mut bytes, request, 0);
        }
        self.append(&mut bytes, last, NLM_F_ACK);
        self.append(&mut bytes, end, 0);
        self.send_bytes(&bytes).map_err(|error| begin.failed(error))?;
        let deadline = self.deadline();
        let mut is_answered = false;
        let mut outcome = Ok(());
        while !is_answered {
            for answer in self.receive(deadline).map_err(|error| begin.failed(error))? {
                let Body::Verdict(verdict) = answer.body else { continue };
                let position = answer.sequence.wrapping_sub(first) as usize;
                if position == 0 {
                    verdict.map_err(|refusal| refusal.of(begin))?;
                } else if let Some(request) = requests.get(position - 1) {
                    is_answered |= position == requests.len();
                    if outcome.is_ok() {
                        outcome = verdict.map_err(|refusal| refusal.of(request));
                    }
                }
            }
        }
        outcome
    }

    /// Asks for one object; none if there is no such object.
    ///
    /// # Errors
    ///
    /// The kernel refused otherwise, answered something unreadable, or did not answer in time.
    pub fn query(&mut self, request: &Request<P::Message>) -> Result<Option<P::Message>> {
        match self.query_all(std::slice::from_ref(request))?.pop() {
            Some(Ok(found)) => Ok(Some(found)),
            Some(Err(error)) if error.is_missing() => Ok(None),
            Some(Err(error)) => Err(error),
            None => Ok(None),
        }
    }

    /// Asks for one object with each request; the answers are in the order of the requests.
    ///
    /// # Errors
    ///
    /// The socket failed, or the kernel did not answer in time. A refusal is an answer.
    pub fn query_all(
        &mut self,
        requests: &[Request<P::Message>],
    ) -> Result<Vec<Result<P::Message>>> {
        let mut answers = Vec::with_capacity(requests.len());
        for some in requests.chunks(WINDOW) {
            let begin = answers.len();
            answers.extend(some.iter().map(|request| {
                let unreadable = "the kernel's answer cannot be decoded";
                Err(request.failed(io::Error::new(io::ErrorKind::InvalidData, unreadable)))
            }));
            self.exchange(some, |position, body| match body {
                Body::Object(object) => {
                    answers[begin + position] = Ok(object);
                    false
                }
                Body::Verdict(Err(refusal)) => {
                    answers[begin + position] = Err(refusal.of(&some[position]));
                    true
                }
                // The acknowledgement ends the request whether or not its answer could be read.
                Body::Verdict(Ok(())) | Body::Done(_) => true,
                Body::Unreadable => false,
            })?;
        }
        Ok(answers)
    }

    /// Reads every object that `request` selects, from one consistent state of the kernel. An
    /// object that cannot be decoded is left out.
    ///
    /// # Errors
    ///
    /// The kernel refused or did not answer in time, or the objects changed during every attempt.
    pub fn dump(&mut self, request: &Request<P::Message>) -> Result<Vec<P::Message>> {
        for _ in 0..DUMP_ATTEMPTS {
            if let Some(objects) = self.dump_once(request)? {
                return Ok(objects);
            }
        }
        Err(request.failed(io::Error::new(
            io::ErrorKind::Interrupted,
            format!("they changed during each of {DUMP_ATTEMPTS} attempts to list them"),
        )))
    }

    /// Reads every object that `request` selects, and puts up with changes meanwhile: whatever is
    /// there all the time is among the objects; what comes or goes may be, and some may be there
    /// twice.
    ///
    /// kernel: devices are listed by their index since 6.8, so that one attempt has all that stay.
    /// Before, one that went could hide another in that one attempt.
    ///
    /// # Errors
    ///
    /// The kernel refused or did not answer in time.
    pub fn dump_despite_changes(
        &mut self,
        request: &Request<P::Message>,
    ) -> Result<Vec<P::Message>> {
        let mut objects = Vec::new();
        for _ in 0..CHANGING_DUMP_ATTEMPTS {
            if self.visit(request, &mut |object| objects.push(object))? {
                break;
            }
        }
        Ok(objects)
    }

    /// One attempt at a dump; none when the objects changed meanwhile, or answers were lost.
    fn dump_once(&mut self, request: &Request<P::Message>) -> Result<Option<Vec<P::Message>>> {
        let mut objects = Vec::new();
        let whole = self.visit(request, &mut |object| objects.push(object))?;
        Ok(whole.then_some(objects))
    }

    /// Hands every object that `request` selects to `take`, one by one, for lists that are too long
    /// to keep; says whether they are of one consistent state, and all.
    ///
    /// # Errors
    ///
    /// The kernel refused or did not answer in time.
    pub fn visit(
        &mut self,
        request: &Request<P::Message>,
        take: &mut dyn FnMut(P::Message),
    ) -> Result<bool> {
        let prepared = self.prepare(request, NLM_F_DUMP);
        self.send_bytes(&prepared.bytes).map_err(|error| request.failed(error))?;
        let mut deadline = self.deadline();
        let mut whole = true;
        loop {
            let answers = match self.receive(deadline) {
                // kernel: it goes on with the listing, and until the end of that is read it refuses
                // another one on this socket.
                Err(error) if error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error()) => {
                    whole = false;
                    continue;
                }
                other => other.map_err(|error| request.failed(error))?,
            };
            for answer in answers.into_iter().filter(|answer| answer.sequence == prepared.sequence)
            {
                // A long listing takes its time; what counts is that it goes on.
                deadline = self.deadline();
                // kernel: the mark may come on any message, and on the last one alone.
                whole &= answer.flags & NLM_F_DUMP_INTR == 0;
                match answer.body {
                    Body::Object(object) => take(object),
                    Body::Unreadable => {}
                    Body::Done(verdict) | Body::Verdict(verdict) => {
                        verdict.map_err(|refusal| refusal.of(request))?;
                        return Ok(whole);
                    }
                }
            }
        }
    }

    /// Sends `requests` in one datagram and hands every answer to `take`, with the position of its
    /// request; returns once `take` has said of each request that it is answered.
    fn exchange(
        &mut self,
        requests: &[Request<P::Message>],
        mut take: impl FnMut(usize, Body<P::Message>) -> bool,
    ) -> Result<()> {
        let Some(first_request) = requests.first() else { return Ok(()) };
        let first = self.sequence.wrapping_add(1);
        let mut bytes = Vec::new();
        for request in requests {
            self.append(&mut bytes, request, NLM_F_ACK);
        }
        self.send_bytes(&bytes).map_err(|error| first_request.failed(error))?;
        let deadline = self.deadline();
        let mut answered = vec![false; requests.len()];
        while let Some(waiting) = answered.iter().position(|answered| !answered) {
            let answers =
                self.receive(deadline).map_err(|error| requests[waiting].failed(error))?;
            for answer in answers {
                let position = answer.sequence.wrapping_sub(first) as usize;
                if position < requests.len() {
                    answered[position] |= take(position, answer.body);
                }
            }
        }
        Ok(())
    }

    /// Puts `request` into bytes for [`send`](Self::send), with `flags` of the exchange.
    pub fn prepare(&mut self, request: &Request<P::Message>, flags: u16) -> Prepared {
        let mut bytes = Vec::new();
        let sequence = self.append(&mut bytes, request, flags);
        Prepared { bytes, sequence }
    }

    /// Sends what was prepared, and waits for nothing. A process that shares the socket may do
    /// that, and leave the answer to another.
    ///
    /// # Errors
    ///
    /// Whatever the kernel says of the socket.
    pub fn send(&self, prepared: &Prepared) -> io::Result<()> {
        self.send_bytes(&prepared.bytes)
    }

    /// Whether there is something to receive within `patience`.
    ///
    /// # Errors
    ///
    /// Whatever the kernel says of the socket.
    pub fn is_readable(&self, patience: Duration) -> io::Result<bool> {
        let pause = Timespec::try_from(patience).unwrap_or_default();
        let mut sources = [PollFd::new(&self.kernel, PollFlags::IN)];
        match poll(&mut sources, Some(&pause)) {
            Ok(ready) => Ok(ready > 0),
            Err(Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Receives one datagram, and says whether it answers what was prepared: by an echo of the
    /// change or by the kernel's verdict.
    ///
    /// # Errors
    ///
    /// The kernel refused, or did not answer in time.
    pub fn is_answered(
        &mut self,
        request: &Request<P::Message>,
        prepared: &Prepared,
    ) -> Result<bool> {
        let deadline = self.deadline();
        let answers = self.receive(deadline).map_err(|error| request.failed(error))?;
        let mut ours =
            answers.into_iter().filter(|answer| answer.sequence == prepared.sequence).peekable();
        let is_answered = ours.peek().is_some();
        for answer in ours {
            if let Body::Verdict(verdict) = answer.body {
                verdict.map_err(|refusal| refusal.of(request))?;
            }
        }
        Ok(is_answered)
    }

    /// Appends a request to `bytes` and returns its sequence number.
    fn append(&mut self, bytes: &mut Vec<u8>, request: &Request<P::Message>, flags: u16) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags | request.flags;
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

    fn send_bytes(&self, bytes: &[u8]) -> io::Result<()> {
        match retry_on_intr(|| send(&self.kernel, bytes, SendFlags::NOSIGNAL)) {
            Ok(_length) => Ok(()),
            Err(Errno::AGAIN) => Err(self.no_answer()),
            Err(error) => Err(error.into()),
        }
    }

    /// Receives one datagram and splits it into answers.
    fn receive(&mut self, deadline: Instant) -> io::Result<Vec<Answer<P::Message>>> {
        // Late answers to an earlier request must not keep this one waiting for ever.
        if now() > deadline {
            return Err(self.no_answer());
        }
        let received = retry_on_intr(|| recv(&self.kernel, &mut self.buffer[..], RecvFlags::TRUNC));
        let length = match received {
            Ok((_, 0)) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok((_, length)) => length,
            Err(Errno::AGAIN) => return Err(self.no_answer()),
            Err(error) => return Err(error.into()),
        };
        let Some(bytes) = self.buffer.get(..length) else {
            return Err(io::Error::other(format!(
                "the kernel's answer has {length} bytes, more than the {BUFFER_BYTES} there is room for"
            )));
        };
        Ok(split(bytes).collect())
    }

    /// Until when an answer is waited for. Not to be asked before the request is sent: the kernel
    /// may make the sender wait for a lock, and has answered when it lets it go on.
    fn deadline(&self) -> Instant {
        now() + self.patience
    }

    fn no_answer(&self) -> io::Error {
        let text = format!("the kernel did not answer within {:?}", self.patience);
        io::Error::new(io::ErrorKind::TimedOut, text)
    }
}

impl<P: Protocol> AsFd for Socket<P> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.kernel.as_fd()
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a deadline of a system call, which nothing decides by"
)]
fn now() -> Instant {
    Instant::now()
}
