//! The thread that moves packets: one TUN queue, a receiving socket for each port.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::Instant;

use arc_swap::ArcSwap;

use super::busy_poll::BusyPoll;
use super::capture::{CaptureTap, Taps};
use super::counters::WorkerCounters;
use super::flows::FlowTap;
use super::round::{Env, Notice, Notices, Round};
use super::underlay::Underlay;
use super::{Egress, Ingress};
use crate::engine::{Engine, Table};
use crate::platform::clock;
use crate::platform::tun::{Offload, TunQueue};
use crate::platform::wake::{Ready, WaitSet, Waker};

/// What control asks of a worker.
pub(super) enum Command {
    /// Use this queue from now on; the kernel takes these offloads on it.
    Tun(Arc<TunQueue>, Offload),
    /// Use these sockets from now on.
    Underlay(Underlay),
    /// Show this capture what is seen from now on.
    Capture(Box<CaptureTap>),
    /// Count flows for this one from now on.
    Flows(Box<FlowTap>),
    /// Handle what has arrived and end.
    Stop,
}

/// All that a worker needs, besides its stack.
pub(super) struct Worker {
    pub(super) commands: Receiver<Command>,
    pub(super) waker: Arc<Waker>,
    pub(super) set: WaitSet,
    pub(super) table: Arc<ArcSwap<Table>>,
    pub(super) counters: Arc<WorkerCounters>,
    pub(super) notices: Notices,
    pub(super) started: Instant,
    pub(super) underlay: Underlay,
    pub(super) tun: Option<Arc<TunQueue>>,
    pub(super) egress: Egress,
    pub(super) ingress: Ingress,
    pub(super) busy_poll: BusyPoll,
    pub(super) taps: Taps,
}

/// What a worker waits for.
mod token {
    pub(super) const TUN: u64 = 0;
    pub(super) const UNDERLAY: u64 = 1;
    pub(super) const COMMANDS: u64 = 2;
}

/// Which directions have something to do.
#[derive(Clone, Copy)]
struct Work {
    egress: bool,
    ingress: bool,
}

impl Worker {
    /// Moves packets until told to stop.
    pub(super) fn run(mut self) {
        let mut engine = Engine::new(clock::now());
        if let Err(error) = self.watch() {
            // The supervisor notices that the thread has ended.
            tracing::error!(%error, "waiting for packets cannot be set up");
            return;
        }
        let mut ready = Ready::ALL;
        loop {
            let mut work = Work {
                egress: ready.contains(token::TUN),
                ingress: ready.contains(token::UNDERLAY),
            };
            let mut octets = 0;
            let busy = loop {
                let (more, read) = self.turn(&mut engine, work);
                octets += read;
                // Both directions get their turn while either is busy: what one writes makes pods
                // answer, and answers that wait let more data pile up.
                work = Work { egress: true, ingress: true };
                if !more || self.waker.is_set() {
                    break more;
                }
            };
            if (ready.contains(token::COMMANDS) || self.waker.is_set()) && self.obey() == Flow::Stop
            {
                self.turn(&mut engine, Work { egress: true, ingress: true });
                return;
            }
            ready = if busy { Ready::ALL } else { self.wait(octets) };
        }
    }

    /// One round in each direction that has work; says whether there may be more, and how many
    /// bytes were read.
    fn turn(&mut self, engine: &mut Engine, work: Work) -> (bool, usize) {
        let table = self.table.load();
        let now = clock::now();
        let mut more = false;
        // Without a TUN device there is nowhere to deliver to either: arrivals wait in the socket.
        let Some(tun) = &mut self.tun else { return (false, 0) };
        let mut env = Env {
            tun,
            underlay: &mut self.underlay,
            table: &table,
            counters: &self.counters,
            notices: &self.notices,
            tap: self.taps.prepare(now),
            now,
            octets: 0,
        };
        // What waits for a session wants a look too, whoever woke this worker.
        if work.egress || self.egress.next_end().is_some() {
            match self.egress.round(engine, &mut env) {
                Round::Idle => {}
                Round::More => more = true,
                Round::Gone => {
                    self.notices.send(Notice::TunGone);
                    self.lose_tun();
                    return (false, 0);
                }
            }
        }
        if work.ingress {
            let age = now.saturating_duration_since(self.started).as_millis();
            let age_ms = u64::try_from(age).unwrap_or(u64::MAX);
            more |= self.ingress.round(engine, &mut env, age_ms) == Round::More;
        }
        (more, env.octets)
    }

    /// Does what control has asked for.
    fn obey(&mut self) -> Flow {
        self.waker.clear();
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Tun(queue, offload) => {
                    self.lose_tun();
                    self.tun = Some(queue);
                    self.ingress.set_offload(offload);
                }
                Command::Underlay(underlay) => {
                    self.forget_underlay();
                    self.underlay = underlay;
                    self.taps.rebind(self.underlay.local_end());
                }
                Command::Capture(mut tap) => {
                    tap.show(self.underlay.local_end());
                    self.taps.add(*tap);
                }
                Command::Flows(tap) => self.taps.watch_flows(*tap),
                Command::Stop => return Flow::Stop,
            }
            if let Err(error) = self.watch_ports() {
                tracing::error!(%error, "waiting for packets of a new device or socket failed");
            }
        }
        Flow::Continue
    }

    /// Waits on everything from now on.
    fn watch(&self) -> io::Result<()> {
        self.set.add(&self.waker, token::COMMANDS)?;
        self.watch_ports()
    }

    /// Waits on device and sockets; without a device on none.
    fn watch_ports(&self) -> io::Result<()> {
        let Some(tun) = &self.tun else { return Ok(()) };
        let receivers = self.underlay.receivers().map(|socket| (socket.as_fd(), token::UNDERLAY));
        for (fd, token) in receivers.chain([(tun.as_fd(), token::TUN)]) {
            match self.set.add(fd, token) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Goes on without the TUN device, until there is a new one.
    fn lose_tun(&mut self) {
        if let Some(tun) = self.tun.take() {
            self.forget(tun.as_fd());
            self.forget_underlay();
        }
    }

    fn forget_underlay(&self) {
        self.underlay.receivers().for_each(|socket| self.forget(socket.as_fd()));
    }

    fn forget(&self, fd: BorrowedFd<'_>) {
        // Not being waited on is what is wanted.
        let _ = self.set.remove(fd);
    }

    /// Waits until there is something to do, `octets` having been moved since the last wait.
    fn wait(&mut self, octets: usize) -> Ready {
        let start = clock::now();
        let mut ready = Ready::default();
        let mut looks = 0;
        while ready.is_none() && self.busy_poll.lasts(octets, looks, || start.elapsed()) {
            looks += 1;
            thread::yield_now();
            ready = self.set.look().unwrap_or_else(failed);
        }
        if ready.is_none() {
            // Without a device nothing can be done about what waits.
            let end = self.tun.as_ref().and_then(|_| self.egress.next_end());
            let waited = match end {
                Some(end) => self.set.wait_for(end.saturating_duration_since(start)),
                None => self.set.wait(),
            };
            ready = waited.unwrap_or_else(failed);
        }
        self.busy_poll.ended(start.elapsed());
        ready
    }
}

/// Goes on as if everything were ready: reading finds out what is.
fn failed(error: io::Error) -> Ready {
    tracing::error!(%error, "waiting for packets failed");
    Ready::ALL
}

#[derive(PartialEq, Eq)]
enum Flow {
    Continue,
    Stop,
}
