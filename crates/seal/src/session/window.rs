//! What keeps one lane from delivering anything twice.
//!
//! A ring of words, each of which says of which forty sequences it knows what has arrived: the idea
//! of RFC 6479, with the block's number in the word itself. So a word is read and written whole by
//! any number of threads, and none has to clear it first.

use std::sync::atomic::{AtomicU64, Ordering};

/// Words of the ring.
const WORDS: usize = 64;
/// Sequences that a word knows of.
const BITS: u32 = 40;
const BITMAP: u64 = (1 << BITS) - 1;

/// How far behind the newest a sequence may be and is still told from a copy.
pub(super) const REACH: u32 = (WORDS as u32 - 1) * BITS;
const _: () = assert!(REACH >= 2048, "what RFC 6479 is used for is behind more than that");

/// What has arrived on one lane.
#[derive(Debug)]
pub(super) struct Window {
    /// The upper bits are how often the ring has come round, the lower ones what has arrived.
    words: [AtomicU64; WORDS],
}

/// Where a sequence is noted.
#[derive(Clone, Copy)]
struct Place {
    word: usize,
    round: u64,
    bit: u64,
}

impl Place {
    #[inline]
    fn of(sequence: u32) -> Self {
        let block = sequence / BITS;
        Self {
            word: block as usize % WORDS,
            round: u64::from(block) / WORDS as u64,
            bit: 1 << (sequence % BITS),
        }
    }

    /// What the word becomes with the sequence in it; `None` if it has it, or has forgotten it.
    #[inline]
    fn noted(self, word: u64) -> Option<u64> {
        let round = word >> BITS;
        if round > self.round {
            return None;
        }
        let arrived = if round == self.round { word & BITMAP } else { 0 };
        (arrived & self.bit == 0).then_some(self.round << BITS | arrived | self.bit)
    }
}

impl Window {
    pub(super) fn new() -> Self {
        Self { words: [const { AtomicU64::new(0) }; WORDS] }
    }

    /// Whether the sequence may be new. Only [`commit`](Self::commit) decides.
    #[inline]
    pub(super) fn is_new(&self, sequence: u32) -> bool {
        let place = Place::of(sequence);
        place.noted(self.words[place.word].load(Ordering::Relaxed)).is_some()
    }

    /// Notes the sequence; says whether it was new. Of any number of threads, one is told so.
    #[inline]
    pub(super) fn commit(&self, sequence: u32) -> bool {
        let place = Place::of(sequence);
        let note = |word| place.noted(word);
        self.words[place.word].fetch_update(Ordering::Relaxed, Ordering::Relaxed, note).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_sequence_is_new_once() {
        let window = Window::new();
        for sequence in (1..10_000).chain(u32::MAX - 5000..=u32::MAX) {
            assert!(window.is_new(sequence) && window.commit(sequence), "{sequence}");
            assert!(!window.is_new(sequence) && !window.commit(sequence), "{sequence}");
        }
    }

    #[test]
    fn what_is_too_far_behind_counts_as_a_copy() {
        let window = Window::new();
        assert!((90_000..=100_000).step_by(2).all(|sequence| window.commit(sequence)));
        assert!(window.commit(100_000 - REACH + 1));
        assert!(!window.commit(100_000 - REACH - BITS - 1));
        assert!(!window.commit(1));
    }

    #[test]
    fn of_many_threads_one_gets_each_sequence() {
        let window = Window::new();
        let taken: u32 = std::thread::scope(|scope| {
            let thread = || (1..20_000).filter(|sequence| window.commit(*sequence)).count() as u32;
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(thread)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert!(taken <= 19_999, "{taken}");
        assert!((1..20_000).all(|sequence| !window.commit(sequence)));
    }

    proptest! {
        /// Against a set: never twice, and never refused within reach of the newest.
        #[test]
        fn no_order_of_arrival_makes_a_difference(
            steps in vec((0_u32..5000, any::<bool>()), 1..400),
            start in prop_oneof![Just(1_u32), Just(3_000_000), Just(u32::MAX - 6000)],
        ) {
            let (window, mut seen, mut newest) = (Window::new(), BTreeSet::new(), start);
            for (step, ahead) in steps {
                let sequence = if ahead {
                    newest.saturating_add(step)
                } else {
                    newest.saturating_sub(step).max(1)
                };
                let new = window.commit(sequence);
                prop_assert!(!(new && seen.contains(&sequence)), "{} twice", sequence);
                if newest.saturating_sub(sequence) < 2048 && !seen.contains(&sequence) {
                    prop_assert!(new, "{} refused behind {}", sequence, newest);
                }
                seen.insert(sequence);
                newest = newest.max(sequence);
            }
        }
    }
}
