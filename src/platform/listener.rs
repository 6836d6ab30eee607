//! Who listens at a unix socket.

use std::fs;
use std::os::fd::{AsRawFd as _, BorrowedFd};

/// A process, and how it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Listener {
    /// Its id, as this process has it.
    pub(crate) pid: i32,
    /// The kernel's letter for its state, T if it is stopped; none if that cannot be read.
    pub(crate) state: Option<char>,
}

/// Who listens where `stream` is connected to, whether or not he answers; none if he is nobody of
/// this process's PID namespace.
pub(crate) fn listener(stream: BorrowedFd<'_>) -> Option<Listener> {
    let mut found = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut len = libc::socklen_t::try_from(size_of_val(&found)).ok()?;
    // SAFETY: both pointers are to values that live through the call, and `len` is the size of the
    // first.
    let done = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut found).cast(),
            &raw mut len,
        )
    };
    // kernel: a process of another PID namespace is 0.
    let pid = Some(found.pid).filter(|pid| done == 0 && *pid > 0)?;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok();
    Some(Listener { pid, state: stat.as_deref().and_then(state) })
}

/// The state in `/proc/PID/stat`. The name before it, in brackets, may have any letter.
fn state(stat: &str) -> Option<char> {
    stat.rsplit_once(") ")?.1.chars().next()
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    #[test]
    fn listener_is_known_before_it_answers() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let _listening = UnixListener::bind(&path).unwrap();
        let found = listener(UnixStream::connect(&path).unwrap().as_fd()).unwrap();
        assert_eq!(u32::try_from(found.pid), Ok(std::process::id()));
        assert!(found.state.is_some());
        assert_eq!(state("7 (a) T (b) S 1 2"), Some('S'));
    }
}
