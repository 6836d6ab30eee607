//! A piece of cable that takes time: frames that come in at the one end leave at the other later.
//!
//! Owns the process between the two ends, which are TAP devices of the switch, and what it holds.
//! Linux has queues that hold packets back for a time (`netem`), but not every kernel is built with
//! one. The ends are made and plugged in by [`crate::fault`].
//!
//! ```text
//! eth0 of the node ── node1 ─ node1-own ─ node1-held ⇉ this process ⇉ node1-late ─ underlay
//!                    (veth)  (bridge)     (TAP)                       (TAP)       (the switch)
//! ```

mod tap;

use std::collections::VecDeque;
use std::fs;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use self::tap::Tap;
use crate::clock;
use crate::files;
use crate::network::Lab;
use crate::node::Node;
use crate::process::{self, Process};

/// What is held at once, at most: what comes then is lost, as in any queue that is full. It is a
/// tenth of a second of ten gigabits, and more of what one process moves.
const HELD_BYTES: usize = 128 << 20;

/// Frames that are taken from one end before the other is looked at.
const TURN: usize = 64;

/// The longest frame: the largest IP packet, and a header of Ethernet with a tag.
const FRAME_LEN: usize = (1 << 16) + 18;

/// What the process says once it moves frames.
const READY: &str = "ready";

/// How long it may take to go.
const GRACE: Duration = Duration::from_secs(2);

/// The ends of a node's relay: on the node's side, and on the switch's.
pub(crate) fn ends(node: &str) -> [String; 2] {
    [format!("{node}-held"), format!("{node}-late")]
}

/// Frames that wait for their time, in the order in which they came.
struct Held {
    delay: Duration,
    frames: VecDeque<(Instant, Vec<u8>)>,
    bytes: usize,
    most: usize,
}

impl Held {
    const fn new(delay: Duration, most: usize) -> Self {
        Self { delay, frames: VecDeque::new(), bytes: 0, most }
    }

    /// Takes a frame that has come `now`, unless there is no room.
    fn hold(&mut self, frame: &[u8], now: Instant) {
        if self.bytes + frame.len() <= self.most {
            self.bytes += frame.len();
            self.frames.push_back((now + self.delay, frame.to_vec()));
        }
    }

    /// The next frame whose time has come.
    fn due(&mut self, now: Instant) -> Option<Vec<u8>> {
        let (due, _) = self.frames.front()?;
        if *due > now {
            return None;
        }
        let (_, frame) = self.frames.pop_front()?;
        self.bytes -= frame.len();
        Some(frame)
    }

    /// How long the next frame has to wait.
    fn wait(&self, now: Instant) -> Option<Duration> {
        self.frames.front().map(|(due, _)| due.saturating_duration_since(now))
    }
}

/// Moves frames between the ends of `node`'s relay for ever; those that come from the node leave
/// so much later.
pub(crate) fn run(node: &str, delay: Duration) -> Result<()> {
    let [near, far] = ends(node).map(|name| Tap::open(&name).map_err(|error| (name, error)));
    let opened = |end: std::result::Result<Tap, (String, io::Error)>| {
        end.map_err(|(name, error)| anyhow::Error::new(error).context(format!("open {name}")))
    };
    let (near, far) = (opened(near)?, opened(far)?);
    writeln!(io::stdout(), "{READY}").context("say so")?;
    let mut held = Held::new(delay, HELD_BYTES);
    let mut buffer = vec![0; FRAME_LEN];
    loop {
        let timeout = held.wait(clock::now()).and_then(|wait| Timespec::try_from(wait).ok());
        let mut ends = [PollFd::new(&near, PollFlags::IN), PollFd::new(&far, PollFlags::IN)];
        match poll(&mut ends, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("wait for frames"),
        }
        for _ in 0..TURN {
            match near.recv(&mut buffer)? {
                Some(frame) => held.hold(frame, clock::now()),
                None => break,
            }
        }
        for _ in 0..TURN {
            match far.recv(&mut buffer)? {
                Some(frame) => near.send(frame),
                None => break,
            }
        }
        let now = clock::now();
        while let Some(frame) = held.due(now) {
            far.send(&frame);
        }
    }
}

fn pid_path(lab: &Lab, node: &Node) -> PathBuf {
    files::node_dir(&files::dir(&lab.plan().name), node.index).join("relay.pid")
}

/// Starts the process between the ends of the node's relay, which are there, and waits until it
/// moves frames.
pub(crate) fn start(lab: &Lab, node: &Node, delay_ms: u32) -> Result<()> {
    let mut child = lab
        .switch()
        .command(&node.lab.culvert)
        .args(["lab", "--name", &lab.plan().name, "relay", node.name()])
        .arg(delay_ms.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // Out of reach of the terminal, as daemons are.
        .process_group(0)
        .spawn()
        .context("start a relay")?;
    files::write(&pid_path(lab, node), &child.id().to_string())?;
    let mut said = String::new();
    if let Some(out) = child.stdout.take() {
        BufReader::new(out).read_line(&mut said).context("listen to the relay")?;
    }
    if said.trim() == READY {
        return Ok(());
    }
    let output = child.wait_with_output().context("wait for the relay")?;
    bail!("the relay has ended: {}", String::from_utf8_lossy(&output.stderr).trim())
}

/// Ends the node's relay, if one runs.
pub(crate) fn stop(lab: &Lab, node: &Node) -> Result<()> {
    let path = pid_path(lab, node);
    let id = fs::read_to_string(&path).ok().and_then(|id| id.trim().parse().ok());
    let process = id.and_then(Process::open);
    if let Some(process) = process.filter(|it| it.was_called_with("relay")) {
        let stubborn = process::terminate(&[process], GRACE);
        if !stubborn.is_empty() {
            bail!("the relay of {} (process {stubborn:?}) does not end", node.name());
        }
    }
    // There may be none.
    let _ = fs::remove_file(path);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_leave_in_their_order_when_their_time_has_come() {
        let (start, delay) = (clock::now(), Duration::from_millis(50));
        let mut held = Held::new(delay, 100);
        assert_eq!(held.wait(start), None);
        held.hold(b"one", start);
        held.hold(b"two", start + delay / 2);
        assert_eq!(held.wait(start + delay / 5), Some(delay * 4 / 5));
        assert_eq!(held.due(start + delay - Duration::from_nanos(1)), None);
        assert_eq!(held.due(start + delay).as_deref(), Some(&b"one"[..]));
        assert_eq!(held.due(start + delay), None);
        assert_eq!(held.wait(start + 2 * delay), Some(Duration::ZERO), "it is late");
        assert_eq!(held.due(start + 2 * delay).as_deref(), Some(&b"two"[..]));
        assert_eq!((held.due(start + 2 * delay), held.bytes), (None, 0));
    }

    #[test]
    fn what_there_is_no_room_for_is_lost() {
        let start = clock::now();
        let mut held = Held::new(Duration::ZERO, 10);
        held.hold(&[1; 8], start);
        held.hold(&[2; 3], start);
        held.hold(&[3; 2], start);
        assert_eq!(held.due(start), Some(vec![1; 8]));
        assert_eq!(held.due(start), Some(vec![3; 2]));
        assert_eq!(held.due(start), None);
    }

    #[test]
    fn names_of_the_ends_fit_the_kernel() {
        for end in ends("node250") {
            assert!(end.len() <= 15, "{end}");
        }
    }
}
