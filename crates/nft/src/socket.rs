//! The socket: transactions, queries and dumps.

use std::io;

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket as KernelSocket, SocketAddr};
use rustix::net::{RecvFlags, sockopt};

use crate::attribute;
use crate::batch::{ACKNOWLEDGE, Batch, HEADER_BYTES, NETFILTER_BYTES, REQUEST, append};
use crate::error::{Error, Result};
use crate::listing::{self, Listing};
use crate::message;
use crate::table::Family;

/// Room for one answer. The kernel fits dumps into what the reader offers, up to this much.
const BUFFER_BYTES: usize = 32 * 1024;

/// Room for one transaction: the elements of 4,000 pods are about 1 MiB. The kernel counts its own
/// bookkeeping too.
const SEND_BYTES: usize = 8 << 20;

/// How often a dump is repeated when the kernel says that the tables changed meanwhile.
const DUMP_ATTEMPTS: usize = 20;

/// `NLMSG_ERROR`, `NLMSG_DONE`, `NLM_F_DUMP`, `NLM_F_DUMP_INTR`.
const ERROR: u16 = 2;
const DONE: u16 = 3;
const DUMP: u16 = 0x300;
const DUMP_INTERRUPTED: u16 = 0x10;

/// A connection to the kernel's nftables in one network namespace.
pub struct Socket {
    kernel: KernelSocket,
    sequence: u32,
    buffer: Vec<u8>,
}

/// One message that came back.
struct Answer<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    payload: &'a [u8],
}

impl Answer<'_> {
    /// What an error or an acknowledgement says; an acknowledgement is error 0.
    fn verdict(&self) -> io::Result<()> {
        let code = self.payload.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
        if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) }
    }

    fn attributes(&self) -> &[u8] {
        self.payload.get(NETFILTER_BYTES..).unwrap_or_default()
    }
}

impl Socket {
    /// Opens a socket in the network namespace of the calling thread.
    ///
    /// # Errors
    ///
    /// When the kernel has no netfilter or refuses.
    pub fn open() -> Result<Self> {
        let open = || -> io::Result<KernelSocket> {
            let mut kernel = KernelSocket::new(NETLINK_NETFILTER)?;
            kernel.bind(&SocketAddr::new(0, 0))?;
            kernel.set_cap_ack(true)?;
            sockopt::set_socket_send_buffer_size_force(&kernel, SEND_BYTES)?;
            Ok(kernel)
        };
        let kernel = open().map_err(|error| Error::new("open", "an nftables socket", error))?;
        Ok(Self { kernel, sequence: 0, buffer: Vec::with_capacity(BUFFER_BYTES) })
    }

    /// The number that grows with every change that anybody makes to nftables in this namespace.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn generation(&mut self) -> Result<u32> {
        let failed = |error| Error::new("ask for", "the nftables generation", error);
        let found = self.query(0, message::GET_GENERATION, &[]).map_err(failed)?;
        attribute::number(&found, message::GENERATION_ID)
            .ok_or_else(|| failed(io::ErrorKind::InvalidData.into()))
    }

    /// Carries a transaction out: all of it or nothing.
    ///
    /// # Errors
    ///
    /// The first message that the kernel refused.
    pub fn commit(&mut self, batch: &Batch) -> Result<()> {
        let first = self.sequence.wrapping_add(1);
        let bytes = batch.encode(first);
        let last = u32::try_from(batch.len()).unwrap_or(u32::MAX).wrapping_add(1);
        self.sequence = first.wrapping_add(last);
        let failed = |position: usize, error| {
            let (op, target) = batch.about(position);
            Error::new(op, target, error)
        };
        self.send(&bytes).map_err(|error| failed(usize::MAX, error))?;
        let mut missing = batch.len();
        let mut refused: Option<(usize, io::Error)> = None;
        while missing > 0 {
            let length = self.receive().map_err(|error| failed(usize::MAX, error))?;
            for answer in split(&self.buffer[..length]) {
                if answer.kind != ERROR {
                    continue;
                }
                // Before the first message comes the begin of the transaction, which is answered
                // when there is something wrong with the whole.
                let number = answer.sequence.wrapping_sub(first) as usize;
                if number > batch.len() {
                    continue;
                }
                match (number.checked_sub(1), answer.verdict()) {
                    (None, Err(error)) => return Err(failed(usize::MAX, error)),
                    (None, Ok(())) => {}
                    (Some(position), verdict) => {
                        missing = missing.saturating_sub(1);
                        if let (None, Err(error)) = (&refused, verdict) {
                            refused = Some((position, error));
                        }
                    }
                }
            }
        }
        match refused {
            None => Ok(()),
            Some((position, error)) => Err(failed(position, error)),
        }
    }

    /// Whether there is such a table. Takes no lock.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn has_table(&mut self, family: Family, table: &str) -> Result<bool> {
        match self.query(family.number(), message::GET_TABLE, &message::table(table).0) {
            Ok(_table) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => {
                Err(Error::new("look for table", format!("{} {table}", family.as_str()), error))
            }
        }
    }

    /// Reads a table back; none, if it does not exist.
    ///
    /// # Errors
    ///
    /// When the kernel refuses, or the tables change faster than they can be listed.
    pub fn listing(&mut self, family: Family, table: &str) -> Result<Option<Listing>> {
        let failed =
            |error| Error::new("list table", format!("{} {table}", family.as_str()), error);
        for _attempt in 0..DUMP_ATTEMPTS {
            match self.try_listing(family.number(), table) {
                Ok(listing) => return Ok(Some(listing)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Err(failed(io::ErrorKind::Interrupted.into()))
    }

    /// One attempt, which fails as interrupted when a table changed meanwhile.
    fn try_listing(&mut self, family: u8, table: &str) -> io::Result<Listing> {
        let named = message::table(table).0;
        self.query(family, message::GET_TABLE, &named)?;
        let mut listing = Listing::default();
        let is_ours =
            |found: &[u8]| attribute::text(found, message::TABLE).as_deref() == Some(table);
        for chain in self.dump(family, message::GET_CHAIN, &named)? {
            if let (true, Some(name)) =
                (is_ours(&chain), attribute::text(&chain, message::CHAIN_NAME))
            {
                listing.chains.insert(name, listing::chain_listing(&chain));
            }
        }
        for rule in self.dump(family, message::GET_RULE, &named)? {
            let chain = attribute::text(&rule, message::RULE_CHAIN);
            if let (true, Some(chain)) =
                (is_ours(&rule), chain.and_then(|chain| listing.chains.get_mut(&chain)))
            {
                chain.rules.push(listing::expressions(&rule));
            }
        }
        for set in self.dump(family, message::GET_SET, &named)? {
            let Some(name) = attribute::text(&set, message::SET_NAME) else { continue };
            let mut found = listing::set_listing(&set);
            let request = message::elements(table, &name, &[]).0;
            for some in self.dump(family, message::GET_ELEMENTS, &request)? {
                found.elements.extend(listing::elements(&some));
            }
            listing.sets.insert(name, found);
        }
        Ok(listing)
    }

    /// Asks for one object, and returns its attributes.
    fn query(&mut self, family: u8, kind: u8, attributes: &[u8]) -> io::Result<Vec<u8>> {
        let sequence = self.ask(family, kind, ACKNOWLEDGE, attributes)?;
        let mut found = None;
        loop {
            let length = self.receive()?;
            for answer in split(&self.buffer[..length]) {
                if answer.sequence != sequence {
                    continue;
                }
                if answer.kind == ERROR {
                    answer.verdict()?;
                    return found.ok_or_else(|| io::ErrorKind::InvalidData.into());
                }
                found = Some(answer.attributes().to_vec());
            }
        }
    }

    /// Asks for all objects of a kind, and returns the attributes of each.
    fn dump(&mut self, family: u8, kind: u8, attributes: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        let sequence = self.ask(family, kind, DUMP, attributes)?;
        let mut found = Vec::new();
        let mut is_whole = true;
        loop {
            let length = self.receive()?;
            for answer in split(&self.buffer[..length]) {
                if answer.sequence != sequence {
                    continue;
                }
                is_whole &= answer.flags & DUMP_INTERRUPTED == 0;
                match answer.kind {
                    ERROR => answer.verdict()?,
                    DONE if is_whole => {
                        answer.verdict()?;
                        return Ok(found);
                    }
                    DONE => return Err(io::ErrorKind::Interrupted.into()),
                    _object => found.push(answer.attributes().to_vec()),
                }
            }
        }
    }

    fn ask(&mut self, family: u8, kind: u8, flags: u16, attributes: &[u8]) -> io::Result<u32> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut bytes = Vec::new();
        let kind = u16::from(message::SUBSYSTEM) << 8 | u16::from(kind);
        append(&mut bytes, kind, REQUEST | flags, self.sequence, [family, 0], 0, attributes);
        self.send(&bytes)?;
        Ok(self.sequence)
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        retry(|| self.kernel.send_to(bytes, &SocketAddr::new(0, 0), 0))?;
        Ok(())
    }

    /// Receives one datagram into the buffer and returns its length.
    fn receive(&mut self) -> io::Result<usize> {
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
        Ok(length)
    }
}

/// Splits what one read returned into messages.
fn split(mut bytes: &[u8]) -> impl Iterator<Item = Answer<'_>> {
    std::iter::from_fn(move || {
        let header = bytes.first_chunk::<HEADER_BYTES>()?;
        let [l0, l1, l2, l3, k0, k1, f0, f1, s0, s1, s2, s3, ..] = *header;
        let length = usize::try_from(u32::from_ne_bytes([l0, l1, l2, l3])).ok()?;
        let payload = bytes.get(HEADER_BYTES..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Answer {
            kind: u16::from_ne_bytes([k0, k1]),
            flags: u16::from_ne_bytes([f0, f1]),
            sequence: u32::from_ne_bytes([s0, s1, s2, s3]),
            payload,
        })
    })
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
