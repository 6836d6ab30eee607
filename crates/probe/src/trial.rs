//! Finding out what a loss means: rounds of questions a second apart.
//!
//! A round asks, up to three times each, by every path that is in doubt with an answer by one that
//! works, by one that works with answers by every path of the peer's that is in doubt, and once
//! more with both out of doubt. What comes back proves both of its paths. A round in which nothing
//! comes back tells nothing of paths; before the peer counts as lost, every path has been tried.

use std::time::Duration;

use crate::PATHS;
use crate::moment::Moment;
use crate::peer::{bit, each, has};

/// Rounds in a row in which nothing must come back for the peer to be lost.
const ROUNDS: u8 = 3;
/// Questions in a row, three in a round, that a path must fail to answer to be lost.
const STRIKES: u8 = 9;
/// The same where single losses are frequent.
const NOISY_STRIKES: u8 = 18;
/// Questions in a row that a path fails to answer until all others are looked at too.
const SUSPICION: u8 = 3;
/// Questions in a round: a peer answers 64 in a second, and there are others than those of trials.
const MAX_QUESTIONS: u32 = 45;
/// Rounds after which a trial ends without a finding.
const MAX_ROUNDS: u8 = 24;
/// Answers of those in a round that a lost path must have to count as one that works again.
const RECOVERED: u8 = 2;

const ALL: u16 = u16::MAX;

/// Why there is a trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// A question was not answered.
    Loss,
    /// Somebody says that nobody listens there.
    Hint,
    /// A path that was lost has answered.
    Recovery,
}

#[derive(Debug)]
pub(crate) struct Trial {
    pub(crate) cause: Cause,
    /// Paths in doubt, and those of the peer's.
    ours: u16,
    theirs: u16,
    /// Those that were in doubt in the trial that this one has interrupted.
    interrupted: (u16, u16),
    /// Those that are known to be lost.
    lost: u16,
    lost_answers: u16,
    /// A path that works, as far as is known, and one of the peer's.
    good: u8,
    good_answer: u8,
    round: u8,
    silent: u8,
    repeat: u8,
    is_sweep: bool,
    has_swept: bool,
    /// Whether every path was tried while nothing came back.
    has_tried_all: bool,
    is_noisy: bool,
    strikes: [u8; PATHS as usize],
    their_strikes: [u8; PATHS as usize],
    /// What has come back in this round.
    counts: [u8; PATHS as usize],
    their_counts: [u8; PATHS as usize],
    /// Answers to what was asked out of doubt.
    reference: u8,
    /// When the next questions leave, or the round is looked at.
    pub(crate) next: Moment,
    began: Moment,
}

/// What a round came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Paths that turned out lost.
    pub(crate) lost: u16,
    pub(crate) lost_answers: u16,
    /// Paths that work (again).
    pub(crate) works: u16,
    pub(crate) answers_work: u16,
    /// Nothing came back for long enough.
    pub(crate) is_peer_lost: bool,
    /// There is nothing left to find out.
    pub(crate) is_over: bool,
}

impl Trial {
    /// About the paths in the first of `doubt`, and the peer's in the second; those in `lost` are
    /// known to lead nowhere. `last` are those of the question that is the cause: after a loss
    /// others are looked for.
    pub(crate) fn new(
        cause: Cause,
        doubt: (u16, u16),
        lost: (u16, u16),
        last: (u8, u8),
        now: Moment,
    ) -> Self {
        let (ours, theirs) = doubt;
        let is_recovery = cause == Cause::Recovery;
        let (lost, lost_answers) = if is_recovery { doubt } else { lost };
        let mut trial = Self {
            cause,
            ours,
            theirs,
            interrupted: (0, 0),
            lost,
            lost_answers,
            good: last.0,
            good_answer: last.1,
            round: 0,
            silent: 0,
            repeat: 0,
            is_sweep: false,
            has_swept: false,
            has_tried_all: false,
            is_noisy: false,
            strikes: [0; PATHS as usize],
            their_strikes: [0; PATHS as usize],
            counts: [0; PATHS as usize],
            their_counts: [0; PATHS as usize],
            reference: 0,
            next: now,
            began: now,
        };
        if !is_recovery {
            trial.choose(ALL, ALL);
        }
        trial
    }

    /// Comes in the place of a trial that is not over.
    pub(crate) fn interrupts(&mut self, running: &Self) {
        self.interrupted = (running.ours, running.theirs);
    }

    /// What was in doubt in the trial that this one came in the place of.
    pub(crate) fn interrupted(&self) -> (u16, u16) {
        self.interrupted
    }

    fn is_fast(&self) -> bool {
        self.cause == Cause::Hint
    }

    /// How often each question of the round is asked.
    fn repeats(&self) -> u8 {
        let questions = self.ours.count_ones() + self.theirs.count_ones() + 1;
        match MAX_QUESTIONS / questions {
            _ if self.is_sweep => 1,
            0 | 1 => 1,
            2 => 2,
            _ => 3,
        }
    }

    fn gap(&self) -> Duration {
        Duration::from_millis(if self.is_fast() { 30 } else { 100 })
    }

    /// How long answers are waited for at least.
    pub(crate) fn least_patience(&self) -> Duration {
        Duration::from_millis(if self.is_fast() { 150 } else { 300 })
    }

    /// Turns to paths that are not in doubt, of those in `ours` and `theirs`, where there are any.
    fn choose(&mut self, ours: u16, theirs: u16) {
        let next = |after: u8, among: u16| {
            (1..=PATHS).map(|step| (after + step) % PATHS).find(|path| has(among, *path))
        };
        let free =
            |doubt: u16, among: u16| if among & !doubt == 0 { among } else { among & !doubt };
        let (doubt, their_doubt) = (self.ours | self.lost, self.theirs | self.lost_answers);
        self.good = next(self.good, free(doubt, ours)).unwrap_or(self.good);
        self.good_answer = next(self.good_answer, free(their_doubt, theirs)).unwrap_or(self.good);
    }

    /// The questions of this moment: paths, and paths of answers. Empty when the round is to be
    /// looked at instead.
    pub(crate) fn questions(&mut self, now: Moment, patience: Duration) -> Vec<(u8, u8)> {
        if self.repeat == 0 {
            self.began = now;
            self.counts = [0; PATHS as usize];
            self.their_counts = [0; PATHS as usize];
            self.reference = 0;
        }
        if self.repeat == self.repeats() {
            return Vec::new();
        }
        self.repeat += 1;
        let is_last = self.repeat == self.repeats();
        self.next = now + if is_last { patience } else { self.gap() };
        if self.is_sweep {
            return self.sweep();
        }
        let ours = each(self.ours).map(|path| (path, self.good_answer));
        let theirs = each(self.theirs).map(|answer| (self.good, answer));
        let reference = (self.good, self.good_answer);
        let mut questions: Vec<_> = ours.chain(theirs).chain([reference]).collect();
        questions.sort_unstable();
        questions.dedup();
        questions
    }

    /// Every path once. While nothing comes back, both change: neither is known to work.
    fn sweep(&self) -> Vec<(u8, u8)> {
        if self.silent > 0 {
            return (0..PATHS).map(|path| (path, (path + self.round) % PATHS)).collect();
        }
        let ours = (0..PATHS).map(|path| (path, self.good_answer));
        let theirs = (0..PATHS).map(|answer| (self.good, answer));
        ours.chain(theirs).collect()
    }

    /// Takes an answer that came by these paths.
    pub(crate) fn answered(&mut self, path: u8, answer: u8) {
        if (path, answer) == (self.good, self.good_answer) {
            self.reference += 1;
        }
        let (path, answer) = (usize::from(path % PATHS), usize::from(answer % PATHS));
        self.counts[path] = self.counts[path].saturating_add(1);
        self.their_counts[answer] = self.their_counts[answer].saturating_add(1);
    }

    /// Looks at the round that has ended, and begins the next at `self.next`.
    pub(crate) fn look(&mut self, is_noisy: bool, now: Moment) -> Outcome {
        let ours = set(&self.counts, 1);
        let theirs = set(&self.their_counts, 1);
        self.round += 1;
        let mut outcome = Outcome { works: ours, answers_work: theirs, ..Outcome::default() };
        if self.cause == Cause::Recovery {
            outcome.works = set(&self.counts, RECOVERED);
            outcome.answers_work = set(&self.their_counts, RECOVERED);
        }
        if ours == 0 {
            self.silent += 1;
            self.has_tried_all |= self.is_sweep;
            let enough = if self.is_fast() || !(is_noisy || self.is_noisy) { ROUNDS } else { 4 };
            outcome.is_peer_lost = self.silent >= enough && self.has_tried_all;
            outcome.is_over = outcome.is_peer_lost || self.round >= MAX_ROUNDS;
            self.is_sweep = true;
            self.begin_next(ALL, ALL, now);
            return outcome;
        }
        self.silent = 0;
        if self.cause == Cause::Recovery {
            outcome.is_over = true;
            return outcome;
        }
        if self.is_sweep {
            // What did not come back is in doubt; single questions prove nothing.
            self.ours |= !ours & !self.lost;
            self.theirs |= !theirs & !self.lost_answers;
            (self.is_sweep, self.has_swept) = (false, true);
        } else {
            let needed = if is_noisy || self.is_noisy { NOISY_STRIKES } else { STRIKES };
            let repeats = self.repeats();
            self.is_noisy |= self.has_lost_some();
            if has(theirs, self.good_answer) {
                outcome.lost = judge(&mut self.ours, ours, &mut self.strikes, (repeats, needed));
            }
            if has(ours, self.good) {
                outcome.lost_answers =
                    judge(&mut self.theirs, theirs, &mut self.their_strikes, (repeats, needed));
            }
            if !has(ours, self.good) {
                self.ours |= bit(self.good);
            }
            if !has(theirs, self.good_answer) {
                self.theirs |= bit(self.good_answer);
            }
        }
        self.lost |= outcome.lost;
        self.lost_answers |= outcome.lost_answers;
        // Where one source port leads nowhere, others may as well.
        let strikes = self.strikes.iter().chain(&self.their_strikes);
        if !self.has_swept && strikes.max() >= Some(&SUSPICION) {
            self.is_sweep = true;
        }
        let is_settled = self.ours == 0 && self.theirs == 0 && !self.is_sweep;
        outcome.is_over = is_settled || self.round >= MAX_ROUNDS;
        self.begin_next(ours, theirs, now);
        outcome
    }

    fn begin_next(&mut self, ours: u16, theirs: u16, now: Moment) {
        self.choose(ours, theirs);
        self.repeat = 0;
        let pace = Duration::from_millis(if self.is_fast() { 0 } else { 1000 });
        self.next = now.max(self.began + pace);
    }

    /// Whether some of what was asked in one way came back, and some did not.
    fn has_lost_some(&self) -> bool {
        let some = |count: u8| (1..self.repeats()).contains(&count);
        some(self.reference)
            || each(self.ours).any(|path| some(self.counts[usize::from(path)]))
            || each(self.theirs).any(|path| some(self.their_counts[usize::from(path)]))
    }
}

/// The paths with at least so many answers.
fn set(counts: &[u8; PATHS as usize], least: u8) -> u16 {
    (0..PATHS).filter(|path| counts[usize::from(*path)] >= least).map(bit).sum()
}

/// Clears what works, and returns what has failed for long enough.
fn judge(
    doubt: &mut u16,
    works: u16,
    strikes: &mut [u8; PATHS as usize],
    (repeats, needed): (u8, u8),
) -> u16 {
    let mut lost = 0;
    for path in each(*doubt) {
        let strikes = &mut strikes[usize::from(path)];
        if has(works, path) {
            *strikes = 0;
            *doubt &= !bit(path);
        } else {
            *strikes = strikes.saturating_add(repeats);
            if *strikes >= needed {
                lost |= bit(path);
            }
        }
    }
    *doubt &= !lost;
    lost
}
