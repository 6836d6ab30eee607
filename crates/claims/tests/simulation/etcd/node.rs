//! A node: the real machine, a driver that waits where the real one does, and a daemon that takes
//! what it is told, attaches pods, and remembers what a real one has on its disk.

use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use culvert_claims::etcd::{Claims, Memory, Watched};
use culvert_claims::{Candidate, HeldAddress, Proposal, Update};
use ipnet::IpNet;

/// What survives everything but a new disk.
pub(crate) struct Disk {
    pub(crate) memory: Memory,
    /// The last good table.
    pub(crate) table: Vec<Candidate>,
    pub(crate) pods: Vec<IpAddr>,
}

/// What the daemon makes of what it is told.
#[derive(Default)]
pub(crate) struct Daemon {
    /// What was told; of a whole table, whether it must have every node of the one before.
    pub(crate) queue: VecDeque<(Update, bool)>,
    pub(crate) table: Proposal,
    pub(crate) contested: Option<String>,
    pub(crate) heard: bool,
    /// Whether the plugin may attach pods.
    pub(crate) ready: bool,
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

pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) address: IpAddr,
    pub(crate) disk: Disk,
    pub(crate) runs: bool,
    /// It never runs again.
    pub(crate) retired: bool,
    /// Counts the daemons.
    pub(crate) boot: u64,
    pub(crate) claims: Claims,
    /// Counts the sessions, and the answers that were asked for.
    pub(crate) session: u64,
    pub(crate) asked: u64,
    /// It waits until its daemon has heard everything.
    pub(crate) hears: bool,
    /// The wake-up that counts.
    pub(crate) wake: u64,
    pub(crate) waiting: Waiting,
    pub(crate) watched: VecDeque<(Watched, i64)>,
    /// The range and the next revision of the watch.
    pub(crate) watch: Option<(String, String, i64)>,
    /// When the watch told last, which is before what it tells next.
    pub(crate) told_at: Duration,
    pub(crate) moved: bool,
    /// The address that its machine was told last; after a move that is an earlier one for a while.
    pub(crate) told_address: IpAddr,
    pub(crate) told_ready: bool,
    pub(crate) reload: bool,
    pub(crate) pause: Duration,
    /// Cut off from etcd.
    pub(crate) cut: bool,
    pub(crate) frozen_until: Duration,
    /// How far its clock is ahead.
    pub(crate) ahead: Duration,
    /// The database and the revision up to which this node knows everything.
    pub(crate) seen: (u64, i64),
    /// It has read a database that went back, and tells of it next.
    pub(crate) went_back: bool,
    /// The last word about its claim.
    pub(crate) contested: Option<String>,
    pub(crate) daemon: Daemon,
}

impl Node {
    pub(crate) fn instant(&self, start: Instant, now: Duration) -> Instant {
        start + now + self.ahead
    }

    /// The subnets that this node goes by.
    pub(crate) fn in_force(&self) -> Vec<IpNet> {
        let own = self.daemon.table.nodes().find(|node| node.entry.name == self.name);
        own.map(|node| node.entry.subnets.clone()).unwrap_or_default()
    }

    pub(crate) fn held(&self, subnets: &[IpNet]) -> Vec<HeldAddress> {
        let pods = self.disk.pods.iter().filter(|pod| subnets.iter().any(|net| net.contains(*pod)));
        pods.map(|pod| HeldAddress { address: *pod, container: "c".into() }).collect()
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

    fn names(&self) -> BTreeSet<String> {
        self.daemon.table.nodes().map(|node| node.entry.name.clone()).collect()
    }

    /// Takes of what waits at most so much; says whether the daemon's readiness is another than before, and
    /// which node it lost that it should not have.
    pub(crate) fn take_updates(&mut self, most: usize) -> (bool, Option<String>) {
        let mut dropped = None;
        let most = most.min(self.daemon.queue.len());
        for (update, keeps) in self.daemon.queue.drain(..most).collect::<Vec<_>>() {
            match &update {
                Update::Contested(reason) => self.daemon.contested.clone_from(reason),
                Update::Everything(_) => self.daemon.heard = true,
                _ => {}
            }
            let before = if keeps { self.names() } else { BTreeSet::new() };
            self.daemon.table.take(update);
            dropped = dropped.or_else(|| before.difference(&self.names()).next().cloned());
        }
        if self.daemon.heard {
            self.disk.table = self.daemon.table.nodes().cloned().collect();
        }
        let ready = self.daemon.contested.is_none() && !self.in_force().is_empty();
        (std::mem::replace(&mut self.daemon.ready, ready) != ready, dropped)
    }
}
