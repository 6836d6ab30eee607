//! Whose turn it is to shake hands.
//!
//! Of the handshakes that this node begins so many are under way at once, and the rest wait in two
//! lines, in the order in which they are needed: peers that are asked the first time, and peers
//! that have not answered. The lines move in turn, so that neither holds up the other. Whoever does
//! not answer keeps a place only as long as nobody waits for it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::Index;

/// Handshakes under way at once. Each holds some four KiB, most of it the private key of ML-KEM and
/// the INIT, so that all of them are as much as the sessions of a thousand peers; and with answers
/// after a tenth of a second it is more than the thread that makes keys can do.
pub(super) const AT_ONCE: usize = 1024;

/// For how long nobody has to make room: two INITs that are lost cost no peer its place.
pub(super) const SHORTEST_STAY: Duration = Duration::from_secs(1);

/// Where answers take their time, because whoever makes or reads them has no more processor, an
/// INIT has several times as long as they take: else all would be given up before their answers
/// come, and nobody would ever have a session.
const ANSWERS: u32 = 4;
const LONGEST_STAY: Duration = Duration::from_secs(8);

/// Where a handshake that this node begins has got to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// It waits, and is needed by then.
    Waits(Instant),
    /// The peer has not answered and others were let go first; it is asked again by then.
    WaitsAgain(Instant),
    /// An INIT has been sent, the first one then.
    UnderWay(Instant),
}

impl Place {
    /// The place of one of which an INIT is sent, be it another.
    pub(super) fn under_way(self, now: Instant) -> Self {
        match self {
            Self::Waits(_) | Self::WaitsAgain(_) => Self::UnderWay(now),
            Self::UnderWay(_) => self,
        }
    }
}

/// Who is next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Turn {
    pub(super) next: Index,
    /// Who makes room, and waits again.
    pub(super) instead_of: Option<Index>,
}

type List = BTreeSet<(Instant, Index)>;

/// All handshakes that this node begins.
#[derive(Debug)]
pub(super) struct Turns {
    at_once: usize,
    places: BTreeMap<Index, Place>,
    waiting: List,
    waiting_again: List,
    under_way: List,
    /// Which of the lines moves next when both could.
    again_is_next: bool,
    /// How long answers took lately; each counts for an eighth.
    answers_take: Duration,
}

impl Turns {
    pub(super) const fn new(at_once: usize) -> Self {
        Self {
            at_once,
            places: BTreeMap::new(),
            waiting: List::new(),
            waiting_again: List::new(),
            under_way: List::new(),
            again_is_next: false,
            answers_take: Duration::ZERO,
        }
    }

    /// Takes note of a peer's place, or that it has none any more.
    pub(super) fn set(&mut self, index: Index, place: Option<Place>) {
        if self.places.get(&index).copied() == place {
            return;
        }
        if let Some(before) = self.places.remove(&index) {
            let (list, moment) = self.list(before);
            list.remove(&(moment, index));
        }
        if let Some(place) = place {
            self.places.insert(index, place);
            let (list, moment) = self.list(place);
            list.insert((moment, index));
        }
    }

    /// Takes note that a peer that is under way has answered.
    pub(super) fn note_answer(&mut self, index: Index, now: Instant) {
        if let Some(Place::UnderWay(since)) = self.places.get(&index) {
            let took = now.saturating_duration_since(*since).min(LONGEST_STAY);
            self.answers_take = (self.answers_take * 7 + took) / 8;
        }
    }

    fn stay(&self) -> Duration {
        (self.answers_take * ANSWERS).clamp(SHORTEST_STAY, LONGEST_STAY)
    }

    /// Whose turn it is: whoever is first in line, if there is a place, or if it is needed and
    /// somebody has had a place for long enough. Whoever is told so sends an INIT.
    pub(super) fn next(&mut self, now: Instant) -> Option<Turn> {
        let (first, again) = (self.waiting.first(), self.waiting_again.first());
        let is_due = |waits: &&(Instant, Index)| waits.0 <= now;
        let is_again = match (first, again) {
            (Some(first), Some(again)) if is_due(&first) == is_due(&again) => self.again_is_next,
            (Some(first), Some(_)) => !is_due(&first),
            (first, _) => first.is_none(),
        };
        let waits = if is_again { again } else { first }?;
        let instead_of = if self.under_way.len() < self.at_once {
            None
        } else {
            let (since, longest) = self.under_way.first()?;
            if !is_due(&waits) || now < *since + self.stay() {
                return None;
            }
            Some(*longest)
        };
        self.again_is_next = !is_again;
        Some(Turn { next: waits.1, instead_of })
    }

    fn list(&mut self, place: Place) -> (&mut List, Instant) {
        match place {
            Place::Waits(needed) => (&mut self.waiting, needed),
            Place::WaitsAgain(due) => (&mut self.waiting_again, due),
            Place::UnderWay(since) => (&mut self.under_way, since),
        }
    }

    /// How many are under way.
    #[cfg(test)]
    pub(super) fn under_way(&self) -> usize {
        self.under_way.len()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const FEW: usize = 3;
    /// What a peer waits that has not answered.
    const PAUSE: Duration = Duration::from_secs(4);

    #[expect(clippy::disallowed_methods, reason = "any moment will do")]
    fn start() -> Instant {
        Instant::now()
    }

    /// Does as the machine does; returns those whose turn it is.
    fn let_go(turns: &mut Turns, now: Instant) -> Vec<Index> {
        let next = std::iter::from_fn(|| {
            let Turn { next, instead_of } = turns.next(now)?;
            if let Some(late) = instead_of {
                turns.set(late, Some(Place::WaitsAgain(now + PAUSE)));
            }
            turns.set(next, Some(Place::UnderWay(now)));
            Some(next)
        });
        next.collect()
    }

    fn ask(turns: &mut Turns, index: Index, needed: Instant) {
        turns.set(index, Some(Place::Waits(needed)));
    }

    #[test]
    fn whoever_is_needed_first_is_first() {
        let (mut turns, now) = (Turns::new(FEW), start());
        for (index, seconds) in [(0, 10), (1, 0), (2, 5), (3, 0), (4, 1)] {
            ask(&mut turns, index, now + Duration::from_secs(seconds));
        }
        assert_eq!(let_go(&mut turns, now), [1, 3, 4]);
        // A place that is free is taken by whoever waits, needed or not.
        turns.set(3, None);
        assert_eq!(let_go(&mut turns, now), [2]);
    }

    #[test]
    fn whoever_does_not_answer_makes_room_only_if_somebody_is_needed() {
        let (mut turns, now) = (Turns::new(FEW), start());
        (0..3).for_each(|index| ask(&mut turns, index, now));
        assert_eq!(let_go(&mut turns, now), [0, 1, 2]);
        let later = now + SHORTEST_STAY;
        ask(&mut turns, 3, later + Duration::from_millis(1));
        assert_eq!(let_go(&mut turns, later), [0; 0], "it can wait");
        ask(&mut turns, 4, now);
        assert_eq!(let_go(&mut turns, later - Duration::from_millis(1)), [0; 0]);
        assert_eq!(let_go(&mut turns, later), [4]);
        assert_eq!(turns.places[&0], Place::WaitsAgain(later + PAUSE));
    }

    #[test]
    fn the_two_lines_move_in_turn() {
        let (mut turns, now) = (Turns::new(1), start());
        for index in 0..4 {
            ask(&mut turns, index, now);
            turns.set(10 + index, Some(Place::WaitsAgain(now)));
        }
        let order = std::iter::from_fn(|| {
            let next = turns.next(now)?.next;
            turns.set(next, None);
            Some(next)
        });
        assert_eq!(order.collect::<Vec<_>>(), [0, 10, 1, 11, 2, 12, 3, 13]);
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Ask(Index),
        Answered(Index),
        Passes(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0_usize..12).prop_map(Step::Ask),
            (0_usize..12).prop_map(Step::Answered),
            (1_u64..800).prop_map(Step::Passes),
        ]
    }

    proptest! {
        /// Whoever answers, or does not: no more than so many are under way, no place is left empty
        /// while somebody waits, nobody loses one early, and nobody waits for ever.
        #[test]
        fn so_many_are_under_way_and_nobody_waits_for_ever(steps in vec(step(), 1..300)) {
            let (mut turns, mut now) = (Turns::new(FEW), start());
            // Since when each has been under way, or has waited.
            let mut under_way: BTreeMap<Index, Instant> = BTreeMap::new();
            let mut waits: BTreeMap<Index, Instant> = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Ask(index) => {
                        if !under_way.contains_key(&index) && !waits.contains_key(&index) {
                            ask(&mut turns, index, now);
                            waits.insert(index, now);
                        }
                    }
                    Step::Answered(index) => {
                        if under_way.remove(&index).is_some() {
                            turns.set(index, None);
                        }
                    }
                    Step::Passes(millis) => now += Duration::from_millis(millis),
                }
                for next in let_go(&mut turns, now) {
                    prop_assert!(waits.remove(&next).is_some());
                    under_way.insert(next, now);
                }
                let late = under_way.extract_if(.., |index, _| {
                    !matches!(turns.places[index], Place::UnderWay(_))
                });
                for (index, since) in late.collect::<Vec<_>>() {
                    prop_assert!(now >= since + SHORTEST_STAY);
                    waits.insert(index, now);
                }
                prop_assert!(under_way.len() <= FEW);
                prop_assert_eq!(turns.under_way(), under_way.len());
                prop_assert!(under_way.len() == FEW || waits.is_empty());
                // Twelve peers and three places, each for a second; a step passes 0.8 s at most.
                let longest = PAUSE + 12 * (SHORTEST_STAY + Duration::from_millis(800));
                prop_assert!(waits.values().all(|since| now <= *since + longest));
            }
        }
    }
}
