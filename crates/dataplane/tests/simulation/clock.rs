//! Virtual time: events in the order of their moments, and of their making within one moment.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

pub(crate) struct Clock<E> {
    /// Stands for the start of the run in what machines are told.
    start: Instant,
    now: Duration,
    made: u64,
    queue: BTreeMap<(Duration, u64), E>,
}

impl<E> Clock<E> {
    #[expect(clippy::disallowed_methods, reason = "only differences matter")]
    pub(crate) fn new() -> Self {
        Self { start: Instant::now(), now: Duration::ZERO, made: 0, queue: BTreeMap::new() }
    }

    /// Time since the start of the run.
    pub(crate) fn now(&self) -> Duration {
        self.now
    }

    pub(crate) fn instant(&self) -> Instant {
        self.start + self.now
    }

    pub(crate) fn after(&mut self, delay: Duration, event: E) {
        self.at(self.now + delay, event);
    }

    pub(crate) fn at(&mut self, moment: Duration, event: E) {
        self.made += 1;
        self.queue.insert((moment.max(self.now), self.made), event);
    }

    /// Goes on to the next event.
    pub(crate) fn next(&mut self) -> Option<E> {
        let ((moment, _), event) = self.queue.pop_first()?;
        self.now = moment;
        Some(event)
    }
}
