//! What a set has: elements of any kind, or nothing but addresses.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use crate::table::Element;

/// The elements of a set. Shared, so that comparing what did not change is a look at a pointer.
///
/// Most elements that there are, are addresses in sets of addresses alone, of which a node may have
/// a hundred thousand. They stay what whoever chose them has, and take no memory here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Elements {
    /// Elements of any kind, in any order.
    Listed(Arc<[Element]>),
    /// Addresses, sorted, each once.
    Ipv4(Arc<[Ipv4Addr]>),
    /// Addresses, sorted, each once.
    Ipv6(Arc<[Ipv6Addr]>),
}

impl Default for Elements {
    fn default() -> Self {
        Self::Listed(Arc::default())
    }
}

impl FromIterator<Element> for Elements {
    fn from_iter<I: IntoIterator<Item = Element>>(elements: I) -> Self {
        Self::Listed(elements.into_iter().collect())
    }
}

impl Elements {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Listed(elements) => elements.is_empty(),
            Self::Ipv4(addresses) => addresses.is_empty(),
            Self::Ipv6(addresses) => addresses.is_empty(),
        }
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = Cow<'_, Element>> {
        let (listed, ipv4, ipv6): (&[Element], &[Ipv4Addr], &[Ipv6Addr]) = match self {
            Self::Listed(elements) => (elements, &[], &[]),
            Self::Ipv4(addresses) => (&[], addresses, &[]),
            Self::Ipv6(addresses) => (&[], &[], addresses),
        };
        let ipv4 = ipv4.iter().map(|address| Cow::Owned(Element::of(&[&address.octets()])));
        let ipv6 = ipv6.iter().map(|address| Cow::Owned(Element::of(&[&address.octets()])));
        listed.iter().map(Cow::Borrowed).chain(ipv4).chain(ipv6)
    }

    /// What `self` has and `other` has not.
    pub(crate) fn without(&self, other: &Self) -> Vec<Element> {
        match (self, other) {
            (Self::Ipv4(these), Self::Ipv4(others)) => {
                only_in(these, others, |address| Element::of(&[&address.octets()]))
            }
            (Self::Ipv6(these), Self::Ipv6(others)) => {
                only_in(these, others, |address| Element::of(&[&address.octets()]))
            }
            _ => {
                let sorted = |elements: &Self| {
                    let mut elements: Vec<Element> = elements.iter().map(Cow::into_owned).collect();
                    elements.sort_unstable();
                    elements.dedup();
                    elements
                };
                only_in(&sorted(self), &sorted(other), Element::clone)
            }
        }
    }
}

/// What of the sorted list `these` is not in the sorted list `others`.
fn only_in<T: Ord>(these: &[T], others: &[T], element: impl Fn(&T) -> Element) -> Vec<Element> {
    let mut others = others.iter().peekable();
    let mut is_other = |one: &T| loop {
        match others.peek().map_or(Ordering::Greater, |other| (*other).cmp(one)) {
            Ordering::Less => _ = others.next(),
            Ordering::Equal => return true,
            Ordering::Greater => return false,
        }
    };
    these.iter().filter(|one| !is_other(one)).map(element).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ipv4(last: &[u8]) -> Elements {
        Elements::Ipv4(last.iter().map(|last| Ipv4Addr::new(10, 0, 0, *last)).collect())
    }

    fn listed(last: &[u8]) -> Elements {
        last.iter().map(|last| Element::of(&[&[10, 0, 0, *last]])).collect()
    }

    #[test]
    fn addresses_are_elements_like_others() {
        let elements: Elements = ipv4(&[1, 2]).iter().map(Cow::into_owned).collect();
        assert_eq!(elements, listed(&[1, 2]));
        assert!(ipv4(&[]).is_empty() && !ipv4(&[1]).is_empty() && Elements::default().is_empty());
    }

    #[test]
    fn difference_is_the_same_however_elements_are_kept() {
        let one = |last: u8| vec![Element::of(&[&[10, 0, 0, last]])];
        let kinds: [fn(&[u8]) -> Elements; 2] = [ipv4, listed];
        for old in kinds {
            for new in kinds {
                assert_eq!(new(&[1, 3, 4]).without(&old(&[1, 2, 3])), one(4));
                assert_eq!(old(&[1, 2, 3]).without(&new(&[1, 3, 4])), one(2));
                assert_eq!(new(&[5]).without(&old(&[])), one(5));
                assert_eq!(new(&[]).without(&old(&[5])), []);
            }
        }
        let v6 = Elements::Ipv6([Ipv6Addr::LOCALHOST].into());
        assert_eq!(v6.without(&Elements::Ipv6(Arc::default())).len(), 1);
    }
}
