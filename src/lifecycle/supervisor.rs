//! Telling the service manager that started the daemon how far it has come (sd_notify(3)).
//!
//! Owns the socket and the words of the protocol. A manager that does not read costs nothing: what
//! it would have been told is told again with the next change.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// The service manager, if there is one that listens.
#[derive(Clone, Debug, Default)]
pub(crate) struct Supervisor(Option<Arc<Manager>>);

#[derive(Debug)]
struct Manager {
    socket: UnixDatagram,
    address: SocketAddr,
    watchdog: Option<Duration>,
}

impl Supervisor {
    /// A manager that listens at `address`, as NOTIFY_SOCKET has it, and, with `watchdog`, wants a
    /// sign of life as often.
    ///
    /// # Errors
    ///
    /// The address is none, or there are no sockets left.
    pub(crate) fn open(address: &OsStr, watchdog: Option<Duration>) -> io::Result<Self> {
        let bytes = address.as_bytes();
        let address = match bytes.strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(address)?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Self(Some(Arc::new(Manager { socket, address, watchdog }))))
    }

    /// Whether there is one.
    pub(crate) fn is_there(&self) -> bool {
        self.0.is_some()
    }

    /// How often it wants a sign of life at least.
    pub(crate) fn watchdog(&self) -> Option<Duration> {
        self.0.as_ref()?.watchdog
    }

    /// The daemon serves.
    pub(crate) fn ready(&self) -> bool {
        self.tell("READY=1")
    }

    /// The daemon reads its files again; [`ready`](Self::ready) says when it has.
    pub(crate) fn reloading(&self) -> bool {
        let now = clock_gettime(ClockId::Monotonic);
        let micros = now.tv_sec * 1_000_000 + now.tv_nsec / 1000;
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"))
    }

    /// The daemon ends.
    pub(crate) fn stopping(&self) -> bool {
        self.tell("STOPPING=1")
    }

    /// The daemon lives.
    pub(crate) fn alive(&self) -> bool {
        self.tell("WATCHDOG=1")
    }

    /// How it stands, for people.
    pub(crate) fn status(&self, line: &str) -> bool {
        // A second line would be another message.
        self.tell(&format!("STATUS={}", line.lines().next().unwrap_or_default()))
    }

    /// Says whether it was told.
    fn tell(&self, message: &str) -> bool {
        let Some(manager) = &self.0 else { return false };
        let sent = manager.socket.send_to_addr(message.as_bytes(), &manager.address);
        if let Err(error) = &sent {
            tracing::debug!(%error, "the service manager was not told");
        }
        sent.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(by: &UnixDatagram) -> String {
        let mut buffer = [0; 512];
        let len = by.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..len].to_vec()).unwrap()
    }

    #[test]
    fn manager_at_a_path_and_at_an_abstract_name_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let supervisor = Supervisor::open(path.as_os_str(), None).unwrap();
        assert!(supervisor.ready());
        assert_eq!(received(&manager), "READY=1");
        assert!(supervisor.status("not ready: table\nmore"));
        assert_eq!(received(&manager), "STATUS=not ready: table");
        assert!(supervisor.reloading());
        let text = received(&manager);
        let micros = text.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
        assert!(micros.parse::<u64>().unwrap() > 0);

        let name = format!("culvert-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let manager = UnixDatagram::bind_addr(&address).unwrap();
        let address = format!("@{name}");
        let supervisor = Supervisor::open(OsStr::new(&address), None).unwrap();
        assert!(supervisor.alive());
        assert_eq!(received(&manager), "WATCHDOG=1");
    }

    #[test]
    fn manager_that_does_not_read_or_is_gone_holds_nobody_up() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let supervisor = Supervisor::open(path.as_os_str(), None).unwrap();
        let told = (0..10_000).filter(|_| supervisor.status("again")).count();
        assert!(told > 0 && told < 10_000);
        drop(manager);
        assert!(!supervisor.stopping());
        assert!(!Supervisor::default().ready());
    }
}
