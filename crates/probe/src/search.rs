//! What a path carries (RFC 8899): questions of several lengths, each with a short one beside it.
//!
//! The short ones tell whether the path is there at all, and how often single questions get lost: a
//! length counts as too long only where short ones come back. While it is searched, what was known
//! before goes on to count, since pods remember for ten minutes the smallest that they were told.

use std::time::Duration;

use crate::moment::Moment;

/// What every path is taken to carry: the least of IPv6, and what RFC 8899 §5.1.2 asks for.
pub(crate) const BASE: u16 = 1280;

/// The search ends when it is known to so many bytes.
const GRAIN: u16 = 4;

/// How often a length is tried before it counts as too long.
const TRIES: u8 = 3;
/// The same where single questions get lost.
const NOISY_TRIES: u8 = 9;

/// Between two tries.
const GAP: Duration = Duration::from_millis(40);

/// How long answers are waited for at least.
pub(crate) const LEAST_PATIENCE: Duration = Duration::from_millis(120);

#[derive(Debug)]
pub(crate) struct Search {
    stage: Stage,
    /// By which path it is asked.
    pub(crate) path: u8,
    /// What is known to pass, and what is known not to.
    low: u16,
    high: u16,
    /// Where it began.
    top: u16,
    /// The length that is tried.
    size: u16,
    tries: u8,
    limit: u8,
    /// Short questions that came back, of those beside the tries.
    short_answers: u8,
    is_noisy: bool,
    /// When the next try leaves, or the length counts as too long.
    pub(crate) next: Moment,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// As much as was known before.
    Verify,
    /// As much as the route promises.
    Top,
    /// The least.
    Base,
    /// Between both.
    Halve,
    /// Once more the least that did not pass.
    Confirm,
}

/// What a step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A long question is to leave, and a short one.
    Try(u16),
    /// There is nothing to do before `next`.
    Wait,
    /// The path carries so much.
    Found(u16),
    /// It cannot be told at the moment.
    Unclear,
}

impl Search {
    /// Looks for what the path carries, up to `top`. Of what is known to pass (`low`) nothing is
    /// tried again.
    pub(crate) fn new(path: u8, low: Option<u16>, top: u16, is_noisy: bool, now: Moment) -> Self {
        Self::begin(Stage::Top, path, low.unwrap_or(0), top, is_noisy, now)
    }

    /// Looks whether the path carries still `present`, and if not, what it does.
    pub(crate) fn verify(path: u8, present: u16, is_noisy: bool, now: Moment) -> Self {
        Self::begin(Stage::Verify, path, 0, present, is_noisy, now)
    }

    fn begin(stage: Stage, path: u8, low: u16, top: u16, is_noisy: bool, now: Moment) -> Self {
        Self {
            stage,
            path,
            low,
            high: top,
            top,
            size: top,
            tries: 0,
            limit: if is_noisy { NOISY_TRIES } else { TRIES },
            short_answers: 0,
            is_noisy,
            next: now,
        }
    }

    /// Whether it began with what was known before.
    pub(crate) fn is_verification(&self) -> bool {
        self.stage == Stage::Verify
    }

    fn try_next(&mut self, stage: Stage, size: u16, now: Moment) {
        // What others are told for ten minutes is looked at once more than well.
        let is_careful = self.is_noisy || stage == Stage::Confirm;
        let limit = if is_careful { NOISY_TRIES } else { TRIES };
        *self = Self { stage, size, tries: 0, limit, short_answers: 0, next: now, ..*self };
    }

    /// Says what to do at `now`.
    pub(crate) fn step(&mut self, now: Moment, patience: Duration) -> Step {
        if now < self.next {
            return Step::Wait;
        }
        if self.tries < self.limit {
            self.tries += 1;
            self.next = now + if self.tries == self.limit { patience } else { GAP };
            return Step::Try(self.size);
        }
        if self.short_answers == 0 {
            return Step::Unclear;
        }
        if self.short_answers < self.limit && !self.is_noisy {
            // Some get lost whatever their length: that may be all there is to it.
            self.is_noisy = true;
            self.limit = NOISY_TRIES;
            return self.step(now, patience);
        }
        self.fail(now)
    }

    /// The length did not pass.
    fn fail(&mut self, now: Moment) -> Step {
        match self.stage {
            Stage::Base => return Step::Unclear,
            Stage::Confirm => return Step::Found(self.low),
            Stage::Verify | Stage::Top if self.high <= BASE => return Step::Found(BASE),
            Stage::Verify | Stage::Top if self.low >= BASE => self.halve(now),
            Stage::Verify | Stage::Top => self.try_next(Stage::Base, BASE, now),
            Stage::Halve => {
                self.high = self.size;
                self.halve(now);
            }
        }
        Step::Wait
    }

    /// Takes an answer to a question of `size` bytes, or to a short one beside it.
    pub(crate) fn answered(&mut self, size: u16, is_short: bool, now: Moment) -> Step {
        if size != self.size {
            return Step::Wait;
        }
        if is_short {
            self.short_answers = self.short_answers.saturating_add(1);
            return Step::Wait;
        }
        match self.stage {
            Stage::Verify | Stage::Top => return Step::Found(size),
            Stage::Base | Stage::Halve => {
                self.low = size;
                self.halve(now);
            }
            Stage::Confirm => {
                // It was chance after all.
                (self.low, self.high, self.is_noisy) = (size, self.top, true);
                self.try_next(Stage::Top, self.top, now);
            }
        }
        Step::Wait
    }

    fn halve(&mut self, now: Moment) {
        if self.high - self.low <= GRAIN {
            return self.try_next(Stage::Confirm, self.high, now);
        }
        let middle = self.low + (self.high - self.low) / 2;
        let size = middle - middle % GRAIN;
        // A multiple of the grain above what passes.
        let size = if size <= self.low { self.low + GRAIN } else { size };
        self.try_next(Stage::Halve, size, now);
    }
}
