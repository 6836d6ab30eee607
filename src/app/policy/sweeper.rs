//! Has the connections gone through whose rules or addresses are others now, one sweep at a time,
//! and lets pods start after the one that began when their rules were in force.

use std::future::pending;
use std::mem;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use culvert_node::pod_admission::Answer;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use crate::control::enforce::{FlowThread, Sweep};

/// Connections are not gone through more often than this, unless a pod waits; and when rules
/// change, within a second.
const PACE: Duration = Duration::from_millis(500);

/// How long after a failure.
const RETRY: Duration = Duration::from_secs(1);

/// What came of a sweep.
#[derive(Debug)]
pub(super) struct Swept {
    /// Connections that were cut because rules forbid them.
    pub(super) cut: anyhow::Result<usize>,
    /// Pods that may start, or must not, as it came out.
    pub(super) pods: u64,
}

/// What is to be gone through, and the sweep that is under way.
pub(super) struct Sweeper {
    thread: Arc<FlowThread>,
    next: Sweep,
    /// Who starts after the next sweep.
    waiting: Vec<oneshot::Sender<Answer>>,
    running: Option<Running>,
    /// When the next sweep begins; none, if there is nothing to do.
    due: Option<Instant>,
    /// Before this, no sweep begins for rules alone.
    rest_until: Instant,
}

struct Running {
    sweep: Sweep,
    swept: JoinHandle<Swept>,
}

impl Sweeper {
    pub(super) fn new(thread: FlowThread) -> Self {
        Self {
            thread: Arc::new(thread),
            next: Sweep::default(),
            waiting: Vec::new(),
            running: None,
            due: None,
            rest_until: Instant::now(),
        }
    }

    /// Has `sweep` done soon. Nobody waits for addresses to be forgotten: whoever gets one has that
    /// done again.
    pub(super) fn want(&mut self, sweep: Sweep) {
        if sweep.is_empty() {
            return;
        }
        let is_lazy = sweep.cut.is_none();
        self.begin_at(if is_lazy { Instant::now() + PACE } else { self.rest_until });
        self.next.add(sweep);
    }

    fn begin_at(&mut self, time: Instant) {
        self.due = Some(self.due.map_or(time, |due| due.min(time)));
    }

    /// Has connections of these addresses forgotten at once, and then the pod started that has
    /// them.
    pub(super) fn start_after(&mut self, addresses: Vec<IpAddr>, answer: oneshot::Sender<Answer>) {
        self.next.forget.extend(addresses);
        self.waiting.push(answer);
        self.begin_at(Instant::now());
    }

    /// Waits until there is something to do, and for the end of that.
    ///
    /// # Cancel safety
    ///
    /// What is under way goes on, and the next call waits for it.
    pub(super) async fn next(&mut self) -> Swept {
        loop {
            if let Some(running) = &mut self.running {
                let swept = (&mut running.swept).await;
                let swept = swept.unwrap_or_else(|error| Swept { cut: Err(error.into()), pods: 0 });
                self.end(&swept);
                return swept;
            }
            match self.due {
                Some(due) => sleep_until(due).await,
                None => pending().await,
            }
            self.due = None;
            let (sweep, waiting) = (mem::take(&mut self.next), mem::take(&mut self.waiting));
            let (thread, asked) = (Arc::clone(&self.thread), sweep.clone());
            let swept = tokio::spawn(async move {
                let cut = thread.sweep(asked).await;
                let pods = answer(waiting, &cut);
                Swept { cut, pods }
            });
            self.running = Some(Running { sweep, swept });
        }
    }

    fn end(&mut self, swept: &Swept) {
        self.rest_until = Instant::now() + PACE;
        if let Some(Running { mut sweep, .. }) = self.running.take()
            && swept.cut.is_err()
        {
            // What was asked for later is asked for still.
            sweep.add(mem::take(&mut self.next));
            self.next = sweep;
            self.begin_at(Instant::now() + RETRY);
        }
    }
}

/// Lets pods start, or not, and returns how many still waited for that.
fn answer(waiting: Vec<oneshot::Sender<Answer>>, cut: &anyhow::Result<usize>) -> u64 {
    let mut answered = 0;
    for answer in waiting {
        let said = match cut {
            Ok(_) => Answer::Admitted,
            Err(error) => Answer::Refused { why: format!("{error:#}") },
        };
        // The plugin may have given up.
        answered += u64::from(answer.send(said).is_ok());
    }
    answered
}
