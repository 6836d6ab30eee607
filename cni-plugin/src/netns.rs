//! The pod's network namespace.
//!
//! Owns opening it, entering it, and the sysctls inside it. A namespace is a property of a thread.
//! Whoever has work elsewhere, too, has a thread of its own enter, which ends with the work there.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::{panic, thread};

use rustix::fs::OFlags;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::error::Error;

/// Where the kernel keeps network sysctls of the namespace of the thread that looks.
const SYSCTL_ROOT: &str = "/proc/sys/net";

/// An open network namespace that is not the plugin's own.
#[derive(Debug)]
pub(crate) struct Netns {
    path: PathBuf,
    file: File,
}

impl Netns {
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let bad = |source| Error::BadNetns { path: path.to_owned(), source };
        // A pipe under this name must not hold the plugin up.
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path);
        let file = file.map_err(|source| {
            if source.kind() == io::ErrorKind::NotFound {
                Error::NetnsMissing { path: path.to_owned(), source }
            } else {
                bad(source)
            }
        })?;
        let theirs = file.metadata().map_err(bad)?;
        let ours = fs::metadata("/proc/thread-self/ns/net").map_err(bad)?;
        if (theirs.dev(), theirs.ino()) == (ours.dev(), ours.ino()) {
            return Err(Error::OwnNetns { path: path.to_owned() });
        }
        Ok(Self { path: path.to_owned(), file })
    }

    /// The path that the runtime gave.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Moves the calling thread into the namespace, for good.
    pub(crate) fn enter(&self) -> Result<(), Error> {
        move_into_link_name_space(self.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(|errno| Error::BadNetns { path: self.path.clone(), source: errno.into() })
    }

    /// Runs `work` on a thread inside the namespace and waits for it.
    pub(crate) fn run<T: Send, E: From<Error> + Send>(
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
                .map_err(|source| Error::Thread { source })?;
            thread.join().unwrap_or_else(|panic| panic::resume_unwind(panic))
        })
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

/// A sysctl under `/proc/sys/net`: the path below it, and the value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sysctl {
    pub(crate) path: String,
    pub(crate) value: &'static str,
}

impl Sysctl {
    /// Writes the value in the namespace of the calling thread.
    pub(crate) fn write(&self) -> Result<(), Error> {
        let path = Path::new(SYSCTL_ROOT).join(&self.path);
        fs::write(&path, self.value).map_err(|source| Error::Sysctl {
            path,
            value: self.value,
            source,
        })
    }
}

/// Whether the kernel has IPv6 at all (it lacks the directory after `ipv6.disable=1`).
pub(crate) fn kernel_has_ipv6() -> bool {
    Path::new(SYSCTL_ROOT).join("ipv6").exists()
}
