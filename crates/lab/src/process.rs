//! Processes of a lab: whether they live, and ending them.
//!
//! Owns signals and waiting for an exit, through process file descriptors, so that no signal goes
//! to a stranger that got a reused id. Never starts anything.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::netns::Identity;
use crate::clock;

/// How long a process that got SIGKILL may take to go: the kernel has its memory to free.
const KILL_GRACE: Duration = Duration::from_secs(5);

/// A running process, or one that has ended since it was opened.
#[derive(Debug)]
pub(crate) struct Process {
    id: u32,
    fd: OwnedFd,
}

impl Process {
    /// The process `id`, provided that it runs.
    pub(crate) fn open(id: u32) -> Option<Self> {
        let pid = Pid::from_raw(i32::try_from(id).ok()?)?;
        let fd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        let process = Self { id, fd };
        if process.wait(Duration::ZERO) { None } else { Some(process) }
    }

    /// Whether it is in the network namespace `identity`.
    pub(crate) fn is_in(&self, identity: Identity) -> bool {
        network_namespace(self.id) == Some(identity)
    }

    /// Whether its command line contains `text`.
    pub(crate) fn was_called_with(&self, text: &str) -> bool {
        fs::read(format!("/proc/{}/cmdline", self.id))
            .is_ok_and(|line| String::from_utf8_lossy(&line).contains(text))
    }

    /// Whether it stands still: somebody has sent it SIGSTOP, or watches over it.
    pub(crate) fn is_stopped(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.id)).unwrap_or_default();
        // The name before it, in brackets, may have any letter.
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['T', 't']))
    }

    /// Sends `signal`; a process that is gone is no error.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(&self.fd, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until it has ended, for at most `limit`; whether it has.
    pub(crate) fn wait(&self, limit: Duration) -> bool {
        let start = clock::now();
        loop {
            let left = limit.saturating_sub(start.elapsed());
            let timeout = Timespec::try_from(left).ok();
            match poll(&mut [PollFd::new(&self.fd, PollFlags::IN)], timeout.as_ref()) {
                Ok(ready) => return ready > 0,
                Err(rustix::io::Errno::INTR) => {}
                // The descriptor is our own; the one thing poll can lack is memory.
                Err(_) => return false,
            }
        }
    }
}

/// The processes in any of the network namespaces `identities`, without this one.
pub(crate) fn inside(identities: &HashSet<Identity>) -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter(|id| *id != std::process::id())
        .filter(|id| network_namespace(*id).is_some_and(|found| identities.contains(&found)))
        .filter_map(Process::open)
        // Looked at again behind the descriptor, which no reuse of the id can redirect.
        .filter(|process| identities.iter().any(|identity| process.is_in(*identity)))
        .collect()
}

/// Ends `processes`: SIGTERM to all, SIGKILL to those that are still there after `grace`. Returns
/// the ids of those that did not go.
pub(crate) fn terminate(processes: &[Process], grace: Duration) -> Vec<u32> {
    let start = clock::now();
    for process in processes {
        let _ = process.signal(Signal::TERM);
        // One that stands still could not take it.
        let _ = process.signal(Signal::CONT);
    }
    let stubborn: Vec<&Process> = processes
        .iter()
        .filter(|process| !process.wait(grace.saturating_sub(start.elapsed())))
        .collect();
    for process in &stubborn {
        let _ = process.signal(Signal::KILL);
    }
    let start = clock::now();
    stubborn
        .iter()
        .filter(|process| !process.wait(KILL_GRACE.saturating_sub(start.elapsed())))
        .map(|process| process.id)
        .collect()
}

fn network_namespace(id: u32) -> Option<Identity> {
    fs::metadata(format!("/proc/{id}/ns/net")).ok().map(|file| (file.dev(), file.ino()))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_that_ignores_sigterm_is_killed() {
        // The inner shell prints once the trap is set, so that SIGTERM cannot come before it.
        let mut child = Command::new("sh")
            .args(["-c", "trap '' TERM; echo set; while :; do sleep 1; done"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let stdout = child.stdout.take().unwrap();
        io::BufRead::read_line(&mut io::BufReader::new(stdout), &mut line).unwrap();

        let process = Process::open(child.id()).unwrap();
        assert!(process.was_called_with("trap"));
        assert!(!process.is_stopped());
        process.signal(Signal::STOP).unwrap();
        crate::wait::wait_for(KILL_GRACE, "the process to stop", || {
            Ok(process.is_stopped().then_some(()))
        })
        .unwrap();
        assert!(terminate(&[process], Duration::from_millis(50)).is_empty());
        assert!(Process::open(child.id()).is_none(), "a zombie does not run");
        child.wait().unwrap();
    }
}
