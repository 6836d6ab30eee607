//! A table as the kernel has it, in the form in which it compares with one that is wanted.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use crate::attribute::{self, Attributes};
use crate::expression::{COUNTER, EXPRESSION_DATA, EXPRESSION_NAME};
use crate::message;
use crate::table::{Element, Table};
use crate::verdict::Verdict;

/// What a table has. Two that are equal do the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Whether the table is switched off (`flags dormant`): none of its rules are asked then.
    pub is_dormant: bool,
    /// Its chains by name.
    pub chains: BTreeMap<String, ChainListing>,
    /// Its sets by name.
    pub sets: BTreeMap<String, SetListing>,
}

/// What a chain has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChainListing {
    pub(crate) kind: Option<String>,
    /// Number and priority.
    pub(crate) hook: Option<(u32, u32)>,
    pub(crate) policy: Option<u32>,
    /// The expressions of each rule, in the bytes of their attributes.
    pub(crate) rules: Vec<Vec<u8>>,
}

/// What a set has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetListing {
    pub(crate) flags: u32,
    pub(crate) key_type: u32,
    pub(crate) key_len: u32,
    /// Its elements.
    pub elements: BTreeSet<Element>,
}

impl Listing {
    /// How the kernel lists `table` once it has it.
    #[must_use]
    pub fn of(table: &Table) -> Self {
        let mut listing = Self::default();
        for set in &table.sets {
            let mut found = set_listing(&message::set(table.name, set).0);
            found.elements.extend(set.elements.iter().map(Cow::into_owned));
            listing.sets.insert(set.name.clone(), found);
        }
        for chain in &table.chains {
            let mut found = chain_listing(&message::chain(table.name, chain).0);
            found.rules = chain
                .rules
                .iter()
                .map(|rule| expressions(&message::rule(table.name, chain.name, rule).0))
                .collect();
            listing.chains.insert(chain.name.to_owned(), found);
        }
        for chain in &table.led_to {
            let mut found = ChainListing::default();
            found.rules.extend(
                chain
                    .rules
                    .iter()
                    .map(|rule| expressions(&message::rule(table.name, &chain.name, rule).0)),
            );
            listing.chains.insert(chain.name.clone(), found);
        }
        listing
    }

    /// Whether the sets have the same elements as those of `other`.
    #[must_use]
    pub fn has_elements_of(&self, other: &Self) -> bool {
        let elements = |listing: &Self| -> BTreeMap<String, BTreeSet<Element>> {
            let sets = listing.sets.iter();
            sets.map(|(name, set)| (name.clone(), set.elements.clone())).collect()
        };
        elements(self) == elements(other)
    }

    /// The same without any element.
    #[must_use]
    pub fn without_elements(mut self) -> Self {
        for set in self.sets.values_mut() {
            set.elements.clear();
        }
        self
    }
}

pub(crate) fn chain_listing(attributes: &[u8]) -> ChainListing {
    let hook = attribute::find(attributes, message::CHAIN_HOOK).and_then(|hook| {
        let number = attribute::number(hook, message::HOOK_NUMBER)?;
        Some((number, attribute::number(hook, message::HOOK_PRIORITY)?))
    });
    ChainListing {
        kind: attribute::text(attributes, message::CHAIN_TYPE),
        hook,
        policy: attribute::number(attributes, message::CHAIN_POLICY),
        rules: Vec::new(),
    }
}

pub(crate) fn set_listing(attributes: &[u8]) -> SetListing {
    let number = |kind| attribute::number(attributes, kind).unwrap_or_default();
    SetListing {
        flags: number(message::SET_FLAGS),
        key_type: number(message::SET_KEY_TYPE),
        key_len: number(message::SET_KEY_LEN),
        elements: BTreeSet::new(),
    }
}

/// The expressions of a rule, without what a counter has counted.
pub(crate) fn expressions(attributes: &[u8]) -> Vec<u8> {
    let list = attribute::find(attributes, message::RULE_EXPRESSIONS).unwrap_or_default();
    let mut out = Attributes::default();
    for (_kind, expression) in attribute::parse(list) {
        let name = attribute::text(expression, EXPRESSION_NAME).unwrap_or_default();
        out.text(EXPRESSION_NAME, &name);
        if name != COUNTER
            && let Some(data) = attribute::find(expression, EXPRESSION_DATA)
        {
            out.bytes(EXPRESSION_DATA, data);
        }
    }
    out.0
}

/// The elements in one message of a dump of a set.
pub(crate) fn elements(attributes: &[u8]) -> Vec<Element> {
    let list = attribute::find(attributes, message::ELEMENTS).unwrap_or_default();
    attribute::parse(list)
        .filter_map(|(_kind, element)| {
            let key = attribute::find(element, message::ELEMENT_KEY)?;
            let flags = attribute::number(element, message::ELEMENT_FLAGS).unwrap_or_default();
            let last = attribute::find(element, message::ELEMENT_KEY_END)
                .and_then(|last| attribute::find(last, message::DATA_VALUE));
            Some(Element {
                key: attribute::find(key, message::DATA_VALUE)?.to_vec(),
                is_interval_end: flags & message::FLAG_INTERVAL_END != 0,
                last: last.map(<[u8]>::to_vec),
                verdict: attribute::find(element, message::ELEMENT_DATA).and_then(Verdict::decode),
            })
        })
        .collect()
}
