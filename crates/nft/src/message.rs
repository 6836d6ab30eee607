//! The messages about objects: types, and attributes of each.

use crate::attribute::{self, Attributes};
use crate::expression::Expression;
use crate::table::{Chain, Element, KeyPart, Set, TableFlags};

/// `NFNL_SUBSYS_NFTABLES`: the high byte of the type of all messages here.
pub(crate) const SUBSYSTEM: u8 = 10;

/// Low bytes of the types (`NFT_MSG_*`).
pub(crate) const NEW_TABLE: u8 = 0;
pub(crate) const GET_TABLE: u8 = 1;
pub(crate) const DELETE_TABLE: u8 = 2;
pub(crate) const NEW_CHAIN: u8 = 3;
pub(crate) const GET_CHAIN: u8 = 4;
pub(crate) const DELETE_CHAIN: u8 = 5;
pub(crate) const NEW_RULE: u8 = 6;
pub(crate) const GET_RULE: u8 = 7;
pub(crate) const DELETE_RULE: u8 = 8;
pub(crate) const NEW_SET: u8 = 9;
pub(crate) const GET_SET: u8 = 10;
pub(crate) const DELETE_SET: u8 = 11;
pub(crate) const NEW_ELEMENTS: u8 = 12;
pub(crate) const GET_ELEMENTS: u8 = 13;
pub(crate) const DELETE_ELEMENTS: u8 = 14;
pub(crate) const GET_GENERATION: u8 = 16;

/// The attribute of every object that names its table.
pub(crate) const TABLE: u16 = 1;

/// `NFTA_TABLE_FLAGS`, `NFT_TABLE_F_DORMANT`, `NFT_TABLE_F_OWNER` and `NFT_TABLE_F_PERSIST`.
pub(crate) const TABLE_FLAGS: u16 = 2;
pub(crate) const FLAG_DORMANT: u32 = 1;
pub(crate) const FLAG_OWNER: u32 = 2;
pub(crate) const FLAG_PERSIST: u32 = 4;

/// `NFTA_TABLE_USERDATA`, and in it `NFTNL_UDATA_TABLE_COMMENT`, which has 256 bytes
/// for its type, its length, the text and a zero.
const TABLE_USERDATA: u16 = 6;
const COMMENT: u8 = 0;
const COMMENT_MAX: usize = 253;

/// `NFTA_GEN_ID`.
pub(crate) const GENERATION_ID: u16 = 1;

/// Attributes of chains (`NFTA_CHAIN_*`, `NFTA_HOOK_*`).
pub(crate) const CHAIN_NAME: u16 = 3;
pub(crate) const CHAIN_HOOK: u16 = 4;
pub(crate) const CHAIN_POLICY: u16 = 5;
pub(crate) const CHAIN_TYPE: u16 = 7;
pub(crate) const HOOK_NUMBER: u16 = 1;
pub(crate) const HOOK_PRIORITY: u16 = 2;

/// `NF_ACCEPT`, the policy of all our chains.
pub(crate) const POLICY_ACCEPT: u32 = 1;

/// Attributes of rules (`NFTA_RULE_*`), and `NFTA_LIST_ELEM`.
pub(crate) const RULE_CHAIN: u16 = 2;
pub(crate) const RULE_EXPRESSIONS: u16 = 4;
pub(crate) const RULE_USERDATA: u16 = 7;

/// `NFTNL_UDATA_RULE_COMMENT`, and the most that `nft` keeps of one.
const RULE_COMMENT: u8 = 0;
const RULE_COMMENT_MAX: usize = 127;
pub(crate) const LIST_ELEMENT: u16 = 1;

/// Attributes of sets (`NFTA_SET_*`), and `NFT_SET_INTERVAL`, `NFT_SET_MAP`, `NFT_SET_TIMEOUT` and
/// `NFT_SET_CONCAT`.
pub(crate) const SET_NAME: u16 = 2;
pub(crate) const SET_FLAGS: u16 = 3;
pub(crate) const SET_KEY_TYPE: u16 = 4;
pub(crate) const SET_KEY_LEN: u16 = 5;
pub(crate) const SET_DATA_TYPE: u16 = 6;
const SET_DATA_LEN: u16 = 7;
pub(crate) const SET_DESCRIPTION: u16 = 9;
const SET_ID: u16 = 10;
const SET_USER_DATA: u16 = 13;
/// A note for the program `nft`, which otherwise shows names of interfaces backwards: type 0 (order
/// of keys), 4 bytes, "of the host".
const HOST_ORDER_KEYS: [u8; 6] = {
    let [a, b, c, d] = 1_u32.to_ne_bytes();
    [0, 4, a, b, c, d]
};
pub(crate) const FLAG_INTERVAL: u32 = 4;
const FLAG_MAP: u32 = 8;
const FLAG_TIMEOUT: u32 = 16;
const FLAG_CONCATENATED: u32 = 128;

/// `NFT_DATA_VERDICT`, and the bytes of one in a register.
const DATA_TYPE_VERDICT: u32 = 0xffff_ff00;
const VERDICT_BYTES: u32 = 16;

/// `NFTA_SET_DESC_CONCAT`, `NFTA_SET_FIELD_LEN`.
const DESCRIPTION_PARTS: u16 = 2;
const PART_LEN: u16 = 1;

/// Attributes of elements (`NFTA_SET_ELEM_LIST_*`, `NFTA_SET_ELEM_*`), and
/// `NFT_SET_ELEM_INTERVAL_END`.
pub(crate) const ELEMENTS_SET: u16 = 2;
pub(crate) const ELEMENTS: u16 = 3;
pub(crate) const ELEMENT_KEY: u16 = 1;
pub(crate) const ELEMENT_DATA: u16 = 2;
pub(crate) const ELEMENT_FLAGS: u16 = 3;
const ELEMENT_TIMEOUT: u16 = 4;
pub(crate) const ELEMENT_KEY_END: u16 = 10;
pub(crate) const FLAG_INTERVAL_END: u32 = 1;

/// `NFTA_DATA_VALUE`.
pub(crate) const DATA_VALUE: u16 = 1;

/// Bits of each part in the number of a type that is put together (`nft`'s `TYPE_BITS`).
const TYPE_BITS: u32 = 6;

pub(crate) fn table(name: &str) -> Attributes {
    let mut out = Attributes::default();
    out.text(TABLE, name);
    out
}

/// A table with flags.
pub(crate) fn flagged_table(name: &str, flags: TableFlags) -> Attributes {
    let mut out = table(name);
    match flags {
        TableFlags::None => {}
        TableFlags::OwnedAndLasting => out.number(TABLE_FLAGS, FLAG_OWNER | FLAG_PERSIST),
    }
    out
}

/// A chain by its name.
pub(crate) fn named_chain(table_name: &str, chain: &str) -> Attributes {
    let mut out = table(table_name);
    out.text(CHAIN_NAME, chain);
    out
}

/// Every rule of a chain.
pub(crate) fn all_rules(table_name: &str, chain: &str) -> Attributes {
    let mut out = table(table_name);
    out.text(RULE_CHAIN, chain);
    out
}

/// A set by its name.
pub(crate) fn named_set(table_name: &str, set: &str) -> Attributes {
    let mut out = table(table_name);
    out.text(SET_NAME, set);
    out
}

/// Every element of a set.
pub(crate) fn all_elements(table_name: &str, set: &str) -> Attributes {
    let mut out = table(table_name);
    out.text(ELEMENTS_SET, set);
    out
}

/// A table that goes with the socket that made it, with a comment as `nft` shows it.
pub(crate) fn owned_table(name: &str, comment: &str) -> Attributes {
    let mut out = table(name);
    out.number(TABLE_FLAGS, FLAG_OWNER);
    out.bytes(TABLE_USERDATA, &user_data(COMMENT, comment, COMMENT_MAX));
    out
}

/// The comment on a table, of its attributes.
pub(crate) fn comment(attributes: &[u8]) -> Option<String> {
    text_of(attribute::find(attributes, TABLE_USERDATA)?, COMMENT)
}

/// The comment on a rule, of its attributes.
pub(crate) fn rule_comment(attributes: &[u8]) -> Option<String> {
    text_of(attribute::find(attributes, RULE_USERDATA)?, RULE_COMMENT)
}

/// A text of at most `max` bytes for the program `nft` (`struct nftnl_udata`: type, length, value).
fn user_data(kind: u8, text: &str, max: usize) -> Vec<u8> {
    let mut text = text.to_owned();
    while text.len() > max {
        text.pop();
    }
    text.push('\0');
    let length = u8::try_from(text.len()).unwrap_or(u8::MAX);
    [&[kind, length], text.as_bytes()].concat()
}

/// The text in what [`user_data`] wrote.
fn text_of(user_data: &[u8], kind: u8) -> Option<String> {
    let [found, length, rest @ ..] = user_data else { return None };
    let text = rest.get(..usize::from(*length)).filter(|_text| *found == kind)?;
    Some(String::from_utf8_lossy(text.strip_suffix(&[0]).unwrap_or(text)).into_owned())
}

pub(crate) fn chain(table_name: &str, chain: &Chain) -> Attributes {
    let mut out = table(table_name);
    out.text(CHAIN_NAME, chain.name);
    out.nested(CHAIN_HOOK, |hook| {
        hook.number(HOOK_NUMBER, chain.hook.number());
        hook.number(HOOK_PRIORITY, chain.priority.cast_unsigned());
    });
    out.number(CHAIN_POLICY, POLICY_ACCEPT);
    out.text(CHAIN_TYPE, chain.kind.as_str());
    out
}

pub(crate) fn rule(table_name: &str, chain: &str, rule: &[Expression]) -> Attributes {
    let mut out = table(table_name);
    out.text(RULE_CHAIN, chain);
    out.nested(RULE_EXPRESSIONS, |list| {
        for expression in rule {
            if !matches!(expression, Expression::Comment(_)) {
                list.nested(LIST_ELEMENT, |element| expression.encode(element));
            }
        }
    });
    for expression in rule {
        if let Expression::Comment(comment) = expression {
            out.bytes(RULE_USERDATA, &user_data(RULE_COMMENT, comment, RULE_COMMENT_MAX));
        }
    }
    out
}

pub(crate) fn set(table_name: &str, set: &Set) -> Attributes {
    let mut out = table(table_name);
    out.text(SET_NAME, &set.name);
    let interval = if set.is_interval { FLAG_INTERVAL } else { 0 };
    let timeout = if set.can_expire { FLAG_TIMEOUT } else { 0 };
    let map = if set.decides { FLAG_MAP } else { 0 };
    let has_ranges = set.is_interval && set.key.len() > 1;
    let concatenated = if has_ranges { FLAG_CONCATENATED } else { 0 };
    out.number(SET_FLAGS, interval | timeout | map | concatenated);
    out.number(SET_KEY_TYPE, key_type(&set.key));
    out.number(SET_KEY_LEN, key_len(&set.key));
    if set.decides {
        out.number(SET_DATA_TYPE, DATA_TYPE_VERDICT);
        out.number(SET_DATA_LEN, VERDICT_BYTES);
    }
    if has_ranges {
        out.nested(SET_DESCRIPTION, |description| {
            description.nested(DESCRIPTION_PARTS, |parts| {
                for part in &set.key {
                    let len = u32::try_from(part.len_bytes()).unwrap_or(u32::MAX);
                    parts.nested(LIST_ELEMENT, |field| field.number(PART_LEN, len));
                }
            });
        });
    }
    // For references within the transaction, of which there are none; the kernel wants it.
    out.number(SET_ID, 1);
    if set.key == [KeyPart::InterfaceName] {
        out.bytes(SET_USER_DATA, &HOST_ORDER_KEYS);
    }
    out
}

/// What names a set, and its elements.
pub(crate) fn set_name(table_name: &str, name: &str) -> Attributes {
    let mut out = table(table_name);
    out.text(SET_NAME, name);
    out
}

pub(crate) fn key_type(key: &[KeyPart]) -> u32 {
    key.iter().fold(0, |number, part| number << TYPE_BITS | part.number())
}

/// Bytes of a key; parts are padded when there are several.
pub(crate) fn key_len(key: &[KeyPart]) -> u32 {
    let padded = |part: &KeyPart| {
        if key.len() > 1 { part.len_bytes().next_multiple_of(4) } else { part.len_bytes() }
    };
    u32::try_from(key.iter().map(padded).sum::<usize>()).unwrap_or(u32::MAX)
}

pub(crate) fn elements(table_name: &str, set: &str, elements: &[Element]) -> Attributes {
    elements_for(table_name, set, elements, None)
}

/// Elements that are no more after so many milliseconds, unless they are to stay.
pub(crate) fn elements_for(
    table_name: &str,
    set: &str,
    elements: &[Element],
    milliseconds: Option<u64>,
) -> Attributes {
    let mut out = table(table_name);
    out.text(ELEMENTS_SET, set);
    out.nested(ELEMENTS, |list| {
        for element in elements {
            list.nested(LIST_ELEMENT, |out| {
                out.nested(ELEMENT_KEY, |key| key.bytes(DATA_VALUE, &element.key));
                if let Some(last) = &element.last {
                    out.nested(ELEMENT_KEY_END, |key| key.bytes(DATA_VALUE, last));
                }
                if let Some(verdict) = &element.verdict {
                    out.nested(ELEMENT_DATA, |data| verdict.encode(data));
                }
                if element.is_interval_end {
                    out.number(ELEMENT_FLAGS, FLAG_INTERVAL_END);
                }
                if let Some(milliseconds) = milliseconds {
                    out.bytes(ELEMENT_TIMEOUT, &milliseconds.to_be_bytes());
                }
            });
        }
    });
    out
}
