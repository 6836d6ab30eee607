//! The socket: transactions, and reading tables back.

use std::io;

use culvert_netlink::{Error as NetlinkError, Request, Socket as Netlink};

use crate::attribute;
use crate::batch::Batch;
use crate::error::Result;
use crate::listing::{self, Listing};
use crate::message;
use crate::table::TableFamily;
use crate::wire::{Message, Nfnetlink};

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
