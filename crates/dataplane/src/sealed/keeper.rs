//! The machine that makes sessions, and what workers ask of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use culvert_seal::mesh::{Config, Entropy, Identity, Mesh, Now, Output, PeerEntry, What};

use super::{REQUESTS, Request, SealedWorker};

/// Requests that are taken before what they caused is sent.
const BATCH: usize = 32;

/// Owns a [`Mesh`] and the receiving end of workers' requests. Holds no socket and reads no clock;
/// in the daemon a thread runs it, in tests whoever likes.
#[derive(Debug)]
pub struct Keeper<E> {
    mesh: Mesh<E>,
    requests: Receiver<Request>,
    sender: SyncSender<Request>,
    generation: Arc<AtomicU64>,
    started: Instant,
    /// When the machine wants to look at its timers.
    due: Option<Instant>,
}

impl<E: Entropy> Keeper<E> {
    /// A node without peers. `started` is what ages are counted from.
    pub fn new(config: Config, identity: Identity, entropy: E, started: Instant) -> Self {
        let (sender, requests) = sync_channel(REQUESTS);
        Self {
            mesh: Mesh::new(config, identity, entropy, started),
            requests,
            sender,
            generation: Arc::default(),
            started,
            due: None,
        }
    }

    /// What the worker `worker`, by its place among all, gets of it.
    pub fn worker(&self, worker: usize) -> SealedWorker {
        SealedWorker {
            shared: Arc::clone(self.mesh.shared()),
            requests: self.sender.clone(),
            started: self.started,
            generation: Arc::clone(&self.generation),
            worker,
        }
    }

    /// Takes the peers of a table; see [`Mesh::set_table`].
    pub fn set_table(
        &mut self,
        identity: Identity,
        entries: Vec<PeerEntry>,
        now: Now,
        out: &mut Output,
    ) {
        self.mesh.set_table(identity, entries, now, out);
        self.schedule(now);
    }

    /// Does what is due, and what workers have asked for, up to a limit; says whether there may be
    /// more.
    pub fn work(&mut self, now: Now, out: &mut Output) -> bool {
        let mut more = true;
        for _ in 0..BATCH {
            match self.requests.try_recv() {
                // What comes after may be about what control has left.
                Ok(Request::Look) => break,
                Ok(request) => self.handle(request, now, out),
                Err(_) => {
                    more = false;
                    break;
                }
            }
        }
        if self.due.is_some_and(|due| now.instant >= due) {
            self.due = None;
            self.mesh.tick(now, out);
        }
        self.schedule(now);
        let has_begun = |what: &What| matches!(what, What::Established(..));
        if out.events.iter().any(|event| has_begun(&event.what)) {
            self.generation.fetch_add(1, Ordering::Release);
        }
        more
    }

    /// When [`work`](Self::work) should be called, if nobody asks for anything before.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Waits for a request until `limit` has passed, and handles it.
    pub(super) fn wait(&mut self, limit: Option<Duration>) -> Option<Request> {
        match limit {
            Some(limit) => self.requests.recv_timeout(limit).ok(),
            // This end has a sender too, so that there is always one.
            None => self.requests.recv().ok(),
        }
    }

    pub(super) fn handle(&mut self, request: Request, now: Now, out: &mut Output) {
        match request {
            Request::Want(link) => self.mesh.want(link.name(), now, out),
            Request::Handshake(datagram) => self.mesh.receive(&datagram, now, out),
            Request::UnknownSpi(source) => self.mesh.unknown_spi(source, now, out),
            Request::Heard(slot) => self.mesh.heard(slot, now, out),
            Request::Look => {}
        }
    }

    /// How control has the thread look up.
    pub(super) fn sender(&self) -> SyncSender<Request> {
        self.sender.clone()
    }

    /// Many requests must not put off what is due.
    fn schedule(&mut self, now: Now) {
        let next = self.mesh.next_tick(now.instant);
        self.due = match (self.due, next) {
            (Some(due), Some(next)) => Some(due.min(next)),
            (None, next) => next,
            (Some(_), None) => None,
        };
    }
}
