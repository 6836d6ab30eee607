//! What happens because time passes.

use std::time::Duration;

use super::peer::{Before, Peer};
use super::receive::DUMMY_LANE;
use super::{Entropy, IDLE_TICK, Index, Mesh, Now, Output, What};

/// A session without data for so long is not renewed.
const IDLE: Duration = Duration::from_secs(60);

/// How long a renewal may wait for its turn behind peers without a session. It begins forty seconds
/// or more before the session ends.
const RENEWAL_WAITS: Duration = Duration::from_secs(10);

/// Data was received and none sent for so long: a dummy tells the peer that it arrives.
const SILENT_MS: u64 = 1000;

/// Data was sent and nothing heard for so long: the peer may have lost the session.
const UNANSWERED: Duration = Duration::from_secs(3);

impl<E: Entropy> Mesh<E> {
    /// Does what is due.
    pub fn tick(&mut self, now: Now, out: &mut Output) {
        let sweeps = now.instant >= self.next_sweep;
        // Those that wait for their turn are thousands at times, and in no hurry.
        let is_due = |index: &Index| {
            sweeps || !self.peers[*index].as_ref().is_some_and(Peer::waits_for_its_turn)
        };
        let busy: Vec<Index> = self.busy.iter().copied().filter(is_due).collect();
        for index in busy {
            self.confirm(index, now, out);
            self.repeat(index, now, out);
            self.forget_tentative(index, now);
            self.schedule(index);
        }
        self.proceed(now, out);
        if !sweeps {
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
        let is_over =
            |before: &mut Before| now.instant >= before.until || now.instant >= before.session.ends;
        let before: Vec<Before> = peer.before.extract_if(.., is_over).collect();
        let ended = peer.current.take_if(|session| now.instant >= session.ends);
        if ended.is_some() {
            peer.link.set_outgoing(None);
        }
        before.iter().for_each(|before| self.free(before.session.incoming.slot()));
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
                if now.instant >= since + UNANSWERED && !peer.expects_session(now.instant) {
                    peer.unanswered = Some((now.instant, heard));
                    self.begin(index, now.instant, now, out);
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
        if is_due && is_used && !peer.expects_session(now.instant) {
            self.begin(index, now.instant + RENEWAL_WAITS, now, out);
        }
    }
}
