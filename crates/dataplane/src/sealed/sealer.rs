//! The sealing half of a worker: sessions for what leaves, and what waits for one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::Guard;
use culvert_seal::session::{Outgoing, PeerLink, Tickets};
use overlay_proto::Family;
use overlay_proto::esp::{self, Payload};

use super::hold::{Hold, Kept};
use super::{HeldPackets, SealedWorker};
use crate::engine::{DropReason, Keyed};
use crate::offload::split::SplitPlan;
use crate::outbox::Outbox;
use crate::port::UnderlayPort;
use crate::round::Env;
use crate::tap::source_of;
use crate::train::Key;

/// What a worker seals with.
pub(crate) struct Sealer {
    worker: SealedWorker,
    hold: Hold,
    /// Which sessions there were when what waits was last looked at.
    generation: u64,
    /// The moment of the round, as links have times.
    now: Instant,
    now_ms: u64,
}

/// What seals the packets that one read stands for.
pub(crate) struct Session {
    outgoing: Guard<Option<Arc<Outgoing>>>,
    tickets: Tickets,
    /// Where they go.
    pub(crate) endpoint: SocketAddr,
}

impl Sealer {
    pub(crate) fn new(worker: SealedWorker) -> Self {
        let generation = worker.generation();
        let now = worker.started();
        Self { worker, hold: Hold::default(), generation, now, now_ms: 0 }
    }

    /// Begins a round at `now`.
    pub(crate) fn begin(&mut self, now: Instant) {
        (self.now, self.now_ms) = (now, self.worker.ms(now));
    }

    /// What seals `count` packets of up to `packet_len` bytes of the flow `key`; none if they leave
    /// in plain.
    ///
    /// # Errors
    ///
    /// They have to wait for a session with this peer.
    #[inline(never)]
    pub(crate) fn session(
        &self,
        keyed: &Keyed,
        key: &Key,
        count: usize,
        packet_len: usize,
    ) -> Result<Option<Session>, Arc<PeerLink>> {
        let link = &keyed.link;
        if keyed.may_leave_plain() {
            self.worker.want(link);
            return Ok(None);
        }
        let wait = || Arc::clone(link);
        if self.hold.has(link) {
            return Err(wait());
        }
        let outgoing = link.outgoing();
        let lane = self.worker.lane(key.flow_hash);
        let count = u32::try_from(count).map_err(|_| wait())?;
        let taken = outgoing.as_ref().ok_or_else(wait)?.take(lane, count, packet_len, self.now);
        let tickets = taken.map_err(|_| wait())?;
        link.activity().note_sent(self.now_ms);
        Ok(Some(Session { outgoing, tickets, endpoint: keyed.endpoint }))
    }

    /// Keeps a packet until there is a session, and asks for one; says whether there was room.
    pub(crate) fn hold(&mut self, link: &Arc<PeerLink>, packet: &[u8], now: Instant) -> bool {
        let kept = self.hold.push(link, packet, now);
        match kept {
            Kept::First => {
                link.activity().want();
                self.worker.ask(link);
            }
            Kept::Behind | Kept::No => self.worker.want(link),
        }
        kept != Kept::No
    }

    /// Takes the packets of peers that have a session now.
    pub(crate) fn take_ready(&mut self) -> Vec<HeldPackets> {
        if self.hold.is_empty() {
            return Vec::new();
        }
        let generation = self.worker.generation();
        let has_changed = std::mem::replace(&mut self.generation, generation) != generation;
        if has_changed { self.hold.take_ready() } else { Vec::new() }
    }

    /// Takes the packets that have waited for too long.
    pub(crate) fn take_late(&mut self, now: Instant) -> Vec<Box<[u8]>> {
        self.hold.take_late(now)
    }

    /// Lets those wait on for which there is no session after all.
    pub(crate) fn put_back(&mut self, packets: HeldPackets) {
        self.hold.put_back(packets);
    }

    pub(crate) fn next_end(&self) -> Option<Instant> {
        self.hold.next_end()
    }
}

impl Session {
    /// Seals the packet, or the packets that `plan` makes of it, right into trains. Nothing of
    /// `bytes` is left as it was.
    #[inline(never)]
    pub(crate) fn send<T, U: UnderlayPort>(
        mut self,
        outbox: &mut Outbox,
        env: &mut Env<'_, T, U>,
        key: &Key,
        family: Family,
        plan: Option<&SplitPlan>,
        bytes: &mut [u8],
    ) {
        let Some(plan) = plan else {
            return self.seal(outbox, env, key, family, bytes);
        };
        plan.for_each_in_place(bytes, |packet| self.seal(outbox, env, key, family, packet));
    }

    /// Seals one packet into a train.
    pub(crate) fn seal<T, U: UnderlayPort>(
        &mut self,
        outbox: &mut Outbox,
        env: &mut Env<'_, T, U>,
        key: &Key,
        family: Family,
        packet: &[u8],
    ) {
        let (Some(outgoing), Some(ticket)) = (&*self.outgoing, self.tickets.next()) else {
            return env.count_drops(DropReason::NoSession, 1, source_of(packet));
        };
        let write = |out: &mut [u8]| {
            let sealed = outgoing.seal(ticket, Payload::Packet(family), packet, out);
            sealed.map(drop).map_err(|_| DropReason::NoSession)
        };
        let inner_len = u16::try_from(packet.len()).ok();
        outbox.fill(env, key, esp::datagram_len(packet.len()), inner_len, write);
    }
}
