//! Sets and maps that rules ask, and what they have for a key of which not all may be known.

use crate::attribute;
use crate::message;
use crate::verdict::Verdict;

use super::evaluate::extremes;

/// `NFT_SET_CONCAT`: keys of several parts, each padded to four bytes.
const SET_CONCAT: u32 = 0x80;

/// `NFT_SET_ELEM_CATCHALL`.
const CATCH_ALL: u32 = 2;

/// `NFTA_SET_DESC_CONCAT`, `NFTA_SET_FIELD_LEN`.
const DESCRIPTION_PARTS: u16 = 2;
const PART_LEN: u16 = 1;

/// An element.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Entry {
    key: Vec<u8>,
    is_interval_end: bool,
    /// The last key of the interval, where each part of a key has one of its own.
    last: Option<Vec<u8>>,
    /// Whether it stands for all keys that no other does.
    is_catch_all: bool,
    /// What becomes of a packet, in a map that decides.
    pub(super) verdict: Option<Verdict>,
    /// What is loaded, in any other map.
    pub(super) value: Option<Vec<u8>>,
}

/// A set or a map.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Set {
    pub(super) flags: u32,
    /// Bytes of each part of a key, of several.
    pub(super) parts: Vec<usize>,
    pub(super) entries: Vec<Entry>,
}

/// What a set has for a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found<'a> {
    Nothing,
    This(&'a Entry),
    /// One of these, or nothing.
    Perhaps(Vec<&'a Entry>),
}

/// Whether a key is that of an element, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Is {
    It,
    Another,
    Unknown,
}

impl Entry {
    /// The elements in one message of a dump of a set.
    pub(super) fn read_all(attributes: &[u8]) -> Vec<Self> {
        let list = attribute::find(attributes, message::ELEMENTS).unwrap_or_default();
        attribute::parse(list).map(|(_kind, element)| Self::read(element)).collect()
    }

    fn read(element: &[u8]) -> Self {
        let value = |kind| {
            let data = attribute::find(element, kind)?;
            Some(attribute::find(data, message::DATA_VALUE)?.to_vec())
        };
        let flags = attribute::number(element, message::ELEMENT_FLAGS).unwrap_or_default();
        Self {
            key: value(message::ELEMENT_KEY).unwrap_or_default(),
            is_interval_end: flags & message::FLAG_INTERVAL_END != 0,
            last: value(message::ELEMENT_KEY_END),
            is_catch_all: flags & CATCH_ALL != 0,
            verdict: attribute::find(element, message::ELEMENT_DATA).and_then(Verdict::decode),
            value: value(message::ELEMENT_DATA),
        }
    }
}

#[cfg(test)]
impl From<crate::table::Element> for Entry {
    fn from(element: crate::table::Element) -> Self {
        let crate::table::Element { key, is_interval_end, last, verdict } = element;
        Self { key, is_interval_end, last, verdict, ..Self::default() }
    }
}

impl Set {
    /// The set that these attributes describe, without an element.
    pub(super) fn read(attributes: &[u8]) -> Self {
        let flags = attribute::number(attributes, message::SET_FLAGS).unwrap_or_default();
        let described = attribute::find(attributes, message::SET_DESCRIPTION).unwrap_or_default();
        let parts = attribute::find(described, DESCRIPTION_PARTS).unwrap_or_default();
        let len = |part| attribute::number(part, PART_LEN).map_or(0, |len| len as usize);
        let parts = attribute::parse(parts).map(|(_kind, part)| len(part)).collect();
        Self { flags, parts, entries: Vec::new() }
    }

    /// Bytes of its keys; none where it has no element with one.
    pub(super) fn key_len(&self) -> Option<usize> {
        self.entries.iter().find(|entry| !entry.is_catch_all).map(|entry| entry.key.len())
    }

    /// What it has for `key`, whose bytes need not all be known.
    pub(super) fn look_up(&self, key: &[Option<u8>]) -> Found<'_> {
        let found = if self.flags & message::FLAG_INTERVAL == 0 || self.flags & SET_CONCAT != 0 {
            self.among_all(key)
        } else {
            self.among_intervals(key)
        };
        let rest = self.entries.iter().find(|entry| entry.is_catch_all);
        match (found, rest) {
            (Found::Nothing, Some(rest)) => Found::This(rest),
            (Found::Perhaps(mut some), Some(rest)) => {
                some.push(rest);
                Found::Perhaps(some)
            }
            (found, _) => found,
        }
    }

    /// Each element by itself.
    fn among_all(&self, key: &[Option<u8>]) -> Found<'_> {
        let mut perhaps = Vec::new();
        for entry in self.entries.iter().filter(|entry| !entry.is_catch_all) {
            match self.is_of(entry, key) {
                Is::It if perhaps.is_empty() => return Found::This(entry),
                Is::It | Is::Unknown => perhaps.push(entry),
                Is::Another => {}
            }
        }
        if perhaps.is_empty() { Found::Nothing } else { Found::Perhaps(perhaps) }
    }

    fn is_of(&self, entry: &Entry, key: &[Option<u8>]) -> Is {
        if entry.key.len() != key.len() {
            return Is::Another;
        }
        let Some(last) = entry.last.as_ref().filter(|last| last.len() == key.len()) else {
            let mut known = entry.key.iter().zip(key);
            return match known.clone().any(|(byte, known)| known.is_some_and(|it| it != *byte)) {
                true => Is::Another,
                false if known.all(|(_, known)| known.is_some()) => Is::It,
                false => Is::Unknown,
            };
        };
        let mut is = Is::It;
        let mut start = 0;
        let whole = [key.len()];
        for len in if self.parts.is_empty() { &whole[..] } else { &self.parts } {
            let (part, end) = (start..(start + len).min(key.len()), start + len);
            start = end.next_multiple_of(4);
            let (Some(known), Some(first), Some(last)) =
                (key.get(part.clone()), entry.key.get(part.clone()), last.get(part))
            else {
                return Is::Unknown;
            };
            match within(known, first, last) {
                Is::It => {}
                Is::Unknown => is = Is::Unknown,
                Is::Another => return Is::Another,
            }
        }
        is
    }

    /// The begins and ends of intervals, in which the keys of all elements lie in one row.
    fn among_intervals(&self, key: &[Option<u8>]) -> Found<'_> {
        let all = || self.entries.iter().filter(|entry| !entry.is_catch_all);
        let begins = || all().filter(|entry| !entry.is_interval_end);
        let Some((least, most)) = extremes(key) else {
            let begins: Vec<&Entry> = begins().collect();
            return if begins.is_empty() { Found::Nothing } else { Found::Perhaps(begins) };
        };
        let (least, most) = (least.as_slice(), most.as_slice());
        let is_between =
            |entry: &&Entry| entry.key.as_slice() > least && entry.key.as_slice() <= most;
        let first = self.interval_of(least);
        if !all().any(|entry| is_between(&entry)) {
            return first.map_or(Found::Nothing, Found::This);
        }
        let perhaps: Vec<&Entry> = first.into_iter().chain(begins().filter(is_between)).collect();
        if perhaps.is_empty() { Found::Nothing } else { Found::Perhaps(perhaps) }
    }

    /// The begin of the interval that has the key.
    fn interval_of(&self, key: &[u8]) -> Option<&Entry> {
        // The last begin or end that is not behind the key says whether it is inside. Where one
        // interval ends and the next begins with one key, the begin counts.
        let all = self.entries.iter().filter(|entry| !entry.is_catch_all);
        let before = all.filter(|entry| entry.key.as_slice() <= key);
        let last = before.max_by_key(|entry| (&entry.key, !entry.is_interval_end));
        last.filter(|entry| !entry.is_interval_end)
    }
}

/// Whether what is known of a key lies between two.
fn within(key: &[Option<u8>], first: &[u8], last: &[u8]) -> Is {
    let Some((least, most)) = extremes(key) else { return Is::Unknown };
    let (least, most) = (least.as_slice(), most.as_slice());
    if most < first || least > last {
        Is::Another
    } else if least >= first && most <= last {
        Is::It
    } else {
        Is::Unknown
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::FLAG_INTERVAL;

    fn entry(key: &[u8], to: &str) -> Entry {
        Entry { key: key.to_vec(), verdict: Some(Verdict::Goto(to.to_owned())), ..Entry::default() }
    }

    fn known(key: &[u8]) -> Vec<Option<u8>> {
        key.iter().copied().map(Some).collect()
    }

    /// Where the map leads: to one, or perhaps to some.
    fn leads(set: &Set, key: &[Option<u8>]) -> (bool, Vec<String>) {
        let to = |entry: &&Entry| match &entry.verdict {
            Some(Verdict::Goto(to)) => to.clone(),
            _ => String::new(),
        };
        match set.look_up(key) {
            Found::Nothing => (true, Vec::new()),
            Found::This(entry) => (true, vec![to(&entry)]),
            Found::Perhaps(entries) => (false, entries.iter().map(to).collect()),
        }
    }

    #[test]
    fn map_of_several_parts_is_asked_as_far_as_the_key_is_known() {
        // Address, protocol and port, as kube-proxy's map of services.
        let key = |host: u8, port: u8| [10, 96, 0, host, 6, 0, 0, 0, 0, port, 0, 0];
        let entries = vec![entry(&key(10, 53), "dns"), entry(&key(10, 80), "web")];
        let set = Set { flags: SET_CONCAT, parts: vec![4, 1, 2], entries };
        assert_eq!(leads(&set, &known(&key(10, 80))), (true, vec!["web".to_owned()]));
        assert_eq!(leads(&set, &known(&key(11, 80))), (true, vec![]));
        let mut any_port = known(&key(10, 0));
        any_port[8..10].fill(None);
        let both = vec!["dns".to_owned(), "web".to_owned()];
        assert_eq!(leads(&set, &any_port), (false, both));
        let mut elsewhere = known(&key(99, 0));
        elsewhere[4..].fill(None);
        assert_eq!(leads(&set, &elsewhere), (true, vec![]), "no key begins so");
    }

    #[test]
    fn parts_have_intervals_of_their_own() {
        let entries = vec![Entry {
            last: Some(vec![10, 1, 255, 255, 0, 90, 0, 0]),
            ..entry(&[10, 1, 0, 0, 0, 80, 0, 0], "some")
        }];
        let set = Set { flags: FLAG_INTERVAL | SET_CONCAT, parts: vec![4, 2], entries };
        let some = || (true, vec!["some".to_owned()]);
        assert_eq!(leads(&set, &known(&[10, 1, 7, 7, 0, 85, 0, 0])), some());
        // Between the two keys as a whole, and not in each part.
        assert_eq!(leads(&set, &known(&[10, 1, 7, 7, 0, 91, 0, 0])), (true, vec![]));
        let mut subnet = known(&[10, 1, 7, 7, 0, 85, 0, 0]);
        subnet[1..4].fill(None);
        assert_eq!(leads(&set, &subnet), (false, vec!["some".to_owned()]));
        subnet[1] = Some(1);
        assert_eq!(leads(&set, &subnet), some());
    }

    #[test]
    fn interval_leads_where_its_begin_does() {
        let end = |key: &[u8]| Entry { is_interval_end: true, ..entry(key, "") };
        let entries = vec![entry(&[10], "low"), end(&[20]), entry(&[20], "high"), end(&[30])];
        let set = Set { flags: FLAG_INTERVAL, parts: Vec::new(), entries };
        for (key, to) in [(9, None), (10, Some("low")), (20, Some("high")), (30, None)] {
            let expected = to.map(str::to_owned).into_iter().collect();
            assert_eq!(leads(&set, &[Some(key)]), (true, expected), "{key}");
        }
        assert_eq!(leads(&set, &[None]).1, ["low", "high"]);
    }

    #[test]
    fn what_no_other_element_has_is_the_catch_all_s() {
        let rest = Entry { is_catch_all: true, ..entry(&[], "rest") };
        let set = Set { entries: vec![entry(&[7], "seven"), rest], ..Set::default() };
        assert_eq!(set.key_len(), Some(1));
        assert_eq!(leads(&set, &[Some(7)]), (true, vec!["seven".to_owned()]));
        assert_eq!(leads(&set, &[Some(8)]), (true, vec!["rest".to_owned()]));
        assert_eq!(leads(&set, &[None]).1, ["seven", "rest"]);
    }
}
