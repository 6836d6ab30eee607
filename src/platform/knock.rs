//! Whether somebody is at an address: the opening of a TCP connection to a port that nobody has,
//! and the refusal of it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use culvert_dataplane::platform::clock;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, Socket, Type};

/// "Discard", which nobody has run for decades.
pub(crate) const NOBODYS_PORT: u16 = 9;

/// Begins to open a connection to that port.
///
/// # Errors
///
/// The kernel refuses; at once also if it is this machine that has the address.
pub(crate) fn connect(from: (IpAddr, u16), to: IpAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address((to, 0).into()), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from(from).into())?;
    match socket.connect(&SocketAddr::from((to, NOBODYS_PORT)).into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(socket),
    }
}

/// A question on its way, and whether it is answered.
#[derive(Debug)]
pub(crate) struct Knock {
    socket: Option<Socket>,
    pub(crate) is_answered: bool,
    /// Why it was not sent.
    pub(crate) error: Option<String>,
}

impl Knock {
    /// Asks from one of this machine's addresses.
    pub(crate) fn at(from: IpAddr, to: IpAddr) -> Self {
        match connect((from, 0), to) {
            Ok(socket) => Self { socket: Some(socket), is_answered: false, error: None },
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                Self { socket: None, is_answered: true, error: None }
            }
            // This machine has a fault of its own, which other checks name.
            Err(error) => Self { socket: None, is_answered: false, error: Some(error.to_string()) },
        }
    }

    fn conclude(&mut self) {
        let Some(socket) = self.socket.take() else { return };
        self.is_answered = match socket.take_error() {
            Ok(None) => true,
            Ok(Some(error)) | Err(error) => error.kind() == io::ErrorKind::ConnectionRefused,
        };
    }
}

/// Which of these connections are open or refused, once one is or `patience` is at its end; none if
/// they cannot be waited for.
pub(crate) fn answered<'s>(
    sockets: impl Iterator<Item = &'s Socket>,
    patience: Duration,
) -> Option<Vec<bool>> {
    let polled = sockets.map(|socket| PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::OUT));
    let mut polled: Vec<PollFd<'_>> = polled.collect();
    match poll(&mut polled, Timespec::try_from(patience).ok().as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(_) => return None,
    }
    Some(polled.iter().map(|one| !one.revents().is_empty()).collect())
}

/// Waits until all are answered or `patience` is at its end.
pub(crate) fn settle(mut pending: Vec<&mut Knock>, patience: Duration) {
    let since: Instant = clock::now();
    loop {
        pending.retain(|one| one.socket.is_some());
        let left = patience.saturating_sub(since.elapsed());
        if pending.is_empty() || left.is_zero() {
            return;
        }
        let sockets = pending.iter().filter_map(|one| one.socket.as_ref());
        let Some(ready) = answered(sockets, left) else { return };
        for (one, _) in pending.iter_mut().zip(ready).filter(|(_, is_ready)| *is_ready) {
            one.conclude();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_refuses_has_answered_and_who_cannot_be_asked_has_not() {
        let own: IpAddr = [127, 0, 0, 1].into();
        let mut knock = Knock::at(own, own);
        settle(vec![&mut knock], Duration::from_secs(5));
        assert!(knock.is_answered && knock.error.is_none(), "{knock:?}");
        // An address that no machine has.
        let nobody = Knock::at([192, 0, 2, 1].into(), own);
        assert!(!nobody.is_answered && nobody.error.is_some(), "{nobody:?}");
    }
}
