//! The thread `policy`, as the control runtime asks it.

use std::time::Duration;

use anyhow::Context as _;

use super::policies::Policies;
use crate::control::worker::{Returned, Worker};

/// How long a request may take. A change takes milliseconds; a table of a thousand policies and ten
/// thousand addresses that is made anew takes a second.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is done when there is no answer, for errors.
const WAITING: &str = "waiting for the rules of policies";

/// The way to the thread that owns the policies.
pub(crate) struct PolicyThread(Worker<Policies>);

impl PolicyThread {
    /// Starts the thread, in this thread's network namespace.
    ///
    /// # Errors
    ///
    /// The kernel refuses a thread.
    pub(crate) fn start(policies: Policies) -> anyhow::Result<Self> {
        let worker = Worker::start("policy", policies, PATIENCE);
        Ok(Self(worker.context("starting the thread that enforces policies")?))
    }

    /// Has the thread do `job`, and waits for what it says.
    ///
    /// # Errors
    ///
    /// There is no answer in time. What was begun is finished all the same.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Policies) -> T + Send + 'static,
    ) -> anyhow::Result<T> {
        self.0.ask(job).await.context(WAITING)
    }

    /// Has the thread do `job` with `load`, and waits for what it says.
    ///
    /// # Errors
    ///
    /// There is no answer in time. What was begun is finished all the same; of what was not, the
    /// load comes back.
    pub(crate) async fn hand<L: Send + 'static, T: Send + 'static>(
        &self,
        load: L,
        job: impl FnOnce(&mut Policies, L) -> T + Send + 'static,
    ) -> Result<T, Returned<L, anyhow::Error>> {
        let done = self.0.hand(load, job).await;
        done.map_err(|Returned { error, load }| Returned {
            error: anyhow::Error::new(error).context(WAITING),
            load,
        })
    }
}
