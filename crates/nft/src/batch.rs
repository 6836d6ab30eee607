//! A transaction: all of its messages take effect at once, or none does.

use culvert_netlink::Request;
use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL};

use crate::attribute::Attributes;
use crate::message;
use crate::table::{Element, Table, TableFamily};
use crate::wire::Message;

/// Elements in one message: an attribute has at most 64 KiB, and an element less than 64 bytes.
const ELEMENTS_PER_MESSAGE: usize = 512;

/// `NFNL_MSG_BATCH_BEGIN`, `NFNL_MSG_BATCH_END`, `NFNL_BATCH_GENID`.
const BEGIN: u16 = 0x10;
const END: u16 = 0x11;
const BEGIN_GENERATION: u16 = 1;

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
        self.push("create", table.name, message::NEW_TABLE, NLM_F_CREATE | NLM_F_EXCL, {
            message::table(table.name)
        });
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
        self.remove(table.name);
        self.create(table);
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

    fn fill(&mut self, table: &Table) {
        for set in &table.sets {
            let attributes = message::set(table.name, set);
            self.push("create set", &set.name, message::NEW_SET, NLM_F_CREATE, attributes);
            self.add_elements(table.name, &set.name, &set.elements);
        }
        for chain in &table.chains {
            let attributes = message::chain(table.name, chain);
            self.push("create chain", chain.name, message::NEW_CHAIN, NLM_F_CREATE, attributes);
        }
        for chain in &table.chains {
            for rule in &chain.rules {
                let attributes = message::rule(table.name, chain.name, rule);
                let flags = NLM_F_CREATE | NLM_F_APPEND;
                self.push("add a rule to", chain.name, message::NEW_RULE, flags, attributes);
            }
        }
    }

    fn push(
        &mut self,
        op: &'static str,
        target: &str,
        kind: u8,
        flags: u16,
        attributes: Attributes,
    ) {
        let target = format!("{target} (nftables, family {})", self.family.as_str());
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
