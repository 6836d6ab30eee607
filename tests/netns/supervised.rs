//! What a service manager is told, with a socket that stands in for systemd's.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

use culvert_lab::clock;

use crate::harness::{SOON, lab};

/// What stands in for systemd.
struct Manager(UnixDatagram);

impl Manager {
    fn at(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        Self(socket)
    }

    /// What comes up to a message that begins with `wanted`, and that.
    fn until(&self, wanted: &str) -> Vec<String> {
        let mut messages = Vec::new();
        let start = clock::now();
        loop {
            // Signs of life come all the time.
            assert!(start.elapsed() < SOON, "no {wanted}; what came is {messages:?}");
            let mut buffer = [0; 4096];
            let len = self
                .0
                .recv(&mut buffer)
                .unwrap_or_else(|error| panic!("no {wanted}: {error}; what came is {messages:?}"));
            let message = String::from_utf8(buffer[..len].to_vec()).unwrap();
            messages.push(message);
            if messages.last().is_some_and(|last| last.starts_with(wanted)) {
                return messages;
            }
        }
    }

    /// Takes what has come, so that only what follows is seen.
    fn drain(&self) {
        self.0.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        while self.0.recv(&mut [0; 4096]).is_ok() {}
        self.0.set_read_timeout(Some(SOON)).unwrap();
    }
}

#[test]
fn service_manager_is_told_of_readiness_reload_life_and_end() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let manager = Manager::at(&path);
    let lab = lab("nt-notify")
        .nodes(1)
        .pods(0)
        .daemon_env("NOTIFY_SOCKET", path.to_str().unwrap())
        .daemon_env("WATCHDOG_USEC", "500000")
        .up()
        .unwrap();
    let node = lab.node(1);
    let start = manager.until("READY=1");
    assert!(start[0].starts_with("STATUS=not ready: ") || start[0] == "WATCHDOG=1", "{start:?}");
    assert!(start.iter().any(|message| message.starts_with("STATUS=not ready: ")), "{start:?}");
    manager.until("WATCHDOG=1");

    manager.drain();
    node.reload().unwrap();
    let reload = manager.until("RELOADING=1\nMONOTONIC_USEC=");
    assert!(!reload.contains(&"READY=1".to_owned()), "{reload:?}");
    manager.until("READY=1");

    node.stop().unwrap();
    manager.until("STOPPING=1");
}

#[test]
fn watchdog_is_for_the_process_that_it_names() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let manager = Manager::at(&path);
    // Process 1 is never a daemon of a lab.
    let _lab = lab("nt-watchdog")
        .nodes(1)
        .pods(0)
        .daemon_env("NOTIFY_SOCKET", path.to_str().unwrap())
        .daemon_env("WATCHDOG_USEC", "1000")
        .daemon_env("WATCHDOG_PID", "1")
        .up()
        .unwrap();
    let start = manager.until("READY=1");
    assert!(!start.contains(&"WATCHDOG=1".to_owned()), "{start:?}");
}
