//! Another table, or other keys of this node.

use std::collections::HashSet;
use std::sync::Arc;

use super::peer::{Attempt, Before, Peer, Session, Stamped};
use super::{Entropy, Identity, Index, Mesh, Now, Output, PeerEntry, What};
use crate::handshake::{Pair, Pairs};
use crate::keys::KeyId;
use crate::session::PeerLink;

/// For how long after this node has got another key sessions made with the one before are renewed.
const SWITCH_SPREAD: std::time::Duration = std::time::Duration::from_secs(5);

impl<E: Entropy> Mesh<E> {
    /// Takes the peers of a table, and what this node proves who it is with. Sessions with keys
    /// that are not there any more end at once; those with a key that this node does not begin with
    /// any more are renewed soon.
    pub fn set_table(
        &mut self,
        identity: Identity,
        entries: Vec<PeerEntry>,
        now: Now,
        out: &mut Output,
    ) {
        let has_other_psks = self.identity.psks != identity.psks;
        self.identity = identity;
        if has_other_psks {
            // What was refused may be taken now.
            self.peers.iter_mut().flatten().for_each(|peer| peer.old_responses.clear());
        }
        let known = self.shared.pairs.load_full();
        // One that was away in between is another: workers have another link to it.
        let staying: HashSet<*const PeerLink> =
            entries.iter().map(|entry| Arc::as_ptr(&entry.link)).collect();
        let stays = |index: Index| {
            let peer = self.peers[index].as_ref();
            peer.is_some_and(|peer| staying.contains(&Arc::as_ptr(&peer.link)))
        };
        let indexes = self.by_name.values().copied();
        let leaving: Vec<Index> = indexes.filter(|index| !stays(*index)).collect();
        leaving.into_iter().for_each(|index| self.remove(index, out));
        self.by_address.clear();
        self.by_key.clear();
        let mut pairs = Vec::new();
        for entry in entries {
            let index = self.place_of(&entry);
            self.by_address.insert(entry.address.ip(), index);
            let of_peer = self.pairs_with(&entry, &known);
            self.by_key.extend(entry.keys.iter().map(|key| (KeyId::of(key), index)));
            pairs.extend(of_peer.iter().cloned());
            self.update(index, &entry, of_peer, now, out);
        }
        self.shared.pairs.store(Arc::new(pairs.into_iter().collect::<Pairs>()));
        self.proceed(now, out);
    }

    fn place_of(&mut self, entry: &PeerEntry) -> Index {
        if let Some(&index) = self.by_name.get(entry.link.name()) {
            return index;
        }
        entry.link.activity().take_want();
        let peer = Some(Peer::new(Arc::clone(&entry.link), entry.address));
        let index = match self.peers.iter().position(Option::is_none) {
            Some(index) if self.by_name.len() < self.peers.len() => {
                self.peers[index] = peer;
                index
            }
            Some(_) | None => {
                self.peers.push(peer);
                self.peers.len() - 1
            }
        };
        self.by_name.insert(entry.link.name().into(), index);
        index
    }

    /// Agreements that were made before are not made again.
    fn pairs_with(&self, entry: &PeerEntry, known: &Pairs) -> Vec<Arc<Pair>> {
        let owns = self.identity.keys.iter();
        owns.flat_map(|own| entry.keys.iter().map(move |peer| (own, peer)))
            .filter_map(|(own, peer)| match known.get(own.id(), KeyId::of(peer)) {
                Some(pair) => Some(Arc::clone(pair)),
                None => Pair::new(own, peer).map(Arc::new),
            })
            .collect()
    }

    fn update(
        &mut self,
        index: Index,
        entry: &PeerEntry,
        pairs: Vec<Arc<Pair>>,
        now: Now,
        out: &mut Output,
    ) {
        let first = self.identity.keys.first().map(|key| key.id());
        let begins = |pair: &Arc<Pair>| Some(pair.ids().0) == first;
        let ids: Vec<(KeyId, KeyId)> = pairs.iter().map(|pair| pair.ids()).collect();
        let is_gone = |session: &Session| !ids.contains(&session.pair.ids());
        let spread = self.up_to(SWITCH_SPREAD);
        let Some(peer) = &mut self.peers[index] else { return };
        peer.address = entry.address;
        peer.begin_with = pairs.iter().filter(|pair| begins(pair)).count();
        let mut known = std::mem::take(&mut peer.pairs);
        let stamped = |pair: Arc<Pair>| {
            let at = known.iter().position(|stamped| stamped.pair.ids() == pair.ids());
            at.map_or_else(|| Stamped::new(pair), |at| known.swap_remove(at))
        };
        peer.pairs = pairs.into_iter().map(stamped).collect();
        peer.next_pair = 0;
        let mut slots = Vec::new();
        let is_void = |attempt: &mut Box<Attempt>| {
            attempt.init.as_ref().is_some_and(|init| !ids.contains(&init.pair.ids()))
        };
        if let Some(gone) = peer.attempt.take_if(is_void) {
            slots.extend(gone.slot());
            // Whoever waits has to say so again, and a handshake with the other key begins.
            peer.link.activity().forget_want();
        }
        if let Some(gone) = peer.tentative.take_if(|tentative| is_gone(&tentative.session)) {
            slots.push(gone.session.incoming.slot());
        }
        let before = peer.before.extract_if(.., |before: &mut Before| is_gone(&before.session));
        slots.extend(before.map(|gone| gone.session.incoming.slot()));
        let ended = peer.current.take_if(|session| is_gone(session));
        if let Some(gone) = &ended {
            slots.push(gone.incoming.slot());
            peer.link.set_outgoing(None);
        }
        if let Some(current) = &mut peer.current
            && !begins(&current.pair)
        {
            current.renew_at = current.renew_at.min(now.instant + spread);
        }
        slots.into_iter().for_each(|slot| self.free(slot));
        self.schedule(index);
        if ended.is_some() {
            self.tell(index, What::Ended, out);
        }
    }

    fn remove(&mut self, index: Index, out: &mut Output) {
        let had_session = self.peers[index].as_ref().is_some_and(|peer| peer.current.is_some());
        if had_session {
            self.tell(index, What::Ended, out);
        }
        let Some(peer) = self.peers[index].take() else { return };
        peer.link.set_outgoing(None);
        peer.link.show(None);
        self.by_name.remove(peer.link.name());
        let sessions = [
            peer.attempt.and_then(|attempt| attempt.slot()),
            peer.tentative.map(|tentative| tentative.session.incoming.slot()),
            peer.current.map(|session| session.incoming.slot()),
        ];
        let before = peer.before.into_iter().map(|before| before.session.incoming.slot());
        sessions.into_iter().flatten().chain(before).for_each(|slot| self.free(slot));
        self.schedule(index);
    }
}
