//! A table file that has changed in some place, read there only.
//!
//! One node of ten thousand changes, and reading all of the file costs five times what everything else
//! about the change does. A file that was taken is nodes between headers, and what stands between two
//! headers means the same whatever stands around: so nodes before and after the change are those that
//! they were. Whatever is not quite so simple is left to a reading of the whole file.

use std::path::Path;
use std::sync::Arc;

use super::entries;
use crate::engine::NodeEntry;

/// What a node begins with, at the start of a line.
const HEADER: &str = "[[node]]";

/// How much is compared at once.
const STRIDE: usize = 4096;

/// A file that was taken.
#[derive(Debug)]
pub(super) struct Known {
    text: String,
    /// Where the header of each node stands.
    begins: Vec<usize>,
    pub(super) nodes: Vec<Arc<NodeEntry>>,
}

impl Known {
    /// The file `text`, which has `nodes`; none if it is not simple.
    pub(super) fn new(text: String, nodes: &[Arc<NodeEntry>]) -> Option<Self> {
        let begins: Vec<usize> = headers(&text, 0).collect();
        let is_simple = begins.len() == nodes.len() && !has_long_string(&text);
        is_simple.then(|| Self { text, begins, nodes: nodes.to_vec() })
    }

    /// The file after a change to `text`; none if that has to be read as a whole.
    pub(super) fn changed_to(&self, text: &str) -> Option<Self> {
        let (old, new) = (self.text.as_bytes(), text.as_bytes());
        let same = common(old.chunks(STRIDE), new.chunks(STRIDE), |one, other| {
            one.iter().zip(other).take_while(|(one, other)| one == other).count()
        });
        // The node in which the change begins: its header is as it was.
        let first = self.begins.partition_point(|begin| begin + HEADER.len() <= same);
        let first = first.checked_sub(1)?;
        let begin = self.begins[first];

        let (old_rest, new_rest) = (&old[begin..], &new[begin..]);
        let same = common(old_rest.rchunks(STRIDE), new_rest.rchunks(STRIDE), |one, other| {
            let pairs = one.iter().rev().zip(other.iter().rev());
            pairs.take_while(|(one, other)| one == other).count()
        });
        // The node before which it ends: the line before the header is as it was, too.
        let unchanged = old.len() - same.saturating_sub(1);
        let next = self.begins.partition_point(|begin| *begin < unchanged).max(first + 1);
        let old_end = self.begins.get(next).copied().unwrap_or(old.len());
        let end = new.len() - (old.len() - old_end);

        let changed = text.get(begin..end)?;
        if has_long_string(changed) {
            return None;
        }
        let (_, read) = entries(Path::new(""), changed).ok()?;
        let found: Vec<usize> = headers(changed, begin).collect();
        if found.len() != read.len() {
            return None;
        }
        let moved = self.begins[next..].iter().map(|place| place - old_end + end);
        Some(Self {
            begins: self.begins[..first].iter().copied().chain(found).chain(moved).collect(),
            nodes: self.nodes[..first]
                .iter()
                .cloned()
                .chain(read.into_iter().map(Arc::new))
                .chain(self.nodes[next..].iter().cloned())
                .collect(),
            text: text.to_owned(),
        })
    }
}

/// Whether there may be a string of several lines, which may have anything in it, a header too.
fn has_long_string(text: &str) -> bool {
    text.contains("\"\"\"") || text.contains("'''")
}

/// Where the headers of `text` stand, if that begins at `offset`.
fn headers(text: &str, offset: usize) -> impl Iterator<Item = usize> {
    let first = text.starts_with(HEADER).then_some(offset);
    let others = text.match_indices("\n[[node]]").map(move |(place, _)| offset + place + 1);
    first.into_iter().chain(others)
}

/// How many bytes are alike, from where the pieces begin; `within` says how many of two pieces are.
fn common<'a>(
    one: impl Iterator<Item = &'a [u8]>,
    other: impl Iterator<Item = &'a [u8]>,
    within: impl Fn(&[u8], &[u8]) -> usize,
) -> usize {
    let mut same = 0;
    for (one, other) in one.zip(other) {
        if one != other {
            return same + within(one, other);
        }
        same += one.len();
    }
    same
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nodes(text: &str) -> Option<Vec<Arc<NodeEntry>>> {
        let (_, nodes) = entries(Path::new(""), text).ok()?;
        Some(nodes.into_iter().map(Arc::new).collect())
    }

    fn known(text: &str) -> Known {
        Known::new(text.to_owned(), &nodes(text).unwrap()).unwrap()
    }

    fn node(number: u8) -> String {
        format!(
            "[[node]]\nname = \"node{number}\" # [[node]]\naddress = \"192.168.1.{number}\"\n\
             subnets = [\n  \"10.244.{number}.0/24\",\n]\n"
        )
    }

    fn table(numbers: &[u8]) -> String {
        let nodes: String = numbers.iter().map(|number| node(*number)).collect();
        format!("# the nodes\n\n{nodes}")
    }

    #[test]
    fn nodes_around_a_change_are_the_very_same() {
        let before = known(&table(&[1, 2, 3, 4]));
        for (numbers, kept) in [
            (vec![1, 2, 9, 4], vec![0, 1, 3]),
            (vec![1, 3, 4], vec![0, 2, 3]),
            (vec![1, 2, 3, 4, 5], vec![0, 1, 2, 3]),
            (vec![1, 2, 7, 8, 3, 4], vec![0, 1, 2, 3]),
            (vec![1, 2], vec![0, 1]),
        ] {
            let text = table(&numbers);
            let after = before.changed_to(&text).unwrap();
            assert_eq!(Some(&after.nodes), nodes(&text).as_ref(), "{numbers:?}");
            // Of those next to the change one may have been read again.
            let same = |index: &usize| {
                after.nodes.iter().any(|node| Arc::ptr_eq(node, &before.nodes[*index]))
            };
            assert!(kept.iter().filter(|index| same(index)).count() + 1 >= kept.len());
            assert_eq!(after.begins, known(&text).begins, "{numbers:?}");
        }
    }

    #[test]
    fn what_is_not_simple_is_read_as_a_whole() {
        let text = table(&[1, 2, 3]);
        let before = known(&text);
        let comment = text.replace("# the nodes", "# a node");
        assert!(before.changed_to(&comment).is_none(), "before the first header");
        for faulty in [
            text.replace("node2\"", "node2"),
            text.replace("node2\"", "node2\"\"\""),
            text.replace("10.244.2.0/24\",\n]", "10.244.2.0/24\",\n"),
            text.replace("192.168.1.2\"", "192.168.1.2\"\nother = 1"),
        ] {
            assert!(before.changed_to(&faulty).is_none(), "{faulty}");
        }
        let long = table(&[1]).replace("\"node1\"", "\"\"\"node1\"\"\"");
        assert!(Known::new(long.clone(), &nodes(&long).unwrap()).is_none());
    }

    proptest! {
        /// Whatever is written into a file: what comes of reading a part is what comes of reading all.
        #[test]
        fn a_part_says_what_the_whole_says(
            numbers in proptest::collection::vec(1..200_u8, 1..8),
            begin in 0..400_usize,
            len in 0..200_usize,
            written in prop_oneof![
                "[\\[\\]\"\'#=node\n1 ]{0,12}",
                (1..200_u8).prop_map(node),
                Just("[[node]]\n".to_owned()),
                Just(String::new()),
            ],
        ) {
            let text = table(&numbers);
            let begin = begin.min(text.len());
            let end = (begin + len).min(text.len());
            let changed = format!("{}{written}{}", &text[..begin], &text[end..]);
            if let Some(after) = known(&text).changed_to(&changed) {
                let all = nodes(&changed);
                prop_assert_eq!(Some(&after.nodes), all.as_ref());
                let again = Known::new(changed, &after.nodes);
                prop_assert_eq!(again.map(|known| known.begins), Some(after.begins));
            }
        }
    }
}
