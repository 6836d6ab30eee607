//! The socket: transactions, and reading tables back.

use std::io;

use culvert_netlink::{Error as NetlinkError, Request, Socket as Netlink};

use crate::attribute;
use crate::batch::Batch;
use crate::error::{Error, Result};
use crate::listing::{self, Listing};
use crate::message;
use crate::table::TableFamily;
use crate::wire::{Message, Nfnetlink};

/// How often a change is tried again because somebody else made one meanwhile, such as a pod that
/// came or went.
const ATTEMPTS: usize = 100;

/// A connection to the kernel's nftables in one network namespace.
pub struct Socket(pub(crate) Netlink<Nfnetlink>);

impl Socket {
    /// Opens a socket in the network namespace of the calling thread.
    ///
    /// # Errors
    ///
    /// When the kernel has no netfilter or refuses.
    pub fn open() -> Result<Self> {
        Ok(Self(Netlink::open()?))
    }

    /// The number that grows with every change that anybody makes to nftables in this namespace.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn generation(&mut self) -> Result<u32> {
        let (op, target) = ("ask for", "the nftables generation".to_owned());
        let request = request(op, &target, 0, message::GET_GENERATION, &[]);
        let found = self.0.query(&request)?;
        let number =
            found.and_then(|found| attribute::number(&found.attributes, message::GENERATION_ID));
        let unreadable = || NetlinkError::new(op, target, io::ErrorKind::InvalidData);
        Ok(number.ok_or_else(unreadable)?)
    }

    /// Carries a transaction out: all of it or nothing.
    ///
    /// # Errors
    ///
    /// The first message that the kernel refused.
    pub fn commit(&mut self, batch: &Batch) -> Result<()> {
        Ok(self.0.transact(&batch.begin(), &batch.messages, &Batch::end())?)
    }

    /// Commits what `see` makes of what it sees; says whether that was anything. Between its look
    /// and the commit nothing changes: if somebody else was faster, it looks again.
    ///
    /// # Errors
    ///
    /// What `see` says, what the kernel refuses, or that others are faster every time.
    pub fn commit_seen<E: From<Error>>(
        &mut self,
        mut see: impl FnMut(&mut Self) -> std::result::Result<Option<Batch>, E>,
    ) -> std::result::Result<bool, E> {
        let mut attempts = ATTEMPTS;
        loop {
            // First, so that whatever changes during the look is refused.
            let generation = self.generation()?;
            let Some(batch) = see(self)? else { return Ok(false) };
            match self.commit(&batch.at(generation)) {
                Err(error) if error.is_stale() && attempts > 0 => attempts -= 1,
                outcome => return outcome.map(|()| true).map_err(E::from),
            }
        }
    }

    /// Whether there is such a table. Takes no lock.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn has_table(&mut self, family: TableFamily, table: &str) -> Result<bool> {
        Ok(self.find_table(family, table)?.is_some())
    }

    /// The comment on a table; none where there is no such table, or no comment on it.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn table_comment(&mut self, family: TableFamily, table: &str) -> Result<Option<String>> {
        Ok(self.find_table(family, table)?.and_then(|found| message::comment(&found.attributes)))
    }

    fn find_table(&mut self, family: TableFamily, table: &str) -> Result<Option<Message>> {
        let target = format!("{} {table}", family.as_str());
        let named = message::table(table).0;
        let number = family.number();
        match self.0.query(&request("look for table", &target, number, message::GET_TABLE, &named))
        {
            Err(error) if error.is_missing() => Ok(None),
            found => Ok(found?),
        }
    }

    /// Reads a table back; none, if it does not exist.
    ///
    /// # Errors
    ///
    /// When the kernel refuses, or the tables change faster than they can be listed.
    pub fn listing(&mut self, family: TableFamily, table: &str) -> Result<Option<Listing>> {
        match self.list(family, table) {
            Err(error) if error.is_missing() => Ok(None),
            other => Ok(other?),
        }
    }

    fn list(
        &mut self,
        family: TableFamily,
        table: &str,
    ) -> culvert_netlink::Result<Option<Listing>> {
        let target = format!("table {} {table}", family.as_str());
        let ask =
            |kind, attributes: &[u8]| request("list", &target, family.number(), kind, attributes);
        let named = message::table(table).0;
        let Some(found) = self.0.query(&ask(message::GET_TABLE, &named))? else { return Ok(None) };
        let flags = attribute::number(&found.attributes, message::TABLE_FLAGS).unwrap_or_default();
        let mut listing =
            Listing { is_dormant: flags & message::FLAG_DORMANT != 0, ..Listing::default() };
        let is_ours =
            |found: &[u8]| attribute::text(found, message::TABLE).as_deref() == Some(table);
        for chain in self.0.dump(&ask(message::GET_CHAIN, &named))? {
            let chain = chain.attributes;
            if let (true, Some(name)) =
                (is_ours(&chain), attribute::text(&chain, message::CHAIN_NAME))
            {
                listing.chains.insert(name, listing::chain_listing(&chain));
            }
        }
        for rule in self.0.dump(&ask(message::GET_RULE, &named))? {
            let rule = rule.attributes;
            let chain = attribute::text(&rule, message::RULE_CHAIN);
            if let (true, Some(chain)) =
                (is_ours(&rule), chain.and_then(|chain| listing.chains.get_mut(&chain)))
            {
                chain.rules.push(listing::expressions(&rule));
            }
        }
        for set in self.0.dump(&ask(message::GET_SET, &named))? {
            let set = set.attributes;
            let Some(name) = attribute::text(&set, message::SET_NAME) else { continue };
            let mut found = listing::set_listing(&set);
            let elements = message::elements(table, &name, &[]).0;
            for some in self.0.dump(&ask(message::GET_ELEMENTS, &elements))? {
                found.elements.extend(listing::elements(&some.attributes));
            }
            listing.sets.insert(name, found);
        }
        Ok(Some(listing))
    }
}

pub(crate) fn request(
    op: &'static str,
    target: &str,
    family: u8,
    kind: u8,
    attributes: &[u8],
) -> Request<Message> {
    let kind = u16::from(message::SUBSYSTEM) << 8 | u16::from(kind);
    let attributes = attributes.to_vec();
    Request::new(op, target, 0, Message { kind, family, resource: 0, attributes })
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::thread;
    use std::time::Duration;

    use netlink_packet_core::NetlinkBuffer;
    use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
    use rustix::net::{recv, send, socketpair};

    use super::*;

    const ERESTART: i32 = 85;

    /// One message as the kernel would send it.
    fn message(kind: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(16 + payload.len()).unwrap().to_ne_bytes();
        let (kind, sequence) = (kind.to_ne_bytes(), sequence.to_ne_bytes());
        [&length[..], &kind, &[0; 2], &sequence, &[0; 4], payload].concat()
    }

    /// That a request was carried out, or was refused with `errno`.
    fn verdict(sequence: u32, errno: i32) -> Vec<u8> {
        message(2, sequence, &[&(-errno).to_ne_bytes()[..], &[0; 16]].concat())
    }

    /// Plays a kernel whose nftables somebody else changes before each of the next `changes`
    /// transactions of one request.
    fn changing(mut changes: usize) -> (Socket, thread::JoinHandle<()>) {
        let kind = SocketType::SEQPACKET;
        let (ours, theirs): (OwnedFd, OwnedFd) =
            socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap();
        let kernel = thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok((_, 16..)) = recv(&theirs, &mut buffer[..], RecvFlags::empty()) {
                let request = NetlinkBuffer::new(&buffer[..]);
                let sequence = request.sequence_number();
                let answer = if request.message_type() == 0x10 {
                    if changes == 0 {
                        verdict(sequence + 1, 0)
                    } else {
                        changes -= 1;
                        verdict(sequence, ERESTART)
                    }
                } else {
                    let generation =
                        message(0xa0f, sequence, &[0, 0, 0, 0, 8, 0, 1, 0, 0, 0, 0, 7]);
                    send(&theirs, &generation, SendFlags::empty()).unwrap();
                    verdict(sequence, 0)
                };
                send(&theirs, &answer, SendFlags::empty()).unwrap();
            }
        });
        (Socket(Netlink::over(ours, Duration::from_secs(5)).unwrap()), kernel)
    }

    /// What commits after so many `changes`, and how often it looked.
    fn committed(changes: usize) -> (Result<bool>, usize) {
        let (mut socket, kernel) = changing(changes);
        let mut looks = 0;
        let outcome = socket.commit_seen(|_socket| {
            looks += 1;
            let mut batch = Batch::new(TableFamily::Inet);
            batch.remove_chain("table", "chain");
            Ok(Some(batch))
        });
        drop(socket);
        kernel.join().unwrap();
        (outcome, looks)
    }

    #[test]
    fn whoever_was_overtaken_looks_again() {
        for changes in [0, 1, 3] {
            let (outcome, looks) = committed(changes);
            assert!(outcome.unwrap());
            assert_eq!(looks, changes + 1);
        }
        let (outcome, looks) = committed(usize::MAX);
        assert!(outcome.unwrap_err().is_stale());
        assert_eq!(looks, ATTEMPTS + 1);
    }

    #[test]
    fn nothing_is_committed_where_nothing_is_to_change() {
        let (mut socket, kernel) = changing(0);
        assert!(!socket.commit_seen::<Error>(|_socket| Ok(None)).unwrap());
        drop(socket);
        kernel.join().unwrap();
    }
}
