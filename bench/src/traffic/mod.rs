//! Traffic between two pods, made by this process.
//!
//! Owns the generators. Sockets are opened inside the pods' namespaces, to which they belong for
//! good; the threads that use them are ordinary ones. A wait ends early when the user interrupts.

pub(crate) mod ping_pong;
pub(crate) mod tcp;
pub(crate) mod udp;

use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use culvert_lab::clock;
use culvert_lab::{Netns, interrupt};

/// How often a wait looks whether the user has interrupted.
const SLICE: Duration = Duration::from_millis(25);

/// How long a socket waits for anything before it gives up.
const PATIENCE: Duration = Duration::from_secs(3);

/// A pod as a generator needs it.
#[derive(Clone, Debug)]
pub(crate) struct Pod {
    pub(crate) netns: Netns,
    pub(crate) address: IpAddr,
}

impl From<&culvert_lab::Pod> for Pod {
    fn from(pod: &culvert_lab::Pod) -> Self {
        Self { netns: pod.netns().clone(), address: pod.ipv4() }
    }
}

impl Pod {
    /// Opens something in the pod's namespace.
    fn open<T: Send>(&self, what: &str, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        self.netns.run(work)?.with_context(|| format!("{what} in {}", self.netns.name()))
    }
}

/// Waits for `time`.
pub(crate) fn pause(time: Duration) -> Result<()> {
    let start = clock::now();
    loop {
        interrupt::check()?;
        let left = time.saturating_sub(start.elapsed());
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left.min(SLICE));
    }
}
