//! Handshake datagrams that have arrived, and the first sealed one of a session.

use std::sync::Arc;
use std::time::Duration;

use overlay_proto::esp::handshake::{Header, Message};
use overlay_proto::esp::{Lane, Slot};

use super::peer::{Attempt, Before, Session, Tentative};
use super::{Entropy, Failure, Index, Mesh, Now, Output, Role, What};
use crate::handshake::{Answer, Draft, Offer, Pair, Stale, is_length_of, prologue};
use crate::key_log::{LoggedKey, Way};
use crate::noise::{Ephemeral, PostQuantum, Refused, Responder, Split};
use crate::session::{Direction, Incoming, KeyMaterial, Outgoing, limits};
use crate::suite::Suite;

/// For how long a session waits for its first packet. Longer than the longest pause between two
/// INITs.
pub(super) const TENTATIVE: Duration = Duration::from_secs(15);

/// The lane of dummies: the first worker's, which it shares with that worker's first source port.
/// They are rare, and which of the two is ahead is all the same to the window.
pub(super) const DUMMY_LANE: Lane = match Lane::new(0) {
    Some(lane) => lane,
    None => unreachable!(),
};

impl<E: Entropy> Mesh<E> {
    /// A datagram with the non-ESP marker has arrived. What is no handshake of a peer's changes
    /// nothing and is not answered.
    pub fn receive(&mut self, datagram: &[u8], now: Now, out: &mut Output) {
        let pairs = Arc::clone(&self.shared.pairs.load());
        let Some((header, pair, body)) = pairs.of_datagram(datagram) else { return };
        let Some(index) = self.owner(pair) else { return };
        let message = header.message;
        let ours = self.config.post_quantum;
        if !is_length_of(message, ours, datagram.len()) {
            let others = match ours {
                PostQuantum::Require => PostQuantum::Off,
                PostQuantum::Off => PostQuantum::Require,
            };
            if is_length_of(message, others, datagram.len()) {
                let role = match message {
                    Message::Init => Role::Responder,
                    Message::Response | Message::Stale => Role::Initiator,
                };
                self.fail(index, role, Failure::PostQuantumDiffers, out);
            }
            return;
        }
        match message {
            Message::Init => self.init(index, &header, pair, datagram, body, now, out),
            Message::Response => self.response(index, pair, datagram, body, now, out),
            Message::Stale => self.stale(index, pair, body, now, out),
        }
        self.schedule(index);
        self.proceed(now, out);
    }

    /// Something authentic has come in at `slot` for the first time.
    pub fn heard(&mut self, slot: Slot, now: Now, out: &mut Output) {
        if let Some(&index) = self.by_slot.get(&slot.get()) {
            self.confirm(index, now, out);
            self.schedule(index);
            self.proceed(now, out);
        }
    }

    /// The tentative session serves, if something has come in on it.
    pub(super) fn confirm(&mut self, index: Index, now: Now, out: &mut Output) {
        let now_ms = self.ms(now.instant);
        let Some(peer) = &mut self.peers[index] else { return };
        if peer.current.as_ref().is_some_and(|session| session.incoming.is_heard()) {
            peer.link.refuse_plain(now_ms);
        }
        let heard = |tentative: &mut Tentative| tentative.session.incoming.is_heard();
        let Some(Tentative { session, .. }) = peer.tentative.take_if(heard) else {
            return self.settle(index, now, out);
        };
        peer.link.refuse_plain(now_ms);
        // Whatever this node began is not needed any more.
        let slot = peer.attempt.take().and_then(|attempt| attempt.slot());
        slot.into_iter().for_each(|slot| self.free(slot));
        let took = now.instant.saturating_duration_since(session.began);
        self.serve(index, session, took, now, out);
    }

    /// Each end may have got its answer while that of the other was on its way, and seal with the
    /// session that it has begun. That of the smaller name serves both, as of INITs that cross,
    /// once something authentic has come in on it.
    fn settle(&mut self, index: Index, now: Now, out: &mut Output) {
        let Some(peer) = &mut self.peers[index] else { return };
        let Some(current) = peer.current.as_ref().filter(|it| it.role == Role::Initiator) else {
            return;
        };
        let own = current.pair.ids().0;
        let is_of_peer = |before: &Before| {
            let Session { incoming, pair, .. } = &before.session;
            !before.has_served && incoming.is_heard() && pair.ids().1 < own
        };
        let Some(at) = peer.before.iter().position(is_of_peer) else { return };
        let Before { session, .. } = peer.before.remove(at);
        let took = now.instant.saturating_duration_since(session.began);
        self.serve(index, session, took, now, out);
    }

    fn owner(&self, pair: &Pair) -> Option<Index> {
        self.by_key.get(&pair.ids().1).copied()
    }

    #[expect(clippy::too_many_arguments, reason = "parts of one datagram")]
    fn init(
        &mut self,
        index: Index,
        header: &Header,
        pair: &Arc<Pair>,
        datagram: &[u8],
        body: &[u8],
        now: Now,
        out: &mut Output,
    ) {
        let Some(peer) = &mut self.peers[index] else { return };
        let Some(mac) = datagram.last_chunk() else { return };
        let Some(stamped) = peer.stamped(pair) else { return };
        let (newest, is_newest) = (stamped.newest, stamped.is_newest(mac));
        if is_newest && peer.tentative.is_none() {
            return; // Answered, and the answer has arrived.
        }
        if peer.has_seen(mac) {
            if !peer.repeats.take(now.instant) {
                return;
            }
        } else if !peer.inits.take(now.instant) {
            return self.fail(index, Role::Responder, Failure::TooManyInits, out);
        }
        if let Some(tentative) = peer.tentative.as_ref().filter(|_| is_newest) {
            out.datagrams.push((peer.address, tentative.response.clone()));
            return;
        }
        let prologue = prologue(self.config.vni, header);
        let keys = (pair.own(), pair.peer());
        let read = Responder::read(self.config.post_quantum, &prologue, keys, pair.shared(), body);
        let Ok((payload, responder)) = read else {
            return self.fail(index, Role::Responder, Failure::WrongKeys, out);
        };
        let Some(offer) = Offer::decode(&payload) else {
            return self.fail(index, Role::Responder, Failure::WrongKeys, out);
        };
        if offer.stamp <= newest {
            peer.old_inits.add(mac);
            let stale = Stale { newest, refused: offer.stamp };
            let mut draft = Draft::new(pair.header(Message::Stale, false));
            stale.write(&mut draft);
            out.datagrams.push((peer.address, draft.finish(pair)));
            return self.tell(index, What::StaleInit, out);
        }
        // Of two INITs that cross, the one with the smaller name wins; the other end comes to the
        // same.
        let own = peer.attempt.as_ref().and_then(|attempt| attempt.init.as_ref());
        if own.is_some_and(|init| init.pair.ids().0 < pair.ids().1) {
            return;
        }
        let Some(suite) = self.config.suites.and(offer.suites).best() else {
            return self.fail(index, Role::Responder, Failure::NoCommonSuite, out);
        };
        if self.answer(index, pair, responder, &offer, suite, now, out).is_err() {
            return self.fail(index, Role::Responder, Failure::WrongKeys, out);
        }
        if let Some(peer) = &mut self.peers[index]
            && let Some(stamped) = peer.stamped(pair)
        {
            let before = std::mem::replace(&mut stamped.init_mac, *mac);
            stamped.newest = offer.stamp;
            peer.old_inits.add(&before);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "parts of one handshake")]
    fn answer(
        &mut self,
        index: Index,
        pair: &Arc<Pair>,
        responder: Responder,
        offer: &Offer,
        suite: Suite,
        now: Now,
        out: &mut Output,
    ) -> Result<(), Refused> {
        let ephemeral = Ephemeral::of_responder(&self.secret())?;
        let slot = self.slot(index).ok_or(Refused)?;
        let answer = Answer { stamp: offer.stamp, slot, lanes: self.config.lanes, suite };
        let mut draft = Draft::new(pair.header(Message::Response, false));
        let psk = self.identity.psks.first().ok_or(Refused);
        let made = psk
            .and_then(|psk| responder.answer(psk, &ephemeral, &answer.encode(), &mut draft.bytes))
            .and_then(|split| {
                let ends = Ends {
                    pair,
                    role: Role::Responder,
                    own_slot: slot,
                    peer_slot: offer.slot,
                    peer_lanes: offer.lanes,
                    suite,
                };
                self.session(index, &ends, &split, now, out)
            });
        let session = made.inspect_err(|_| self.free(slot))?;
        let response = draft.finish(pair);
        // The receiver is there before the answer leaves.
        self.shared.slots.install(Arc::clone(&session.incoming));
        let peer = self.peers[index].as_mut().ok_or(Refused)?;
        out.datagrams.push((peer.address, response.clone()));
        // Whoever waits for this node's turn gets the peer's session.
        peer.attempt.take_if(|attempt| attempt.init.is_none());
        let until = now.instant + TENTATIVE;
        let older = peer.tentative.take();
        let unused_since = older.as_ref().map_or(now.instant, |older| older.unused_since);
        peer.tentative = Some(Tentative { session, response, until, unused_since });
        if let Some(older) = older {
            self.free(older.session.incoming.slot());
        }
        Ok(())
    }

    fn response(
        &mut self,
        index: Index,
        pair: &Arc<Pair>,
        datagram: &[u8],
        body: &[u8],
        now: Now,
        out: &mut Output,
    ) {
        let Some(peer) = &mut self.peers[index] else { return };
        let init = peer.attempt.as_ref().and_then(|attempt| attempt.init.as_ref());
        let Some(init) = init.filter(|init| init.pair.ids() == pair.ids()) else { return };
        let Some(mac) = datagram.last_chunk() else { return };
        // One that somebody has recorded has the right MAC too.
        if peer.old_responses.has(mac) || !peer.responses.take(now.instant) {
            return;
        }
        let finished = init.initiator.finish(pair.own(), &self.identity.psks, body);
        let Ok((payload, split)) = finished else {
            peer.old_responses.add(mac);
            return self.fail(index, Role::Initiator, Failure::WrongPsk, out);
        };
        let answer = Answer::decode(&payload);
        let offered = self.config.suites;
        let fits = |answer: &Answer| answer.stamp == init.stamp && offered.has(answer.suite);
        let Some(answer) = answer.filter(fits) else {
            return self.fail(index, Role::Initiator, Failure::WrongKeys, out);
        };
        let own_slot = init.slot;
        let ends = Ends {
            pair,
            role: Role::Initiator,
            own_slot,
            peer_slot: answer.slot,
            peer_lanes: answer.lanes,
            suite: answer.suite,
        };
        let Ok(session) = self.session(index, &ends, &split, now, out) else {
            return self.fail(index, Role::Initiator, Failure::WrongKeys, out);
        };
        self.shared.slots.install(Arc::clone(&session.incoming));
        self.turns.note_answer(index, now.instant);
        let attempt = self.peers[index].as_mut().and_then(|peer| peer.attempt.take());
        let began = attempt.and_then(|attempt| attempt.began);
        let took = began.map(|began| now.instant.saturating_duration_since(began));
        self.serve(index, session, took.unwrap_or_default(), now, out);
    }

    fn stale(&mut self, index: Index, pair: &Arc<Pair>, body: &[u8], now: Now, out: &mut Output) {
        /// How often a clock is set right before the peer is taken for mad.
        const PATIENCE: u32 = 3;
        let Some(stale) = Stale::read(body) else { return };
        let Some(peer) = &mut self.peers[index] else { return };
        let is_meant = |attempt: &&mut Box<Attempt>| {
            let init = attempt.init.as_ref().filter(|init| init.stamp == stale.refused);
            init.is_some_and(|init| init.pair.ids() == pair.ids())
                && stale.newest >= stale.refused
                && attempt.stale < PATIENCE
        };
        let Some(attempt) = peer.attempt.as_mut().filter(is_meant) else { return };
        attempt.stale += 1;
        if let Some(stamped) = peer.stamped(pair) {
            stamped.own = stamped.own.max(stale.newest);
        }
        self.tell(index, What::ClockBehind, out);
        self.begin_again(index, now, out);
    }

    fn session(
        &mut self,
        index: Index,
        ends: &Ends<'_>,
        split: &Split,
        now: Now,
        out: &mut Output,
    ) -> Result<Session, Refused> {
        let (incoming, outgoing, renewal) = match ends.role {
            Role::Initiator => (
                Direction::FromResponder,
                Direction::FromInitiator,
                limits::RENEW_AGE + self.up_to(limits::RENEW_SPREAD),
            ),
            Role::Responder => {
                (Direction::FromInitiator, Direction::FromResponder, limits::RENEW_AGE_OF_RESPONDER)
            }
        };
        let peer = self.peers[index].as_ref().ok_or(Refused)?;
        let derive = |direction| KeyMaterial::derive(split, direction, ends.suite, self.config.vni);
        let (from_peer, to_peer) = (derive(incoming)?, derive(outgoing)?);
        let link = Arc::clone(&peer.link);
        let incoming = Incoming::new(from_peer.key()?, ends.own_slot, ends.peer_lanes, link);
        let outgoing =
            Outgoing::new(to_peer.key()?, ends.peer_slot, self.config.lanes, now.instant);
        if let Some(keys) = &mut out.keys {
            let peer = peer.address.ip();
            let logged = |way, slot, material| LoggedKey { peer, way, slot, material };
            keys.push(logged(Way::FromPeer, ends.own_slot, from_peer));
            keys.push(logged(Way::ToPeer, ends.peer_slot, to_peer));
        }
        Ok(Session {
            pair: Arc::clone(ends.pair),
            role: ends.role,
            incoming: Arc::new(incoming),
            outgoing: Arc::new(outgoing),
            began: now.instant,
            renew_at: now.instant + renewal,
            ends: now.instant + limits::MAX_AGE,
        })
    }

    /// Lets a session serve: workers seal with it from now on, and the one before still receives.
    fn serve(
        &mut self,
        index: Index,
        session: Session,
        took: Duration,
        now: Now,
        out: &mut Output,
    ) {
        let now_ms = self.ms(now.instant);
        let Some(peer) = &mut self.peers[index] else { return };
        peer.link.set_outgoing(Some(Arc::clone(&session.outgoing)));
        // Nobody waits any more; when this session has ended, the next who does is news.
        peer.link.activity().forget_want();
        let what = What::Established(session.role, session.outgoing.suite(), took);
        // The other end may have taken the other of two sessions; see `settle`.
        let tentative = peer.tentative.take().map(|tentative| (tentative.session, false));
        let older = peer.current.replace(session).map(|session| (session, true));
        let until = now.instant + limits::PREVIOUS;
        let mut freed = Vec::new();
        for (session, has_served) in older.into_iter().chain(tentative) {
            freed.extend(peer.keep(Before { session, until, has_served }));
        }
        peer.unanswered = None;
        peer.last_failure = None;
        // Whoever began confirms the session by it, and whoever answered that it serves.
        if let Some(current) = &peer.current
            && let Ok(dummy) = current.outgoing.dummy(DUMMY_LANE, now.instant)
        {
            peer.dummy_ms = now_ms;
            out.datagrams.push((peer.address, dummy.to_vec()));
        }
        freed.iter().for_each(|session| self.free(session.incoming.slot()));
        self.tell(index, what, out);
    }

    pub(super) fn fail(&mut self, index: Index, role: Role, failure: Failure, out: &mut Output) {
        if let Some(peer) = &mut self.peers[index] {
            let is_news = peer.last_failure.replace(failure) != Some(failure);
            if is_news {
                self.tell(index, What::Failed(role, failure), out);
            }
        }
    }
}

/// What both ends have agreed on.
struct Ends<'a> {
    pair: &'a Arc<Pair>,
    role: Role,
    own_slot: Slot,
    peer_slot: Slot,
    peer_lanes: u16,
    suite: Suite,
}
