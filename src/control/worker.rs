//! A thread that owns what makes blocking calls, and the way to ask it from the control runtime.
//!
//! It is a thread of its own because no deadline ends a system call that waits inside the kernel:
//! the lock that all changes of devices need is the whole machine's. Whoever asks waits for a
//! limited time. One request is under way at a time and none queues; what is not waited for any
//! more is still finished. The thread ends with the process, or once nobody can ask any more.

use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};

type Job<S> = Box<dyn FnOnce(&mut S) + Send>;

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::control) enum NoAnswer {
    /// The thread is still busy.
    #[error("the kernel has not answered for {0:?}")]
    Late(Duration),
    /// The thread has panicked.
    #[error("the thread that talks to the kernel has ended; this is a bug")]
    Gone,
}

/// A job that may not have been done, and what it was to take along: none once it has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Returned<L, E> {
    pub(crate) error: E,
    pub(crate) load: Option<L>,
}

/// The way to a thread that owns an `S`.
pub(in crate::control) struct Worker<S> {
    jobs: mpsc::Sender<Job<S>>,
    turn: Arc<Semaphore>,
    patience: Duration,
}

impl<S: Send + 'static> Worker<S> {
    /// Starts a thread called `name`, which owns `state`, in the network namespace of this one. A
    /// request may take `patience`.
    pub(in crate::control) fn start(
        name: &str,
        mut state: S,
        patience: Duration,
    ) -> std::io::Result<Self> {
        let (jobs, asked) = mpsc::channel::<Job<S>>();
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            while let Ok(job) = asked.recv() {
                job(&mut state);
            }
        })?;
        Ok(Self { jobs, turn: Arc::new(Semaphore::new(1)), patience })
    }

    /// Has the thread do `job`, and waits for what it says.
    ///
    /// # Cancel safety
    ///
    /// A job that has begun is finished, and its answer lost.
    pub(in crate::control) async fn ask<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut S) -> T + Send + 'static,
    ) -> Result<T, NoAnswer> {
        let ask = async {
            let turn = Arc::clone(&self.turn).acquire_owned().await.map_err(|_| NoAnswer::Gone)?;
            let (answer, answered) = oneshot::channel();
            let job: Job<S> = Box::new(move |state| {
                // Nobody may be waiting any more.
                let _late = answer.send(job(state));
                drop(turn);
            });
            self.jobs.send(job).map_err(|_| NoAnswer::Gone)?;
            answered.await.map_err(|_| NoAnswer::Gone)
        };
        match tokio::time::timeout(self.patience, ask).await {
            Ok(answered) => answered,
            Err(_elapsed) => Err(NoAnswer::Late(self.patience)),
        }
    }

    /// As [`ask`](Self::ask), for a job that takes `load` along. A job that has not begun when its
    /// time is over never begins, and its load comes back.
    pub(in crate::control) async fn hand<L: Send + 'static, T: Send + 'static>(
        &self,
        load: L,
        job: impl FnOnce(&mut S, L) -> T + Send + 'static,
    ) -> Result<T, Returned<L, NoAnswer>> {
        let place = Arc::new(Mutex::new(Some(load)));
        let taken = Arc::clone(&place);
        let asked = self.ask(move |state| take(&taken).map(|load| job(state, load))).await;
        let done = asked.and_then(|done| done.ok_or(NoAnswer::Gone));
        done.map_err(|error| Returned { error, load: take(&place) })
    }
}

/// Whoever comes first gets it.
fn take<L>(place: &Mutex<Option<L>>) -> Option<L> {
    place.lock().unwrap_or_else(PoisonError::into_inner).take()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn stalled_thread_holds_nobody_up_and_its_work_is_not_lost() {
        let worker = Worker::start("test", 0_u32, SHORT).unwrap();
        let (go_on, stalled) = mpsc::channel::<()>();
        let first = worker.ask(move |state| {
            let _released = stalled.recv();
            *state += 1;
        });
        assert_eq!(first.await, Err(NoAnswer::Late(SHORT)));
        // Neither does a request after it get through, nor does it queue.
        for _again in 0..3 {
            assert_eq!(worker.ask(|state| *state += 100).await, Err(NoAnswer::Late(SHORT)));
        }
        go_on.send(()).unwrap();
        let patient = Worker { patience: Duration::from_secs(60), ..worker };
        assert_eq!(patient.ask(|state| *state).await, Ok(1));
    }

    #[tokio::test]
    async fn load_of_a_job_that_never_began_comes_back() {
        let worker = Worker::start("test", Vec::new(), SHORT).unwrap();
        let (go_on, stalled) = mpsc::channel::<()>();
        let begun = worker.hand("begun", move |state: &mut Vec<&str>, load| {
            let _released = stalled.recv();
            state.push(load);
        });
        let error = NoAnswer::Late(SHORT);
        assert_eq!(begun.await, Err(Returned { error, load: None }));
        let waits = worker.hand("waits", |state, load| state.push(load));
        assert_eq!(waits.await, Err(Returned { error, load: Some("waits") }));
        go_on.send(()).unwrap();
        let patient = Worker { patience: Duration::from_secs(60), ..worker };
        assert_eq!(patient.hand("again", |state, load| state.push(load)).await, Ok(()));
        assert_eq!(patient.ask(|state| state.clone()).await, Ok(vec!["begun", "again"]));
    }

    #[tokio::test]
    async fn control_runtime_goes_on_while_a_request_is_under_way() {
        let worker = Worker::start("test", (), Duration::from_secs(60)).unwrap();
        let (go_on, stalled) = mpsc::channel::<()>();
        let request = worker.ask(move |()| stalled.recv().is_ok());
        // This runtime has one thread, which both need.
        let other = async {
            tokio::task::yield_now().await;
            go_on.send(()).unwrap();
        };
        assert_eq!(tokio::join!(request, other).0, Ok(true));
    }

    #[tokio::test]
    async fn thread_that_panicked_is_said_to_have_ended() {
        let worker = Worker::start("test", (), Duration::from_secs(60)).unwrap();
        let asked: Result<(), _> = worker.ask(|()| panic!("for a test")).await;
        assert_eq!(asked, Err(NoAnswer::Gone));
        assert_eq!(worker.ask(|()| ()).await, Err(NoAnswer::Gone));
    }
}
