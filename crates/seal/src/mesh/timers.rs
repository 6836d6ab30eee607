//! What happens because time passes.

use std::sync::Arc;
use std::time::Duration;

use overlay_proto::esp::handshake::Message;

use super::peer::Attempt;
use super::receive::DUMMY_LANE;
use super::{Entropy, IDLE_TICK, Index, Mesh, Now, Output, What};
use crate::handshake::{Draft, Offer, Pair, prologue};
use crate::noise::{Ephemeral, Initiator, Refused};

/// The pause before an INIT is sent again, the first time and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(4);

/// How often one INIT is sent: no longer than its answer is kept ([`TENTATIVE`]). Then there is
/// another, to the peer's other key if it has one.
///
/// [`TENTATIVE`]: super::receive::TENTATIVE
const REPETITIONS: u32 = 5;
/// The same where the peer has another key, which it may have this node not know yet.
const REPETITIONS_OF_TWO: u32 = 3;

/// For how long an INIT is repeated after anybody last waited for the session.
const PATIENCE: Duration = Duration::from_secs(20);

/// For how long nobody is told that there is no answer.
const COMPLAIN: Duration = Duration::from_secs(5);

/// A session without data for so long is not renewed.
const IDLE: Duration = Duration::from_secs(60);

/// For how long a session that was answered for is waited for before this node begins one itself.
const TENTATIVE_FIRST: Duration = Duration::from_secs(1);

/// Data was received and none sent for so long: a dummy tells the peer that it arrives.
const SILENT_MS: u64 = 1000;

/// Data was sent and nothing heard for so long: the peer may have lost the session.
const UNANSWERED: Duration = Duration::from_secs(3);

impl<E: Entropy> Mesh<E> {
    /// Does what is due.
    pub fn tick(&mut self, now: Now, out: &mut Output) {
        let busy: Vec<Index> = self.busy.iter().copied().collect();
        for index in busy {
            self.confirm(index, now, out);
            self.repeat(index, now, out);
            self.forget_tentative(index, now);
            self.schedule(index);
        }
        if now.instant < self.next_sweep {
            return;
        }
        self.next_sweep = now.instant + IDLE_TICK;
        let awake: Vec<Index> = self.awake.iter().copied().collect();
        for index in awake {
            self.confirm(index, now, out);
            self.end(index, now, out);
            self.keep_alive(index, now, out);
            self.renew(index, now, out);
            self.schedule(index);
        }
    }

    /// Somebody waits for a session with the peer.
    pub(super) fn peer_wants(&mut self, index: Index, now: Now, out: &mut Output) {
        let Some(peer) = &mut self.peers[index] else { return };
        if peer.current.is_some() {
            return;
        }
        if let Some(attempt) = &mut peer.attempt {
            attempt.wanted_at = now.instant;
            return;
        }
        let answered = peer.tentative.as_ref();
        if answered.is_some_and(|it| now.instant < it.session.began + TENTATIVE_FIRST) {
            return;
        }
        self.begin(index, now, out);
    }

    /// Sends an INIT, unless one is on its way.
    pub(super) fn begin(&mut self, index: Index, now: Now, out: &mut Output) {
        let Some(peer) = &mut self.peers[index] else { return };
        if peer.attempt.is_some() || peer.begin_with == 0 {
            return;
        }
        let pair = Arc::clone(&peer.pairs[peer.next_pair % peer.begin_with]);
        self.begin_with(index, &pair, 0, now, out);
    }

    pub(super) fn begin_with(
        &mut self,
        index: Index,
        pair: &Arc<Pair>,
        stale: u32,
        now: Now,
        out: &mut Output,
    ) {
        if let Ok(attempt) = self.attempt(index, pair, stale, now)
            && let Some(peer) = &mut self.peers[index]
        {
            out.datagrams.push((peer.address, attempt.datagram.clone()));
            peer.attempt = Some(Box::new(attempt));
        }
        self.schedule(index);
    }

    fn attempt(
        &mut self,
        index: Index,
        pair: &Arc<Pair>,
        stale: u32,
        now: Now,
    ) -> Result<Attempt, Refused> {
        let ephemeral = Ephemeral::of_initiator(self.config.post_quantum, &self.secret())?;
        let interval = self.jittered(FIRST_PAUSE);
        let slot = self.slot(index).ok_or(Refused)?;
        let peer = self.peers[index].as_mut().ok_or(Refused)?;
        let stamp = now.unix_nanos.max(peer.own_stamp.saturating_add(1));
        peer.own_stamp = stamp;
        let header = pair.header(Message::Init, true);
        let mut draft = Draft::new(header);
        let offer = Offer { stamp, slot, lanes: self.config.lanes, suites: self.config.suites };
        let begun = Initiator::begin(
            self.config.post_quantum,
            &prologue(self.config.vni, &header),
            (pair.own().public(), pair.peer()),
            pair.shared(),
            ephemeral,
            &offer.encode(),
            &mut draft.bytes,
        );
        let initiator = begun.inspect_err(|_| self.free(slot))?;
        Ok(Attempt {
            pair: Arc::clone(pair),
            initiator,
            stamp,
            slot,
            datagram: draft.finish(pair),
            began: now.instant,
            send_at: now.instant + interval,
            interval: FIRST_PAUSE,
            sent: 1,
            stale,
            wanted_at: now.instant,
        })
    }

    /// Sends the INIT again, to another key of the peer's, or not any more.
    fn repeat(&mut self, index: Index, now: Now, out: &mut Output) {
        let Some(peer) = &mut self.peers[index] else { return };
        let wanted = peer.link.activity().take_want();
        let Some(attempt) = &mut peer.attempt else { return };
        if wanted {
            attempt.wanted_at = now.instant;
        }
        if now.instant < attempt.send_at {
            return;
        }
        if now.instant >= attempt.wanted_at + PATIENCE {
            let slot = attempt.slot;
            peer.attempt = None;
            self.free(slot);
            return self.fail(index, What::NoAnswer, out);
        }
        let most = if peer.begin_with > 1 { REPETITIONS_OF_TWO } else { REPETITIONS };
        if attempt.sent >= most {
            let Some(attempt) = peer.attempt.take() else { return };
            peer.next_pair = (peer.next_pair + 1) % peer.begin_with.max(1);
            self.free(attempt.slot);
            self.begin(index, now, out);
            // It goes on where the other was.
            let pause = self.jittered(attempt.interval);
            if let Some(next) = self.peers[index].as_mut().and_then(|peer| peer.attempt.as_mut()) {
                next.send_at = now.instant + pause;
                (next.interval, next.wanted_at) = (attempt.interval, attempt.wanted_at);
                next.began = attempt.began;
            }
            return self.complain(index, now, out);
        }
        attempt.sent += 1;
        attempt.interval = (attempt.interval * 2).min(LONGEST_PAUSE);
        out.datagrams.push((peer.address, attempt.datagram.clone()));
        let pause = attempt.interval;
        let pause = self.jittered(pause);
        if let Some(attempt) = self.peers[index].as_mut().and_then(|peer| peer.attempt.as_mut()) {
            attempt.send_at = now.instant + pause;
        }
        self.complain(index, now, out);
    }

    /// Long before it gives up, people should know.
    fn complain(&mut self, index: Index, now: Now, out: &mut Output) {
        let attempt = self.peers[index].as_ref().and_then(|peer| peer.attempt.as_ref());
        if attempt.is_some_and(|attempt| now.instant >= attempt.began + COMPLAIN) {
            self.fail(index, What::NoAnswer, out);
        }
    }

    fn forget_tentative(&mut self, index: Index, now: Now) {
        let Some(peer) = &mut self.peers[index] else { return };
        let late = peer.tentative.take_if(|tentative| now.instant >= tentative.until);
        if let Some(late) = late {
            self.free(late.session.incoming.slot());
        }
    }

    /// Ends sessions whose time is over.
    fn end(&mut self, index: Index, now: Now, out: &mut Output) {
        let Some(peer) = &mut self.peers[index] else { return };
        let previous = peer
            .previous
            .take_if(|(session, until)| now.instant >= *until || now.instant >= session.ends);
        let ended = peer.current.take_if(|session| now.instant >= session.ends);
        if ended.is_some() {
            peer.link.set_outgoing(None);
        }
        if let Some((previous, _)) = previous {
            self.free(previous.incoming.slot());
        }
        if let Some(ended) = ended {
            self.free(ended.incoming.slot());
            self.tell(index, What::Ended, out);
        }
    }

    fn keep_alive(&mut self, index: Index, now: Now, out: &mut Output) {
        let now_ms = self.ms(now.instant);
        let Some(peer) = &mut self.peers[index] else { return };
        let Some(current) = &peer.current else { return };
        let activity = peer.link.activity();
        let sent = activity.sent_ms();
        let spoke = sent.unwrap_or(0).max(peer.dummy_ms);
        let is_owed = activity.received_ms().is_some_and(|received| received > spoke);
        if is_owed
            && now_ms >= spoke + SILENT_MS
            && let Ok(dummy) = current.outgoing.dummy(DUMMY_LANE, now.instant)
        {
            peer.dummy_ms = now_ms;
            out.datagrams.push((peer.address, dummy.to_vec()));
        }
        let heard = activity.heard_ms();
        match peer.unanswered {
            _ if sent <= heard => peer.unanswered = None,
            Some((since, before)) if before == heard => {
                if now.instant >= since + UNANSWERED && !peer.is_shaking_hands() {
                    peer.unanswered = Some((now.instant, heard));
                    self.begin(index, now, out);
                }
            }
            Some(_) | None => peer.unanswered = Some((now.instant, heard)),
        }
    }

    fn renew(&mut self, index: Index, now: Now, out: &mut Output) {
        let now_ms = self.ms(now.instant);
        let Some(peer) = &mut self.peers[index] else { return };
        let Some(current) = &peer.current else { return };
        let is_due = now.instant >= current.renew_at || current.outgoing.is_worn();
        let activity = peer.link.activity();
        let last = activity.sent_ms().max(activity.received_ms());
        let is_used =
            last.is_some_and(|last| Duration::from_millis(now_ms - last.min(now_ms)) < IDLE);
        if is_due && is_used && !peer.is_shaking_hands() {
            self.begin(index, now, out);
        }
    }
}
