//! A transaction: all of its messages take effect at once, or none does.

use crate::attribute::Attributes;
use crate::message;
use crate::table::{Element, Family, Table};

/// Elements in one message: an attribute has at most 64 KiB, and an element less than 64 bytes.
const ELEMENTS_PER_MESSAGE: usize = 512;

/// `NLM_F_*` of `linux/netlink.h`.
pub(crate) const REQUEST: u16 = 0x1;
pub(crate) const ACKNOWLEDGE: u16 = 0x4;
const EXCLUSIVE: u16 = 0x200;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;

/// `NFNL_MSG_BATCH_BEGIN`, `NFNL_MSG_BATCH_END`, `NFNL_BATCH_GENID`.
const BEGIN: u16 = 0x10;
const END: u16 = 0x11;
const BEGIN_GENERATION: u16 = 1;

/// Bytes of `struct nlmsghdr` and of `struct nfgenmsg`.
pub(crate) const HEADER_BYTES: usize = 16;
pub(crate) const NETFILTER_BYTES: usize = 4;

/// One message of a transaction.
struct Message {
    op: &'static str,
    target: String,
    kind: u8,
    flags: u16,
    attributes: Attributes,
}

/// A transaction being put together, about tables of one family.
pub struct Batch {
    family: Family,
    generation: Option<u32>,
    messages: Vec<Message>,
}

impl Batch {
    /// Begins a transaction.
    #[must_use]
    pub const fn new(family: Family) -> Self {
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
        self.push("create", table.name, message::NEW_TABLE, CREATE | EXCLUSIVE, {
            message::table(table.name)
        });
        self.fill(table);
    }

    /// Makes an empty table that must not exist yet, that nobody else can change or remove, and that
    /// the kernel removes when the socket is closed that commits this, however its process ends
    /// (Linux 5.12).
    pub fn claim(&mut self, table: &str) {
        let attributes = message::owned_table(table);
        self.push("claim", table, message::NEW_TABLE, CREATE | EXCLUSIVE, attributes);
    }

    /// Makes a table in place of one that may exist.
    pub fn replace(&mut self, table: &Table) {
        self.remove(table.name);
        self.create(table);
    }

    /// Removes a table that may exist.
    pub fn remove(&mut self, table: &str) {
        // Declaring it first makes the removal succeed when there was none.
        self.push("declare", table, message::NEW_TABLE, CREATE, message::table(table));
        self.push("remove", table, message::DELETE_TABLE, 0, message::table(table));
    }

    /// Adds elements to a set; those that it has already are no error.
    pub fn add_elements(&mut self, table: &str, set: &str, elements: &[Element]) {
        for some in elements.chunks(ELEMENTS_PER_MESSAGE) {
            let attributes = message::elements(table, set, some);
            self.push("add elements to", set, message::NEW_ELEMENTS, CREATE, attributes);
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
    /// kernel: after a removal, whoever closes a socket waits for a grace period, with the lock held
    /// that all changes need. Nobody waits for what expires. Kernels before 6.12 (see
    /// [`kernel::expires_elements`](crate::kernel::expires_elements)) ignore this.
    pub fn expire_elements(&mut self, table: &str, set: &str, elements: &[Element]) {
        for some in elements.chunks(ELEMENTS_PER_MESSAGE) {
            let attributes = message::elements_for(table, set, some, Some(1));
            self.push("expire elements of", set, message::NEW_ELEMENTS, CREATE, attributes);
        }
    }

    fn fill(&mut self, table: &Table) {
        for set in &table.sets {
            let attributes = message::set(table.name, set);
            self.push("create set", &set.name, message::NEW_SET, CREATE, attributes);
            self.add_elements(table.name, &set.name, &set.elements);
        }
        for chain in &table.chains {
            let attributes = message::chain(table.name, chain);
            self.push("create chain", chain.name, message::NEW_CHAIN, CREATE, attributes);
        }
        for chain in &table.chains {
            for rule in &chain.rules {
                let attributes = message::rule(table.name, chain.name, rule);
                let flags = CREATE | APPEND;
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
        self.messages.push(Message { op, target, kind, flags, attributes });
    }

    /// How many acknowledgements a transaction gets that succeeds.
    pub(crate) fn len(&self) -> usize {
        self.messages.len()
    }

    /// What the message at `position` is about; the begin and the end are about the whole.
    pub(crate) fn about(&self, position: usize) -> (&'static str, String) {
        match self.messages.get(position) {
            Some(message) => (message.op, message.target.clone()),
            None => ("commit", "an nftables transaction".to_owned()),
        }
    }

    /// The bytes to send; message N has sequence number `sequence` + 1 + N.
    pub(crate) fn encode(&self, sequence: u32) -> Vec<u8> {
        let mut out = Vec::new();
        let mut begin = Attributes::default();
        if let Some(generation) = self.generation {
            begin.number(BEGIN_GENERATION, generation);
        }
        let subsystem = u16::from(message::SUBSYSTEM);
        append(&mut out, BEGIN, REQUEST, sequence, [0, 0], subsystem, &begin.0);
        let mut number = sequence;
        for message in &self.messages {
            number = number.wrapping_add(1);
            let kind = subsystem << 8 | u16::from(message.kind);
            let flags = REQUEST | ACKNOWLEDGE | message.flags;
            let family = [self.family.number(), 0];
            append(&mut out, kind, flags, number, family, 0, &message.attributes.0);
        }
        append(&mut out, END, REQUEST, number.wrapping_add(1), [0, 0], subsystem, &[]);
        out
    }
}

/// Appends one netlink message: header, `struct nfgenmsg` (family and version, then a number in
/// network order), attributes.
pub(crate) fn append(
    out: &mut Vec<u8>,
    kind: u16,
    flags: u16,
    sequence: u32,
    family: [u8; 2],
    resource: u16,
    attributes: &[u8],
) {
    let length = HEADER_BYTES + NETFILTER_BYTES + attributes.len();
    out.extend(u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(flags.to_ne_bytes());
    out.extend(sequence.to_ne_bytes());
    // Port number: the kernel knows who sends.
    out.extend(0_u32.to_ne_bytes());
    out.extend(family);
    out.extend(resource.to_be_bytes());
    out.extend(attributes);
}
