//! Handshakes that this node begins: when an INIT is made, sent again, and given up.

use std::sync::Arc;
use std::time::{Duration, Instant};

use overlay_proto::esp::handshake::Message;

use super::peer::{Attempt, Init};
use super::turns::Place;
use super::{Entropy, Failure, Index, Mesh, Now, Output, Role};
use crate::handshake::{Draft, Offer, prologue};
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

impl<E: Entropy> Mesh<E> {
    /// Somebody waits for a session with the peer.
    pub(super) fn peer_wants(&mut self, index: Index, now: Now, out: &mut Output) {
        let Some(peer) = &mut self.peers[index] else { return };
        if peer.current.is_some() {
            return;
        }
        if let Some(attempt) = &mut peer.attempt {
            attempt.wanted_at = now.instant;
            if let Place::Waits(needed) = &mut attempt.place
                && now.instant < *needed
            {
                *needed = now.instant;
                self.schedule(index);
            }
            return;
        }
        if peer.has_just_answered(now.instant) {
            return;
        }
        self.begin(index, now.instant, now, out);
    }

    /// Begins a handshake that is needed by then, unless one is on its way. The INIT is sent when
    /// it is the peer's turn.
    pub(super) fn begin(&mut self, index: Index, needed: Instant, now: Now, out: &mut Output) {
        let Some(peer) = &mut self.peers[index] else { return };
        if peer.attempt.is_some() || peer.begin_with == 0 {
            return;
        }
        peer.attempt = Some(Box::new(Attempt {
            place: Place::Waits(needed),
            init: None,
            began: None,
            interval: FIRST_PAUSE,
            stale: 0,
            wanted_at: now.instant,
        }));
        self.schedule(index);
        self.proceed(now, out);
    }

    /// Sends INITs to those whose turn it is.
    pub(super) fn proceed(&mut self, now: Now, out: &mut Output) {
        while let Some(turn) = self.turns.next(now.instant) {
            if let Some(late) = turn.instead_of {
                self.put_back(late, now, out);
            }
            self.send_new(turn.next, now, out);
        }
    }

    /// Lets others go first.
    fn put_back(&mut self, index: Index, now: Now, out: &mut Output) {
        self.complain(index, now, out);
        if let Some(peer) = &mut self.peers[index]
            && let Some(attempt) = &mut peer.attempt
        {
            peer.next_pair += 1;
            attempt.place = Place::WaitsAgain(now.instant + LONGEST_PAUSE);
            let init = attempt.init.take();
            init.into_iter().for_each(|init| self.free(init.slot));
        }
        self.schedule(index);
    }

    /// Goes back to the first pause: the peer lives, and has said why it does not take the INIT.
    pub(super) fn begin_again(&mut self, index: Index, now: Now, out: &mut Output) {
        if let Some(attempt) = self.peers[index].as_mut().and_then(|peer| peer.attempt.as_mut()) {
            attempt.interval = FIRST_PAUSE;
        }
        self.send_new(index, now, out);
    }

    /// Sends an INIT that takes the place of the one before, if there was one. The handshake is
    /// over if none can be made.
    fn send_new(&mut self, index: Index, now: Now, out: &mut Output) {
        let made = self.new_init(index, now);
        if let Some(peer) = &mut self.peers[index]
            && let Some(attempt) = &mut peer.attempt
        {
            let before = attempt.slot();
            match made {
                Ok(init) => {
                    out.datagrams.push((peer.address, init.datagram.clone()));
                    attempt.init = Some(Box::new(init));
                    attempt.began.get_or_insert(now.instant);
                    attempt.place = attempt.place.under_way(now.instant);
                }
                Err(Refused) => peer.attempt = None,
            }
            before.into_iter().for_each(|slot| self.free(slot));
        }
        self.schedule(index);
    }

    fn new_init(&mut self, index: Index, now: Now) -> Result<Init, Refused> {
        let ephemeral = Ephemeral::of_initiator(self.config.post_quantum, &self.secret())?;
        let peer = self.peers[index].as_mut().ok_or(Refused)?;
        let next = peer.next_pair.checked_rem(peer.begin_with).ok_or(Refused)?;
        let interval = peer.attempt.as_ref().ok_or(Refused)?.interval;
        let stamped = peer.pairs.get_mut(next).ok_or(Refused)?;
        let pair = Arc::clone(&stamped.pair);
        let stamp = now.unix_nanos.max(stamped.own.saturating_add(1));
        stamped.own = stamp;
        let send_at = now.instant + self.jittered(interval);
        let slot = self.slot(index).ok_or(Refused)?;
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
        let datagram = draft.finish(&pair);
        Ok(Init { pair, initiator, stamp, slot, datagram, send_at, sent: 1 })
    }

    /// Sends the INIT again, to another key of the peer's, or not any more.
    pub(super) fn repeat(&mut self, index: Index, now: Now, out: &mut Output) {
        let Some(peer) = &mut self.peers[index] else { return };
        let wanted = peer.link.activity().take_want();
        let Some(attempt) = &mut peer.attempt else { return };
        if wanted {
            attempt.wanted_at = now.instant;
        }
        if now.instant >= attempt.wanted_at + PATIENCE {
            return self.give_up(index, out);
        }
        let Some(init) = &mut attempt.init else { return };
        if now.instant < init.send_at {
            return;
        }
        let most = if peer.begin_with > 1 { REPETITIONS_OF_TWO } else { REPETITIONS };
        if init.sent >= most {
            peer.next_pair += 1;
            self.send_new(index, now, out);
        } else {
            init.sent += 1;
            attempt.interval = (attempt.interval * 2).min(LONGEST_PAUSE);
            out.datagrams.push((peer.address, init.datagram.clone()));
            let pause = attempt.interval;
            let pause = self.jittered(pause);
            let attempt = self.peers[index].as_mut().and_then(|peer| peer.attempt.as_mut());
            if let Some(init) = attempt.and_then(|attempt| attempt.init.as_mut()) {
                init.send_at = now.instant + pause;
            }
        }
        self.complain(index, now, out);
    }

    /// Nobody has waited for the session for a while.
    fn give_up(&mut self, index: Index, out: &mut Output) {
        let Some(attempt) = self.peers[index].as_mut().and_then(|peer| peer.attempt.take()) else {
            return;
        };
        attempt.slot().into_iter().for_each(|slot| self.free(slot));
        if attempt.began.is_some() {
            self.fail(index, Role::Initiator, Failure::NoAnswer, out);
        }
    }

    /// Long before it gives up, people should know.
    fn complain(&mut self, index: Index, now: Now, out: &mut Output) {
        let attempt = self.peers[index].as_ref().and_then(|peer| peer.attempt.as_ref());
        let began = attempt.and_then(|attempt| attempt.began);
        if began.is_some_and(|began| now.instant >= began + COMPLAIN) {
            self.fail(index, Role::Initiator, Failure::NoAnswer, out);
        }
    }
}
