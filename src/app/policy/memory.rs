//! Keeping what the source has told on disk, beside everything else.
//!
//! A copy is written when something has changed, a while after the one before: the longer that
//! took, the later, so that it uses little of a processor and of a disk, however much there is and
//! however often it changes. What a machine loses with its power are the changes of that while.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use crate::control::enforce::PolicyThread;
use crate::platform::allocator;

/// The shortest time between two copies, and how many times as long as writing one took it is.
const PAUSE: Duration = Duration::from_secs(1);
const TIMES: u32 = 20;

/// What a copy came to: how long it took, and what went wrong.
type Kept = (Duration, Option<String>);

/// When the copy is written.
#[derive(Debug, Default)]
pub(super) struct Memory {
    is_outdated: bool,
    /// The next copy is not before this.
    next: Option<Instant>,
    /// The copy that is being written.
    writing: Option<JoinHandle<Kept>>,
    /// What went wrong with the last one.
    problem: Option<String>,
}

impl Memory {
    /// Takes note that there is something else to be kept.
    pub(super) fn outdate(&mut self) {
        self.is_outdated = true;
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
        match (self.is_outdated, self.next) {
            (true, Some(next)) => sleep_until(next).await,
            (true, None) => {}
            (false, _) => std::future::pending().await,
        }
    }

    fn note(&mut self, (took, problem): Kept, now: Instant) {
        if let Some(problem) = &problem
            && self.problem.as_ref() != Some(problem)
        {
            tracing::warn!(problem, "what policies say is not kept for the next start");
        }
        self.is_outdated |= problem.is_some();
        self.problem = problem;
        self.next = Some(now + PAUSE.max(took * TIMES));
    }

    /// Begins to write a copy.
    pub(super) async fn keep(&mut self, kernel: &PolicyThread) {
        self.is_outdated = false;
        let memory = match kernel.ask(|policies| policies.memory()).await {
            Ok(Some(memory)) => memory,
            // The source has not told all yet.
            Ok(None) => return,
            Err(error) => {
                tracing::debug!(error = format!("{error:#}"), "policies are not kept now");
                self.is_outdated = true;
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
        for (took, pause) in [(1, PAUSE), (500, Duration::from_secs(10))] {
            memory.note((Duration::from_millis(took), None), now);
            assert_eq!(memory.next, Some(now + pause));
            assert!(!memory.is_outdated);
        }
    }

    #[test]
    fn copy_that_failed_is_written_again() {
        let mut memory = Memory::default();
        let now = Instant::now();
        memory.note((Duration::ZERO, Some("the disk is full".to_owned())), now);
        assert_eq!(memory.next, Some(now + PAUSE));
        assert!(memory.is_outdated);
        memory.is_outdated = false;
        memory.note((Duration::ZERO, None), now);
        assert!(!memory.is_outdated && memory.problem.is_none());
    }
}
