//! Names that follow from what they are for.

use std::collections::{HashMap, HashSet};
use std::hash::{Hash, Hasher};

use crate::plan::{Name, Rule};

/// Names that were given, each once.
#[derive(Debug)]
pub(super) struct Names<K> {
    given: HashMap<K, Name>,
    taken: HashSet<Name>,
}

impl<K> Default for Names<K> {
    fn default() -> Self {
        Self { given: HashMap::new(), taken: HashSet::new() }
    }
}

impl<K: Clone + Eq + Hash> Names<K> {
    /// The name of `key`: the one `proposed`, or another one if something else has that. Two
    /// things whose hashes are equal are not one thing.
    pub(super) fn name(&mut self, key: &K, proposed: impl FnOnce() -> String) -> Name {
        if let Some(name) = self.given.get(key) {
            return name.clone();
        }
        let proposed = proposed();
        let mut name = Name::new(&proposed);
        let mut number = 2_u32;
        while self.taken.contains(&name) {
            name = Name::new(&format!("{proposed}.{number}"));
            number += 1;
        }
        self.taken.insert(name.clone());
        self.given.insert(key.clone(), name.clone());
        name
    }

    /// The name that `key` was given.
    pub(super) fn known(&self, key: &K) -> Option<&Name> {
        self.given.get(key)
    }

    /// Forgets the names of what is not kept.
    pub(super) fn retain(&mut self, keep: impl Fn(&K) -> bool) {
        let taken = &mut self.taken;
        self.given.retain(|key, name| {
            let kept = keep(key);
            if !kept {
                taken.remove(name);
            }
            kept
        });
    }
}

/// `prefix` and the hash of `value`.
pub(super) fn hashed(prefix: &str, value: &impl Hash) -> String {
    format!("{prefix}{:012x}", hash(value))
}

/// Room for the number of a name whose hash another one has, and for a prefix such as `i-`.
const ROOM: usize = 12;

/// `text`, or if it is too long for a name or a comment its begin and its hash.
pub(super) fn shortened(text: &str) -> String {
    const MAX: usize = Name::MAX_LEN - ROOM;
    const _: () = assert!(Name::MAX_LEN + " ingress[4294967295]".len() <= Rule::MAX_COMMENT);
    if text.len() <= MAX {
        return text.to_owned();
    }
    // Names of objects are ASCII.
    let begin: String = text.chars().take(MAX - 14).collect();
    format!("{begin}..{:012x}", hash(&text))
}

/// 48 bits of a hash that is the same in every process.
fn hash(value: &impl Hash) -> u64 {
    let mut hasher = Fnv(0xcbf2_9ce4_8422_2325);
    value.hash(&mut hasher);
    // The low bits alone depend on few bytes.
    let hash = hasher.0;
    (hash ^ (hash >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15)) >> 16
}

/// FNV-1a, 64 bits.
struct Fnv(u64);

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_hashes_do_not_make_one_name() {
        let mut names = Names::default();
        let same = || "pods-1".to_owned();
        assert_eq!(names.name(&1, same).as_str(), "pods-1");
        assert_eq!(names.name(&2, same).as_str(), "pods-1.2");
        assert_eq!(names.name(&1, same).as_str(), "pods-1");
        names.retain(|key| *key != 1);
        assert_eq!(names.name(&3, same).as_str(), "pods-1");
    }

    #[test]
    fn long_names_are_cut_and_still_differ() {
        let (one, other) = ("a".repeat(316), format!("{}b", "a".repeat(315)));
        assert_ne!(shortened(&one), shortened(&other));
        assert!(shortened(&one).len() <= Name::MAX_LEN - ROOM);
    }
}
