//! Keeping what the source has told on disk, beside everything else.
//!
//! A copy is written when something has changed, a while after the one before: the longer that
//! took, the later, so that it uses little of a processor and of a disk, however much there is and
//! however often it changes. What a machine loses with its power are the changes of that while. Of
//! what its rules do not ask for, such as most pods of other nodes, it is a longer one.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use crate::control::enforce::{Outdated, PolicyThread};
use crate::platform::allocator;

/// The shortest time between two copies, and how many times as long as writing one took it is.
const PAUSE: Duration = Duration::from_secs(1);
const TIMES: u32 = 50;

/// The time between two copies at least when this node's rules are the same.
const ELSEWHERE: Duration = Duration::from_secs(300);

/// What a copy came to: how long it took, and what went wrong.
type Kept = (Duration, Option<String>);

/// When the copy is written.
#[derive(Debug, Default)]
pub(super) struct Memory {
    outdated: Outdated,
    /// When the last copy was done.
    last: Option<Instant>,
    /// The next copy is not before this.
    next: Option<Instant>,
    /// The copy that is being written.
    writing: Option<JoinHandle<Kept>>,
    /// What went wrong with the last one.
    problem: Option<String>,
}

impl Memory {
    /// Takes note of what has changed since the copy.
    pub(super) fn outdate(&mut self, outdated: Outdated) {
        self.outdated = self.outdated.max(outdated);
    }

    /// Waits until [`keep`](Self::keep) has something to do.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub(super) async fn wait(&mut self) {
        if let Some(writing) = &mut self.writing {
            let kept = writing.await;
            self.writing = None;
            let kept = kept.unwrap_or_else(|error| (Duration::ZERO, Some(error.to_string())));
            self.note(kept, Instant::now());
        }
        match self.due() {
            Some(Some(due)) => sleep_until(due).await,
            Some(None) => {}
            None => std::future::pending().await,
        }
    }

    /// When to write, if there is anything to be written; at once, if nothing was before.
    fn due(&self) -> Option<Option<Instant>> {
        match self.outdated {
            Outdated::Nothing => None,
            Outdated::Here => Some(self.next),
            Outdated::Elsewhere => Some(self.next.max(self.last.map(|last| last + ELSEWHERE))),
        }
    }

    fn note(&mut self, (took, problem): Kept, now: Instant) {
        if let Some(problem) = &problem
            && self.problem.as_ref() != Some(problem)
        {
            tracing::warn!(problem, "what policies say is not kept for the next start");
        }
        if problem.is_some() {
            self.outdated = Outdated::Here;
        }
        self.problem = problem;
        self.last = Some(now);
        self.next = Some(now + PAUSE.max(took * TIMES));
    }

    /// Begins to write a copy.
    pub(super) async fn keep(&mut self, kernel: &PolicyThread) {
        let outdated = std::mem::take(&mut self.outdated);
        let memory = match kernel.ask(|policies| policies.memory()).await {
            Ok(Some(memory)) => memory,
            // The source has not told all yet.
            Ok(None) => return,
            Err(error) => {
                tracing::debug!(error = format!("{error:#}"), "policies are not kept now");
                self.outdate(outdated);
                self.next = Some(Instant::now() + PAUSE);
                return;
            }
        };
        self.writing = Some(tokio::task::spawn_blocking(move || {
            let start = culvert_dataplane::platform::clock::now();
            let written = memory.write();
            drop(memory);
            allocator::give_back();
            (start.elapsed(), written.err().map(|error| error.to_string()))
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_copy_waits_as_long_as_the_last_one_was_long() {
        let mut memory = Memory::default();
        let now = Instant::now();
        for (took, pause) in [(1, PAUSE), (500, Duration::from_secs(25))] {
            memory.note((Duration::from_millis(took), None), now);
            assert_eq!(memory.due(), None);
            memory.outdate(Outdated::Here);
            assert_eq!(memory.due(), Some(Some(now + pause)));
            memory.outdated = Outdated::Nothing;
        }
    }

    #[test]
    fn what_the_rules_do_not_ask_for_waits_longer() {
        let mut memory = Memory::default();
        let now = Instant::now();
        memory.outdate(Outdated::Elsewhere);
        assert_eq!(memory.due(), Some(None), "there is no copy yet");
        memory.note((Duration::ZERO, None), now);
        assert_eq!(memory.due(), Some(Some(now + ELSEWHERE)));
        memory.outdate(Outdated::Here);
        memory.outdate(Outdated::Elsewhere);
        assert_eq!(memory.due(), Some(Some(now + PAUSE)));
    }

    #[test]
    fn copy_that_failed_is_written_again() {
        let mut memory = Memory::default();
        let now = Instant::now();
        memory.note((Duration::ZERO, Some("the disk is full".to_owned())), now);
        assert_eq!(memory.due(), Some(Some(now + PAUSE)));
        memory.outdated = Outdated::Nothing;
        memory.note((Duration::ZERO, None), now);
        assert!(memory.due().is_none() && memory.problem.is_none());
    }
}
