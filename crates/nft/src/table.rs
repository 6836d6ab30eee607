//! A table as a value: what it has, in the order in which it is made.

use std::sync::Arc;

use crate::elements::Elements;
use crate::expression::Expression;
use crate::verdict::Verdict;

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

/// To whom a table belongs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TableFlags {
    /// To whoever may change tables at all.
    #[default]
    None,
    /// To the socket that made it alone, and to nobody once that is closed: then it goes on as it
    /// is, until the next one makes it his (Linux 6.9).
    OwnedAndLasting,
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
    /// The chains that its rules and its maps lead to.
    pub led_to: Vec<LedTo>,
}

impl Table {
    /// The rules of each chain, by its name.
    pub(crate) fn rules(&self) -> impl Iterator<Item = (&str, &[Vec<Expression>])> {
        let base = self.chains.iter().map(|chain| (chain.name, chain.rules.as_slice()));
        let led_to = self.led_to.iter().map(|chain| (chain.name.as_str(), &*chain.rules));
        base.chain(led_to)
    }
}

/// A named set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// Its name, unique in the table.
    pub name: String,
    /// What a key is put together from.
    pub key: Vec<KeyPart>,
    /// Whether the elements are the begins and ends of intervals. Those of a key of several parts
    /// are each an interval of their own, from the key to the `last`.
    pub is_interval: bool,
    /// Whether elements may be given a time after which they are no more.
    pub can_expire: bool,
    /// Whether it is a map, whose elements say what becomes of a packet.
    pub decides: bool,
    /// What it has.
    pub elements: Elements,
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
    /// `inet_proto`: a protocol behind the IP header.
    Protocol,
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
            Self::Protocol => 12,
            Self::Service => 13,
            Self::InterfaceName => 41,
        }
    }

    /// Bytes of a value.
    pub(crate) const fn len_bytes(self) -> usize {
        match self {
            Self::Protocol => 1,
            Self::Service => 2,
            Self::Ipv4Address => 4,
            Self::EtherAddress => 6,
            Self::Ipv6Address | Self::InterfaceName => 16,
        }
    }
}

/// One element of a set.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Element {
    /// The key, its parts padded to four bytes each if there are several.
    pub key: Vec<u8>,
    /// Whether an interval ends before this key.
    pub is_interval_end: bool,
    /// The last key of the interval, in a set of intervals whose keys have several parts: each part
    /// of a key is between those of these two.
    pub last: Option<Vec<u8>>,
    /// What becomes of a packet, in a map.
    pub verdict: Option<Verdict>,
}

impl Element {
    /// An element of a set that has no intervals, from the parts of its key.
    #[must_use]
    pub fn of(parts: &[&[u8]]) -> Self {
        Self { key: joined(parts), ..Self::default() }
    }

    /// An element of a set of intervals whose keys have several parts, each with its first and its
    /// last value.
    #[must_use]
    pub fn ranges(parts: &[(&[u8], &[u8])]) -> Self {
        let (first, last): (Vec<_>, Vec<_>) = parts.iter().copied().unzip();
        let (first, last) = (joined(&first), joined(&last));
        Self { key: first, last: Some(last), ..Self::default() }
    }

    /// The element of a map that has `verdict` for what this one is the key of.
    #[must_use]
    pub fn deciding(self, verdict: Verdict) -> Self {
        Self { verdict: Some(verdict), ..self }
    }

    /// The elements for the interval from `first` to `last`, both inside.
    #[must_use]
    pub fn interval(first: &[u8], last: &[u8]) -> Vec<Self> {
        let mut elements = vec![Self { key: first.to_vec(), ..Self::default() }];
        // The first key behind it; none, when it goes to the end of all keys.
        let mut end = last.to_vec();
        for byte in end.iter_mut().rev() {
            let (next, has_wrapped) = byte.overflowing_add(1);
            *byte = next;
            if !has_wrapped {
                elements.push(Self { key: end, is_interval_end: true, ..Self::default() });
                break;
            }
        }
        elements
    }
}

/// The parts of a key, as the kernel has them: padded to four bytes each if there are several.
fn joined(parts: &[&[u8]]) -> Vec<u8> {
    let mut key = Vec::new();
    for part in parts {
        key.extend(*part);
        if parts.len() > 1 {
            key.resize(key.len().next_multiple_of(4), 0);
        }
    }
    key
}

/// A chain that is called by rules and maps alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedTo {
    /// Its name, unique in the table.
    pub name: String,
    /// Its rules, shared as elements are; a packet that none decides about goes back to where it
    /// came from.
    pub rules: Arc<[Vec<Expression>]>,
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
        let end = Element { key: vec![10, 245, 0, 0], is_interval_end: true, ..Element::default() };
        assert_eq!(elements[1], end);
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

    #[test]
    fn interval_of_several_parts_has_both_its_keys() {
        let element = Element::ranges(&[(&[6], &[6]), (&7000_u16.to_be_bytes(), &[0x1b, 0x62])]);
        assert_eq!(element.key, [6, 0, 0, 0, 0x1b, 0x58, 0, 0]);
        assert_eq!(element.last.unwrap(), [6, 0, 0, 0, 0x1b, 0x62, 0, 0]);
    }
}
