//! A table as a value: what it has, in the order in which it is made.

use crate::expression::Expression;

/// Address family of a table, which decides what it sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableFamily {
    /// Packets of IPv4 and IPv6.
    Inet,
    /// Frames that cross a bridge.
    Bridge,
}

impl TableFamily {
    /// The kernel's number for it (`NFPROTO_*`).
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Inet => 1,
            Self::Bridge => 7,
        }
    }

    /// What the program `nft` calls it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Inet => "inet",
            Self::Bridge => "bridge",
        }
    }
}

/// A whole table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its family.
    pub family: TableFamily,
    /// Its name, unique in the family.
    pub name: &'static str,
    /// Its named sets.
    pub sets: Vec<Set>,
    /// Its base chains.
    pub chains: Vec<Chain>,
}

/// A named set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// Its name, unique in the table.
    pub name: String,
    /// What a key is put together from.
    pub key: Vec<KeyPart>,
    /// Whether the elements are the begins and ends of intervals.
    pub is_interval: bool,
    /// Whether elements may be given a time after which they are no more.
    pub can_expire: bool,
    /// What it has.
    pub elements: Vec<Element>,
}

/// One part of the key of a set, as the program `nft` names types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyPart {
    /// `ipv4_addr`.
    Ipv4Address,
    /// `ipv6_addr`.
    Ipv6Address,
    /// `ether_addr`.
    EtherAddress,
    /// `ifname`.
    InterfaceName,
    /// `inet_service`: a port.
    Service,
}

impl KeyPart {
    /// The number by which the program `nft` knows the type; the kernel only keeps it.
    pub(crate) const fn number(self) -> u32 {
        match self {
            Self::Ipv4Address => 7,
            Self::Ipv6Address => 8,
            Self::EtherAddress => 9,
            Self::Service => 13,
            Self::InterfaceName => 41,
        }
    }

    /// Bytes of a value.
    pub(crate) const fn len_bytes(self) -> usize {
        match self {
            Self::Service => 2,
            Self::Ipv4Address => 4,
            Self::EtherAddress => 6,
            Self::Ipv6Address | Self::InterfaceName => 16,
        }
    }
}

/// One element of a set.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Element {
    /// The key, its parts padded to four bytes each if there are several.
    pub key: Vec<u8>,
    /// Whether an interval ends before this key.
    pub is_interval_end: bool,
}

impl Element {
    /// An element of a set that has no intervals, from the parts of its key.
    #[must_use]
    pub fn of(parts: &[&[u8]]) -> Self {
        let mut key = Vec::new();
        for part in parts {
            key.extend(*part);
            if parts.len() > 1 {
                key.resize(key.len().next_multiple_of(4), 0);
            }
        }
        Self { key, is_interval_end: false }
    }

    /// The elements for the interval from `first` to `last`, both inside.
    #[must_use]
    pub fn interval(first: &[u8], last: &[u8]) -> Vec<Self> {
        let mut elements = vec![Self { key: first.to_vec(), is_interval_end: false }];
        // The first key behind it; none, when it goes to the end of all keys.
        let mut end = last.to_vec();
        for byte in end.iter_mut().rev() {
            let (next, has_wrapped) = byte.overflowing_add(1);
            *byte = next;
            if !has_wrapped {
                elements.push(Self { key: end, is_interval_end: true });
                break;
            }
        }
        elements
    }
}

/// A base chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Its name, unique in the table.
    pub name: &'static str,
    /// What its rules may do.
    pub kind: ChainKind,
    /// Where it is called.
    pub hook: Hook,
    /// Its place among the chains there: lower is earlier.
    pub priority: i32,
    /// Its rules; a packet that none decides about is accepted.
    pub rules: Vec<Vec<Expression>>,
}

/// What the rules of a base chain may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainKind {
    /// Accept and drop.
    Filter,
    /// Translate addresses.
    Nat,
}

impl ChainKind {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
        }
    }
}

/// Where a base chain is called; the numbers are the same in both families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Everything that comes in.
    Prerouting,
    /// What comes in for this machine.
    Input,
    /// What comes in and goes out again.
    Forward,
    /// What this machine sends.
    Output,
    /// Everything that goes out.
    Postrouting,
}

impl Hook {
    pub(crate) const fn number(self) -> u32 {
        match self {
            Self::Prerouting => 0,
            Self::Input => 1,
            Self::Forward => 2,
            Self::Output => 3,
            Self::Postrouting => 4,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interval_ends_before_the_next_key() {
        let elements = Element::interval(&[10, 244, 0, 0], &[10, 244, 255, 255]);
        assert_eq!(elements.len(), 2);
        assert_eq!(elements[1], Element { key: vec![10, 245, 0, 0], is_interval_end: true });
    }

    #[test]
    fn interval_up_to_the_last_key_has_no_end() {
        assert_eq!(Element::interval(&[240, 0], &[255, 255]).len(), 1);
    }

    #[test]
    fn parts_of_a_key_are_padded_each() {
        let element = Element::of(&[&[1; 6], &[2; 4]]);
        assert_eq!(element.key, [1, 1, 1, 1, 1, 1, 0, 0, 2, 2, 2, 2]);
        assert_eq!(Element::of(&[&[1; 6]]).key.len(), 6);
    }
}
