//! A node: the real machine, a driver that waits where the real one does, a daemon, and what a real
//! one has on its disk.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use culvert_claims::{Candidate, HeldAddress, NodeKeys};
use culvert_keys::PublicKey;
use ipnet::IpNet;

use super::daemon::Daemon;
use super::{Happening, Protocol};

/// What survives everything but a new disk.
#[derive(Default)]
pub(crate) struct Disk {
    /// The last good table.
    pub(crate) table: Vec<Candidate>,
    pub(crate) pods: Vec<IpAddr>,
}

/// What the driver waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// The end of a pause between sessions.
    Pause,
    /// The answer with this number.
    Answer(u64),
    /// The watch, requests, or a moment.
    Follow,
}

pub(crate) struct Node<P: Protocol> {
    pub(crate) name: String,
    /// The machine, and what its protocol keeps of the node.
    pub(crate) own: P::Node,
    pub(crate) disk: Disk,
    pub(crate) daemon: Daemon,
    pub(crate) runs: bool,
    /// It never runs again.
    pub(crate) retired: bool,
    /// Counts the daemons.
    pub(crate) boot: u64,
    /// Counts the sessions, and the answers that were asked for.
    pub(crate) session: u64,
    pub(crate) asked: u64,
    /// The session and the number of the answer that waits until the daemon has heard everything.
    pub(crate) hears: Option<(u64, u64)>,
    /// The wake-up that counts.
    pub(crate) wake: u64,
    pub(crate) waiting: Waiting,
    pub(crate) watched: VecDeque<P::Watched>,
    pub(crate) watch: Option<P::Watch>,
    /// When the watch told last, which is before what it tells next.
    pub(crate) told_at: Duration,
    pub(crate) told_ready: bool,
    pub(crate) moved: bool,
    pub(crate) reload: bool,
    pub(crate) pause: Duration,
    /// Cut off from the store.
    pub(crate) cut: bool,
    pub(crate) frozen_until: Duration,
    /// What happened to it while it stood still.
    pub(crate) held: Vec<Happening<P>>,
    /// How far its clock is ahead.
    pub(crate) ahead: Duration,
    /// The last word of the machine about its claim.
    pub(crate) contested: Option<String>,
}

impl<P: Protocol> Node<P> {
    /// A node that never ran.
    pub(crate) fn new(name: &str, own: P::Node) -> Self {
        Self {
            name: name.to_owned(),
            own,
            disk: Disk::default(),
            daemon: Daemon::default(),
            runs: false,
            retired: false,
            boot: 0,
            session: 0,
            asked: 0,
            hears: None,
            wake: 0,
            waiting: Waiting::Pause,
            watched: VecDeque::new(),
            watch: None,
            told_at: Duration::ZERO,
            told_ready: false,
            moved: false,
            reload: false,
            pause: Duration::ZERO,
            cut: false,
            frozen_until: Duration::ZERO,
            held: Vec::new(),
            ahead: Duration::ZERO,
            contested: None,
        }
    }

    /// What the node's clock says `now`.
    pub(crate) fn instant(&self, now: Instant) -> Instant {
        now + self.ahead
    }

    /// The subnets that this node goes by.
    pub(crate) fn in_force(&self) -> Vec<IpNet> {
        self.daemon.in_force(&self.name)
    }

    pub(crate) fn held(&self, subnets: &[IpNet]) -> Vec<HeldAddress> {
        let pods = self.disk.pods.iter().filter(|pod| subnets.iter().any(|net| net.contains(*pod)));
        pods.map(|pod| HeldAddress::of_container(*pod, "c".into())).collect()
    }

    /// The public key that the node has after it has changed it so often.
    pub(crate) fn keys(&self, changes: u64) -> NodeKeys {
        let mut bytes = [9; 32];
        bytes[..self.name.len()].copy_from_slice(self.name.as_bytes());
        bytes[20..28].copy_from_slice(&changes.to_be_bytes());
        NodeKeys::new([PublicKey::new(bytes).unwrap()]).unwrap()
    }

    /// A new address for a pod, if the plugin may give one.
    pub(crate) fn attach(&mut self) -> Option<IpAddr> {
        if !self.daemon.ready {
            return None;
        }
        let subnet = *self.in_force().first()?;
        let free = subnet.hosts().skip(1).find(|host| !self.disk.pods.contains(host))?;
        self.disk.pods.push(free);
        Some(free)
    }
}
