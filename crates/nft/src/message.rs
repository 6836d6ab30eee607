//! The messages about objects: types, and attributes of each.

use crate::attribute::{self, Attributes};
use crate::expression::Expression;
use crate::table::{Chain, Element, KeyPart, Set};

/// `NFNL_SUBSYS_NFTABLES`: the high byte of the type of all messages here.
pub(crate) const SUBSYSTEM: u8 = 10;

/// Low bytes of the types (`NFT_MSG_*`).
pub(crate) const NEW_TABLE: u8 = 0;
pub(crate) const GET_TABLE: u8 = 1;
pub(crate) const DELETE_TABLE: u8 = 2;
pub(crate) const NEW_CHAIN: u8 = 3;
pub(crate) const GET_CHAIN: u8 = 4;
pub(crate) const NEW_RULE: u8 = 6;
pub(crate) const GET_RULE: u8 = 7;
pub(crate) const NEW_SET: u8 = 9;
pub(crate) const GET_SET: u8 = 10;
pub(crate) const NEW_ELEMENTS: u8 = 12;
pub(crate) const GET_ELEMENTS: u8 = 13;
pub(crate) const DELETE_ELEMENTS: u8 = 14;
pub(crate) const GET_GENERATION: u8 = 16;

/// The attribute of every object that names its table.
pub(crate) const TABLE: u16 = 1;

/// `NFTA_TABLE_FLAGS`, `NFT_TABLE_F_DORMANT` and `NFT_TABLE_F_OWNER`.
pub(crate) const TABLE_FLAGS: u16 = 2;
pub(crate) const FLAG_DORMANT: u32 = 1;
const FLAG_OWNER: u32 = 2;

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
pub(crate) const LIST_ELEMENT: u16 = 1;

/// Attributes of sets (`NFTA_SET_*`), and `NFT_SET_INTERVAL` and `NFT_SET_TIMEOUT`.
pub(crate) const SET_NAME: u16 = 2;
pub(crate) const SET_FLAGS: u16 = 3;
pub(crate) const SET_KEY_TYPE: u16 = 4;
pub(crate) const SET_KEY_LEN: u16 = 5;
const SET_ID: u16 = 10;
const SET_USER_DATA: u16 = 13;
/// A note for the program `nft`, which otherwise shows names of interfaces backwards: type 0 (order
/// of keys), 4 bytes, "of the host".
const HOST_ORDER_KEYS: [u8; 6] = {
    let [a, b, c, d] = 1_u32.to_ne_bytes();
    [0, 4, a, b, c, d]
};
pub(crate) const FLAG_INTERVAL: u32 = 4;
const FLAG_TIMEOUT: u32 = 16;

/// Attributes of elements (`NFTA_SET_ELEM_LIST_*`, `NFTA_SET_ELEM_*`), and
/// `NFT_SET_ELEM_INTERVAL_END`.
pub(crate) const ELEMENTS_SET: u16 = 2;
pub(crate) const ELEMENTS: u16 = 3;
pub(crate) const ELEMENT_KEY: u16 = 1;
pub(crate) const ELEMENT_FLAGS: u16 = 3;
const ELEMENT_TIMEOUT: u16 = 4;
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

/// A table that goes with the socket that made it, with a comment as `nft` shows it.
pub(crate) fn owned_table(name: &str, comment: &str) -> Attributes {
    let mut out = table(name);
    out.number(TABLE_FLAGS, FLAG_OWNER);
    let mut text = comment.to_owned();
    while text.len() > COMMENT_MAX {
        text.pop();
    }
    text.push('\0');
    // `struct nftnl_udata`: type, length, value.
    let length = u8::try_from(text.len()).unwrap_or(u8::MAX);
    out.bytes(TABLE_USERDATA, &[&[COMMENT, length], text.as_bytes()].concat());
    out
}

/// The comment on a table, of its attributes.
pub(crate) fn comment(attributes: &[u8]) -> Option<String> {
    let [COMMENT, length, rest @ ..] = attribute::find(attributes, TABLE_USERDATA)? else {
        return None;
    };
    let text = rest.get(..usize::from(*length))?;
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
            list.nested(LIST_ELEMENT, |element| expression.encode(element));
        }
    });
    out
}

pub(crate) fn set(table_name: &str, set: &Set) -> Attributes {
    let mut out = table(table_name);
    out.text(SET_NAME, &set.name);
    let interval = if set.is_interval { FLAG_INTERVAL } else { 0 };
    let timeout = if set.can_expire { FLAG_TIMEOUT } else { 0 };
    out.number(SET_FLAGS, interval | timeout);
    out.number(SET_KEY_TYPE, key_type(&set.key));
    out.number(SET_KEY_LEN, key_len(&set.key));
    // For references within the transaction, of which there are none; the kernel wants it.
    out.number(SET_ID, 1);
    if set.key == [KeyPart::InterfaceName] {
        out.bytes(SET_USER_DATA, &HOST_ORDER_KEYS);
    }
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
