//! The line that says what is being measured and how long it will go on.
//!
//! Owns standard error. On a terminal the line replaces itself; elsewhere each is one of its own.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use culvert_lab::clock;

pub(crate) struct Progress {
    /// Steps of the whole run, and how long they are expected to take.
    steps: usize,
    planned: Duration,
    done: usize,
    planned_done: Duration,
    /// When the first step began.
    started: Option<Instant>,
    terminal: bool,
}

impl Progress {
    /// A run of `steps` steps that will take about `planned`.
    pub(crate) fn new(steps: usize, planned: Duration) -> Self {
        Self {
            steps,
            planned,
            done: 0,
            planned_done: Duration::ZERO,
            started: None,
            terminal: io::stderr().is_terminal(),
        }
    }

    /// Says that `what` is going on, which is no step.
    pub(crate) fn say(&self, what: &str) {
        self.line(&format!("{what} …"));
    }

    /// Starts the next step, `what`, which will take about `planned`.
    pub(crate) fn step(&mut self, what: &str, planned: Duration) {
        let elapsed = self.started.get_or_insert_with(clock::now).elapsed();
        let left = remaining(self.planned, self.planned_done, elapsed);
        self.done += 1;
        self.planned_done += planned;
        let (minutes, seconds) = (left.as_secs() / 60, left.as_secs() % 60);
        let (done, steps) = (self.done, self.steps);
        self.line(&format!("[{done}/{steps}, {minutes}:{seconds:02} left] {what}"));
    }

    /// Clears the line, so that something else can be printed.
    pub(crate) fn clear(&self) {
        if self.terminal {
            let _ = write!(io::stderr().lock(), "\r\x1b[K");
        }
    }

    fn line(&self, text: &str) {
        let mut out = io::stderr().lock();
        // A reader that went away misses nothing that matters. EL (ECMA-48) clears the line.
        let _ = if self.terminal { write!(out, "\r\x1b[K{text}") } else { writeln!(out, "{text}") };
        let _ = out.flush();
    }
}

/// What is left of `planned`, once `done` of it took `elapsed`.
fn remaining(planned: Duration, done: Duration, elapsed: Duration) -> Duration {
    let pace = if done.is_zero() { 1.0 } else { elapsed.as_secs_f64() / done.as_secs_f64() };
    planned.saturating_sub(done).mul_f64(pace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_follows_the_pace_so_far() {
        let seconds = Duration::from_secs;
        assert_eq!(remaining(seconds(100), Duration::ZERO, seconds(3)), seconds(100));
        assert_eq!(remaining(seconds(100), seconds(20), seconds(40)), seconds(160));
        assert_eq!(remaining(seconds(100), seconds(120), seconds(40)), Duration::ZERO);
    }
}
