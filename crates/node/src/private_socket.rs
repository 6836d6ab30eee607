//! Sockets in the file system that are for root alone from their first moment, and the way to them,
//! which waits for no longer than it is told to.

use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{Mode, fchmod};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, socket_with};

/// Connections that wait to be accepted: what the standard library asks for.
const BACKLOG: i32 = 1024;

/// Listens at `path`, where nothing is yet, without ever blocking.
///
/// kernel: the file gets the mode of the socket that is bound, less the process's mask (Linux,
/// `unix_bind_bsd`). To change the file's mode afterwards would leave a moment to others.
///
/// # Errors
///
/// What the kernel says.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

/// Connects to the socket at `path`. A process that is stopped accepts nobody: once its queue is
/// full, there is a place after `patience`, or [`io::ErrorKind::WouldBlock`]. Writing waits as
/// long.
///
/// kernel: a connection waits for a place as long as a write may take (Linux,
/// `unix_stream_connect`).
///
/// # Errors
///
/// What the kernel says.
pub fn connect(path: &Path, patience: Duration) -> io::Result<UnixStream> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&socket, Timeout::Send, Some(patience))?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket.into())
}

/// Listens at `path` as a stopped process does whose queue is full: nobody gets a place. The
/// connections that fill the queue have to be kept.
#[cfg(test)]
pub(crate) fn listen_stopped(path: &Path) -> (rustix::fd::OwnedFd, Vec<UnixStream>) {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::empty(), None);
    let socket = socket.unwrap();
    bind(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
    rustix::net::listen(&socket, 0).unwrap();
    let short = Duration::from_millis(20);
    let held: Vec<_> = (0..8).map_while(|_| connect(path, short).ok()).collect();
    assert!(held.len() < 8, "the queue is not full");
    (socket, held)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn only_its_owner_may_connect() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let _listener = listen(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        UnixStream::connect(&path).unwrap();
        assert!(listen(&path).is_err(), "somebody listens there");
    }
}
