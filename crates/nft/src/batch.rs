//! A transaction: all of its messages take effect at once, or none does.

use std::borrow::Cow;

use culvert_netlink::Request;
use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL};

use crate::attribute::Attributes;
use crate::expression::Expression;
use crate::message;
use crate::table::{Element, LedTo, Set, Table, TableFamily, TableFlags};
use crate::wire::Message;

/// Elements in one message: an attribute has at most 64 KiB, and an element less than 64 bytes.
const ELEMENTS_PER_MESSAGE: usize = 512;

/// `NFNL_MSG_BATCH_BEGIN`, `NFNL_MSG_BATCH_END`, `NFNL_BATCH_GENID`.
const BEGIN: u16 = 0x10;
const END: u16 = 0x11;
const BEGIN_GENERATION: u16 = 1;

/// What follows the name of an object in the words for a request about it.
pub(crate) const FAMILY_MARK: &str = " (nftables, family ";

/// A transaction being put together, about tables of one family.
pub struct Batch {
    family: TableFamily,
    generation: Option<u32>,
    pub(crate) messages: Vec<Request<Message>>,
}

impl Batch {
    /// Begins a transaction.
    #[must_use]
    pub const fn new(family: TableFamily) -> Self {
        Self { family, generation: None, messages: Vec::new() }
    }

    /// Has the kernel refuse it unless the generation still is the one that
    /// [`Socket::generation`](crate::Socket::generation) returned.
    #[must_use]
    pub const fn at(mut self, generation: u32) -> Self {
        self.generation = Some(generation);
        self
    }

    /// Whether nothing would happen.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Makes a table that must not exist yet.
    pub fn create(&mut self, table: &Table) {
        self.create_flagged(table, TableFlags::None);
    }

    fn create_flagged(&mut self, table: &Table, flags: TableFlags) {
        let attributes = message::flagged_table(table.name, flags);
        self.push("create", table.name, message::NEW_TABLE, NLM_F_CREATE | NLM_F_EXCL, attributes);
        self.fill(table);
    }

    /// Makes an empty table that must not exist yet, that nobody else can change or remove, and
    /// that the kernel removes when the socket is closed that commits this, however its process
    /// ends (Linux 5.12). `comment` is for whoever wonders whose it is.
    pub fn claim(&mut self, table: &str, comment: &str) {
        let attributes = message::owned_table(table, comment);
        self.push("claim", table, message::NEW_TABLE, NLM_F_CREATE | NLM_F_EXCL, attributes);
    }

    /// Makes a table in place of one that may exist.
    pub fn replace(&mut self, table: &Table) {
        self.replace_flagged(table, TableFlags::None);
    }

    /// Makes a table with `flags` in place of one that may exist. One that belongs to a socket
    /// which is still open, and another than this, cannot be replaced.
    pub fn replace_flagged(&mut self, table: &Table, flags: TableFlags) {
        self.remove(table.name);
        self.create_flagged(table, flags);
    }

    /// Removes a table that may exist.
    pub fn remove(&mut self, table: &str) {
        // Declaring it first makes the removal succeed when there was none.
        self.push("declare", table, message::NEW_TABLE, NLM_F_CREATE, message::table(table));
        self.push("remove", table, message::DELETE_TABLE, 0, message::table(table));
    }

    /// Adds elements to a set; those that it has already are no error.
    pub fn add_elements(&mut self, table: &str, set: &str, elements: &[Element]) {
        for some in elements.chunks(ELEMENTS_PER_MESSAGE) {
            let attributes = message::elements(table, set, some);
            self.push("add elements to", set, message::NEW_ELEMENTS, NLM_F_CREATE, attributes);
        }
    }

    /// Removes elements from a set; one that it does not have fails the whole transaction.
    pub fn remove_elements(&mut self, table: &str, set: &str, elements: &[Element]) {
        for some in elements.chunks(ELEMENTS_PER_MESSAGE) {
            let attributes = message::elements(table, set, some);
            self.push("remove elements from", set, message::DELETE_ELEMENTS, 0, attributes);
        }
    }

    /// Has elements of a set expire at once, those that it has and those that it has not.
    ///
    /// kernel: after a removal, whoever closes a socket waits for a grace period, with the lock
    /// held that all changes need. Nobody waits for what expires. Kernels before 6.12 (see
    /// [`kernel::expires_elements`](crate::kernel::expires_elements)) ignore this.
    pub fn expire_elements(&mut self, table: &str, set: &str, elements: &[Element]) {
        for some in elements.chunks(ELEMENTS_PER_MESSAGE) {
            let attributes = message::elements_for(table, set, some, Some(1));
            self.push("expire elements of", set, message::NEW_ELEMENTS, NLM_F_CREATE, attributes);
        }
    }

    /// Gives a chain that rules or maps lead to its rules, whatever it had, and makes it before if
    /// it is not there.
    pub fn put_chain(&mut self, table: &str, chain: &LedTo) {
        self.create_chain(table, chain);
        self.remove_rules(table, &chain.name);
        self.add_rules(table, &chain.name, &chain.rules);
    }

    /// Removes a chain with its rules, which nothing leads to any more.
    pub fn drop_chain(&mut self, table: &str, chain: &str) {
        self.remove_rules(table, chain);
        self.remove_chain(table, chain);
    }

    fn fill(&mut self, table: &Table) {
        for set in &table.sets {
            self.create_set(table.name, set);
        }
        for chain in &table.chains {
            let attributes = message::chain(table.name, chain);
            self.push("create chain", chain.name, message::NEW_CHAIN, NLM_F_CREATE, attributes);
        }
        for chain in &table.led_to {
            self.create_chain(table.name, chain);
        }
        // What maps and rules lead to is there.
        for set in &table.sets {
            self.add_all(table.name, set);
        }
        for (chain, rules) in table.rules() {
            self.add_rules(table.name, chain, rules);
        }
    }

    /// Adds all elements of a set.
    pub(crate) fn add_all(&mut self, table: &str, set: &Set) {
        let mut elements = set.elements.iter().map(Cow::into_owned).peekable();
        while elements.peek().is_some() {
            let some: Vec<_> = elements.by_ref().take(ELEMENTS_PER_MESSAGE).collect();
            self.add_elements(table, &set.name, &some);
        }
    }

    /// Makes a set without elements.
    pub(crate) fn create_set(&mut self, table: &str, set: &Set) {
        let attributes = message::set(table, set);
        self.push("create set", &set.name, message::NEW_SET, NLM_F_CREATE, attributes);
    }

    /// Makes a chain without rules.
    pub(crate) fn create_chain(&mut self, table: &str, chain: &LedTo) {
        let attributes = message::named_chain(table, &chain.name);
        self.push("create chain", &chain.name, message::NEW_CHAIN, NLM_F_CREATE, attributes);
    }

    pub(crate) fn add_rules(&mut self, table: &str, chain: &str, rules: &[Vec<Expression>]) {
        for rule in rules {
            let attributes = message::rule(table, chain, rule);
            let flags = NLM_F_CREATE | NLM_F_APPEND;
            self.push("add a rule to", chain, message::NEW_RULE, flags, attributes);
        }
    }

    /// Removes the rules of a chain.
    pub(crate) fn remove_rules(&mut self, table: &str, chain: &str) {
        let attributes = message::all_rules(table, chain);
        self.push("remove the rules of", chain, message::DELETE_RULE, 0, attributes);
    }

    /// Removes all elements of a set.
    pub(crate) fn clear(&mut self, table: &str, set: &str) {
        let attributes = message::all_elements(table, set);
        self.push("clear", set, message::DELETE_ELEMENTS, 0, attributes);
    }

    /// Removes a chain that nothing leads to.
    pub(crate) fn remove_chain(&mut self, table: &str, chain: &str) {
        let attributes = message::named_chain(table, chain);
        self.push("remove chain", chain, message::DELETE_CHAIN, 0, attributes);
    }

    /// Removes a set that no rule asks.
    pub(crate) fn remove_set(&mut self, table: &str, set: &str) {
        let attributes = message::named_set(table, set);
        self.push("remove set", set, message::DELETE_SET, 0, attributes);
    }

    fn push(
        &mut self,
        op: &'static str,
        target: &str,
        kind: u8,
        flags: u16,
        attributes: Attributes,
    ) {
        let target = format!("{target}{FAMILY_MARK}{})", self.family.as_str());
        let kind = u16::from(message::SUBSYSTEM) << 8 | u16::from(kind);
        let family = self.family.number();
        let message = Message { kind, family, resource: 0, attributes: attributes.0 };
        self.messages.push(Request::new(op, target, flags, message));
    }

    /// The message that begins the transaction.
    pub(crate) fn begin(&self) -> Request<Message> {
        let mut attributes = Attributes::default();
        if let Some(generation) = self.generation {
            attributes.number(BEGIN_GENERATION, generation);
        }
        frame(BEGIN, attributes)
    }

    /// The message that ends a transaction.
    pub(crate) fn end() -> Request<Message> {
        frame(END, Attributes::default())
    }
}

/// The begin or the end of a transaction, which stand for the whole.
fn frame(kind: u16, attributes: Attributes) -> Request<Message> {
    let resource = message::SUBSYSTEM.into();
    let message = Message { kind, family: 0, resource, attributes: attributes.0 };
    Request::new("commit", "an nftables transaction", 0, message)
}
