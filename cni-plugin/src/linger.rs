//! A process that stays in the kernel after this one has gone.
//!
//! Owns the fork, and what the child takes along: nothing but what it is told to keep, so that
//! neither a pipe to the container runtime nor a lock stays open with it.

#![expect(unsafe_code, reason = "there is no safe way to fork")]

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::panic::{self, AssertUnwindSafe};

use rustix::process::{Pid, WaitOptions, setsid, waitpid};

/// The process that was left behind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lingerer(Pid);

impl Lingerer {
    /// Does `work` in another process, which keeps `descriptors` and closes all others.
    ///
    /// # Errors
    ///
    /// The machine is short of memory or processes; then nothing was done.
    pub(crate) fn start(descriptors: &[BorrowedFd<'_>], work: impl FnOnce()) -> io::Result<Self> {
        // SAFETY: the child does nothing but run the closure and end. The plugin has no other
        // thread when it comes here, so there is none that could hold a lock.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                // A panic must not go on in what belongs to the parent.
                let _ = panic::catch_unwind(AssertUnwindSafe(|| {
                    close_all_except(descriptors);
                    // Signals to the runtime's group are not meant for what is left to do.
                    let _ = setsid();
                    work();
                }));
                // SAFETY: ends the process and touches nothing of it.
                unsafe { libc::_exit(0) }
            }
            child => Ok(Self(Pid::from_raw(child).expect("a child's id is not zero"))),
        }
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(self) -> bool {
        // Nobody else could have waited for it: an error would mean that there is none.
        !matches!(waitpid(Some(self.0), WaitOptions::NOHANG), Ok(None))
    }
}

fn close_all_except(descriptors: &[BorrowedFd<'_>]) {
    let mut kept: Vec<u32> =
        descriptors.iter().map(|descriptor| descriptor.as_raw_fd().cast_unsigned()).collect();
    kept.sort_unstable();
    let mut first = 0;
    for descriptor in kept.into_iter().chain([u32::MAX]) {
        if first < descriptor {
            // SAFETY: what is closed belongs to this process alone, which uses it no more.
            unsafe { libc::syscall(libc::SYS_close_range, first, descriptor - 1, 0) };
        }
        first = descriptor.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read as _, Write as _, pipe};
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn child_keeps_what_it_is_told_and_nothing_else() {
        let (mut kept, told) = pipe().unwrap();
        let (mut lost, untold) = pipe().unwrap();
        let lingerer = Lingerer::start(&[told.as_fd()], || {
            let open = std::fs::read_dir("/proc/self/fd").unwrap().count();
            let mut told = File::from(told.as_fd().try_clone_to_owned().unwrap());
            // Its own, and that of the look itself.
            told.write_all(if open == 2 { b"alone" } else { b"not alone" }).unwrap();
        });
        let lingerer = lingerer.unwrap();
        drop((told, untold));
        let mut text = String::new();
        kept.read_to_string(&mut text).unwrap();
        assert_eq!(text, "alone");
        assert_eq!(lost.read(&mut [0]).unwrap(), 0);
        while !lingerer.has_ended() {
            std::thread::yield_now();
        }
    }
}
