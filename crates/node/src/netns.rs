//! The pod's network namespace.
//!
//! Owns opening it and entering it. A namespace is a property of a thread.
//! Whoever has work elsewhere, too, has a thread of its own enter, which ends with the work there.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::{panic, thread};

use rustix::fs::OFlags;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use thiserror::Error;

/// Why nothing can be done in a network namespace.
#[derive(Debug, Error)]
pub enum Failure {
    /// The file system has nothing of that name.
    #[error("network namespace {} does not exist", path.display())]
    Missing {
        /// Its name.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// What is there is something else, or is closed to this process.
    #[error("{} is no network namespace that this process can enter", path.display())]
    Closed {
        /// Its name.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It is that of this process.
    #[error("{} is the network namespace of this process itself", path.display())]
    Own {
        /// Its name.
        path: PathBuf,
    },
    /// There is no thread to enter it.
    #[error("cannot start a thread: the machine is short of memory or processes")]
    Thread {
        /// What the kernel said.
        source: io::Error,
    },
    /// Inside, the kernel does not answer.
    #[error(transparent)]
    Netlink(#[from] culvert_netlink::Error),
}

/// An open network namespace that is not the plugin's own.
#[derive(Debug)]
pub struct Netns {
    path: PathBuf,
    file: File,
}

impl Netns {
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let bad = |source| Failure::Closed { path: path.to_owned(), source };
        // A pipe under this name must not hold the plugin up.
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path);
        let file = file.map_err(|source| {
            if source.kind() == io::ErrorKind::NotFound {
                Failure::Missing { path: path.to_owned(), source }
            } else {
                bad(source)
            }
        })?;
        let theirs = file.metadata().map_err(bad)?;
        let ours = fs::metadata("/proc/thread-self/ns/net").map_err(bad)?;
        if (theirs.dev(), theirs.ino()) == (ours.dev(), ours.ino()) {
            return Err(Failure::Own { path: path.to_owned() });
        }
        Ok(Self { path: path.to_owned(), file })
    }

    /// The path that the runtime gave.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Moves the calling thread into the namespace, for good.
    pub fn enter(&self) -> Result<(), Failure> {
        move_into_link_name_space(self.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(|errno| Failure::Closed { path: self.path.clone(), source: errno.into() })
    }

    /// Runs `work` with the calling thread, which is inside, in `elsewhere` meanwhile.
    pub fn leave_for<T, E: From<Failure>>(
        &self,
        elsewhere: &OwnNetns,
        work: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        elsewhere.enter()?;
        let outcome = work();
        self.enter()?;
        outcome
    }

    /// Runs `work` on a thread inside the namespace and waits for it.
    pub fn run<T: Send, E: From<Failure> + Send>(
        &self,
        work: impl FnOnce() -> Result<T, E> + Send,
    ) -> Result<T, E> {
        let enter_and_work = || {
            self.enter()?;
            work()
        };
        thread::scope(|scope| {
            let thread = thread::Builder::new()
                .spawn_scoped(scope, enter_and_work)
                .map_err(|source| Failure::Thread { source })?;
            thread.join().unwrap_or_else(|panic| panic::resume_unwind(panic))
        })
    }
}

/// The network namespace that the calling thread is in, for coming back to it.
#[derive(Debug)]
pub struct OwnNetns(File);

impl OwnNetns {
    /// Where the kernel shows it.
    const PATH: &str = "/proc/thread-self/ns/net";

    /// Opens it.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn open() -> Result<Self, Failure> {
        File::open(Self::PATH).map(Self).map_err(Self::failed)
    }

    fn enter(&self) -> Result<(), Failure> {
        move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(|errno| Self::failed(errno.into()))
    }

    fn failed(source: io::Error) -> Failure {
        Failure::Closed { path: Self::PATH.into(), source }
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl AsRawFd for Netns {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}
