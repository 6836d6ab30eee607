//! Waiting for packets, and being woken from it.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};

/// A descriptor that becomes readable when somebody calls [`wake`](Self::wake).
#[derive(Debug)]
pub struct Waker {
    event: OwnedFd,
    set: AtomicBool,
}

impl Waker {
    /// Makes one.
    ///
    /// # Errors
    ///
    /// Out of descriptors or memory.
    pub fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { event, set: AtomicBool::new(false) })
    }

    /// Wakes whoever waits, or will.
    pub fn wake(&self) {
        self.set.store(true, Ordering::Release);
        // The only failure is a full counter, which is readable too.
        let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
    }

    /// Whether somebody has called since the last [`clear`](Self::clear): a look without a system
    /// call.
    pub fn is_set(&self) -> bool {
        self.set.load(Ordering::Acquire)
    }

    /// Takes note of having been woken. What the caller of [`wake`](Self::wake) did before is
    /// visible afterwards.
    pub fn clear(&self) {
        self.set.store(false, Ordering::Release);
        let _ = rustix::io::read(&self.event, &mut [0_u8; 8]);
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

/// A set of descriptors to wait on together. The kernel keeps the set between waits, which makes a
/// wait cheaper than one that hands it over each time (epoll against poll).
#[derive(Debug)]
pub struct WaitSet {
    epoll: OwnedFd,
}

/// Most descriptors in a set: a bit each.
const MAX_TOKENS: u64 = 8;

/// Which descriptors of a set are readable or broken, by their tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ready(u8);

impl Ready {
    /// All of them.
    pub const ALL: Self = Self(u8::MAX);

    /// Whether the descriptor that was added under `token` is.
    pub fn contains(self, token: u64) -> bool {
        token < MAX_TOKENS && self.0 & (1 << token) != 0
    }

    /// Whether none is.
    pub fn is_none(self) -> bool {
        self.0 == 0
    }
}

impl WaitSet {
    /// Makes an empty set.
    ///
    /// # Errors
    ///
    /// Out of descriptors or memory.
    pub fn new() -> io::Result<Self> {
        Ok(Self { epoll: epoll::create(epoll::CreateFlags::CLOEXEC)? })
    }

    /// Adds a descriptor under `token`, which is less than 8, and which several may share. Closing
    /// it takes it out again.
    ///
    /// # Errors
    ///
    /// It is in the set already, or cannot be waited on.
    pub fn add(&self, fd: impl AsFd, token: u64) -> io::Result<()> {
        debug_assert!(token < MAX_TOKENS, "a set has room for a bit of each token");
        let data = epoll::EventData::new_u64(token);
        Ok(epoll::add(&self.epoll, fd, data, epoll::EventFlags::IN)?)
    }

    /// Takes a descriptor out.
    ///
    /// # Errors
    ///
    /// It is not in the set.
    pub fn remove(&self, fd: impl AsFd) -> io::Result<()> {
        Ok(epoll::delete(&self.epoll, fd)?)
    }

    /// Sleeps until a descriptor of the set is readable or broken.
    ///
    /// # Errors
    ///
    /// Out of memory; an interrupting signal is no error.
    pub fn wait(&self) -> io::Result<Ready> {
        self.ready_within(None)
    }

    /// The same, for no longer than `limit`.
    ///
    /// # Errors
    ///
    /// As [`wait`](Self::wait).
    pub fn wait_for(&self, limit: Duration) -> io::Result<Ready> {
        let seconds = i64::try_from(limit.as_secs()).unwrap_or(i64::MAX);
        let limit = Timespec { tv_sec: seconds, tv_nsec: limit.subsec_nanos().into() };
        self.ready_within(Some(&limit))
    }

    /// Which descriptors are readable or broken at this moment.
    ///
    /// # Errors
    ///
    /// As [`wait`](Self::wait).
    pub fn look(&self) -> io::Result<Ready> {
        self.ready_within(Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))
    }

    fn ready_within(&self, limit: Option<&Timespec>) -> io::Result<Ready> {
        let mut events = [const { MaybeUninit::uninit() }; MAX_TOKENS as usize];
        match epoll::wait(&self.epoll, &mut events, limit) {
            Ok((events, _)) => Ok(Ready(
                events
                    .iter()
                    .fold(0, |ready, event| ready | (1 << (event.data.u64() % MAX_TOKENS))),
            )),
            Err(rustix::io::Errno::INTR) => Ok(Ready::default()),
            Err(error) => Err(error.into()),
        }
    }
}
