//! The peers: found by their addresses, and by who wants to be looked at first.
//!
//! Owns where each peer is in memory. Peers fill one list, and both ways to find one are lists of
//! places in it, four bytes for each. Trees and hash tables leave free as much again as they use.

use std::net::IpAddr;

use crate::moment::Moment;
use crate::peer::Peer;
use crate::schedule::wake;

/// Lists grow by this part of themselves, and so have no more than that to spare.
const SPARE: usize = 16;

/// The most bytes that a peer takes with which nothing is wrong.
pub const PEER_LEN: usize = (size_of::<Peer>() + 2 * size_of::<u32>()) * (SPARE + 1) / SPARE;

const _: () = assert!(PEER_LEN <= 160, "ten thousand peers take 1.6 MB");

/// The peers of a table.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    peers: Vec<Peer>,
    /// Places in `peers`, in the order of addresses.
    by_address: Vec<u32>,
    /// Places in `peers`, as a binary heap: the first wants to be looked at first.
    agenda: Vec<u32>,
}

impl Peers {
    pub(crate) fn get(&self, address: IpAddr) -> Option<&Peer> {
        self.peers.get(self.place(address)?)
    }

    pub(crate) fn get_mut(&mut self, address: IpAddr) -> Option<&mut Peer> {
        let place = self.place(address)?;
        self.peers.get_mut(place)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Peer> {
        self.peers.iter()
    }

    /// Who wants to be looked at first, and when.
    pub(crate) fn first(&self) -> Option<(Moment, IpAddr)> {
        self.agenda.first().map(|place| self.key(*place))
    }

    /// Takes a peer whose address no other has.
    pub(crate) fn insert(&mut self, mut peer: Peer) {
        let Err(rank) = self.rank(peer.address) else { return };
        let Ok(place) = u32::try_from(self.peers.len()) else { return };
        peer.wake = wake(&peer);
        peer.turn = place;
        make_room(&mut self.peers);
        make_room(&mut self.by_address);
        make_room(&mut self.agenda);
        self.peers.push(peer);
        self.by_address.insert(rank, place);
        self.agenda.push(place);
        self.rise(self.agenda.len() - 1);
    }

    pub(crate) fn remove(&mut self, address: IpAddr) -> Option<Peer> {
        let rank = self.rank(address).ok()?;
        let place = self.by_address.remove(rank);
        let turn = self.peers[at(place)].turn;
        self.agenda.swap_remove(at(turn));
        self.settle(at(turn));
        // The last peer takes the place that is free.
        let last = self.peers.len() - 1;
        if at(place) != last {
            let moved = &self.peers[last];
            self.agenda[at(moved.turn)] = place;
            if let Ok(rank) = self.rank(moved.address) {
                self.by_address[rank] = place;
            }
        }
        let removed = self.peers.swap_remove(at(place));
        give_back(&mut self.peers);
        give_back(&mut self.by_address);
        give_back(&mut self.agenda);
        Some(removed)
    }

    /// Goes by when the peer wants to be looked at now.
    pub(crate) fn reschedule(&mut self, address: IpAddr) {
        let Some(peer) = self.get_mut(address) else { return };
        let after = wake(peer);
        if after != peer.wake {
            peer.wake = after;
            let turn = at(peer.turn);
            self.settle(turn);
        }
    }

    /// The place of the peer in the order of addresses, or where it would be.
    fn rank(&self, address: IpAddr) -> Result<usize, usize> {
        self.by_address.binary_search_by_key(&address, |place| self.peers[at(*place)].address)
    }

    fn place(&self, address: IpAddr) -> Option<usize> {
        self.rank(address).ok().map(|rank| at(self.by_address[rank]))
    }

    fn key(&self, place: u32) -> (Moment, IpAddr) {
        let peer = &self.peers[at(place)];
        (peer.wake, peer.address)
    }

    /// Puts what is at `turn` where it belongs; there need not be anything.
    fn settle(&mut self, turn: usize) {
        let Some(place) = self.agenda.get(turn).copied() else { return };
        // Whoever was moved there is told of it, also if it stays.
        self.peers[at(place)].turn = number(turn);
        let turn = self.rise(turn);
        self.sink(turn);
    }

    /// Lets what is at `turn` go before all that come later than it.
    fn rise(&mut self, mut turn: usize) -> usize {
        while turn > 0 {
            let above = (turn - 1) / 2;
            if self.key(self.agenda[above]) <= self.key(self.agenda[turn]) {
                break;
            }
            self.exchange(above, turn);
            turn = above;
        }
        turn
    }

    /// Lets all that come earlier go before what is at `turn`.
    fn sink(&mut self, mut turn: usize) {
        loop {
            let below = (2 * turn + 1..self.agenda.len()).take(2);
            let Some(next) = below.min_by_key(|below| self.key(self.agenda[*below])) else {
                return;
            };
            if self.key(self.agenda[turn]) <= self.key(self.agenda[next]) {
                return;
            }
            self.exchange(turn, next);
            turn = next;
        }
    }

    fn exchange(&mut self, one: usize, other: usize) {
        self.agenda.swap(one, other);
        for turn in [one, other] {
            self.peers[at(self.agenda[turn])].turn = number(turn);
        }
    }
}

/// Room for one more, and for a few after it.
fn make_room<T>(list: &mut Vec<T>) {
    if list.len() == list.capacity() {
        list.reserve_exact(list.len() / SPARE + 1);
    }
}

/// Keeps no more room than lists that grow have, twice over, so that it is not asked for again at
/// once.
fn give_back<T>(list: &mut Vec<T>) {
    let spare = list.len() / SPARE + 1;
    if list.capacity() - list.len() > 2 * spare {
        list.shrink_to(list.len() + spare);
    }
}

/// A place as an index.
const fn at(place: u32) -> usize {
    place as usize
}

/// An index as a place, of which there are no more than [`Peers::insert`] has let in.
fn number(place: usize) -> u32 {
    u32::try_from(place).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::time::Duration;

    use super::*;
    use crate::event::Entry;

    fn peer(number: u16, due: u64) -> Peer {
        let [high, low] = number.to_be_bytes();
        let address = [10, 0, high, low].into();
        let entry = Entry { address, spread: 0, may_know_stamp: true, route_mtu: 1500 };
        let mut peer = Peer::new(&entry);
        peer.due = Moment::after_start(Duration::from_micros(due));
        peer
    }

    /// Numbers that follow from one another, and look as if they did not.
    fn next(random: &mut u64) -> u64 {
        *random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        *random >> 33
    }

    #[test]
    fn peers_are_found_by_address_and_in_their_order_like_in_trees() {
        let mut random = 1;
        let mut peers = Peers::default();
        let (mut map, mut order) = (BTreeMap::new(), BTreeSet::new());
        for step in 0..20_000 {
            // First there come to be many, then few.
            let number = u16::try_from(next(&mut random) % 500).unwrap();
            let due = next(&mut random) % 1000;
            let address = peer(number, 0).address;
            let is_one_less = next(&mut random) % 100 < if step < 10_000 { 30 } else { 70 };
            if is_one_less {
                let before = map.remove(&address);
                assert_eq!(peers.remove(address).map(|peer| peer.wake), before);
                before.map(|wake| order.remove(&(wake, address)));
            } else if let Some(found) = peers.get_mut(address) {
                found.due = Moment::after_start(Duration::from_micros(due));
                let after = found.due;
                peers.reschedule(address);
                order.remove(&(map[&address], address));
                order.insert((after, address));
                map.insert(address, after);
            } else {
                let new = peer(number, due);
                map.insert(address, new.due);
                order.insert((new.due, address));
                peers.insert(new);
            }
            assert_eq!(peers.first(), order.first().copied());
            assert_eq!(peers.iter().count(), map.len());
        }
        for (address, wake) in &map {
            assert_eq!(peers.get(*address).map(|peer| peer.wake), Some(*wake));
        }
        let addresses = peers.by_address.iter().map(|place| peers.peers[at(*place)].address);
        assert!(addresses.eq(map.into_keys()));
        for at_turn in order {
            assert_eq!(peers.first(), Some(at_turn));
            assert!(peers.remove(at_turn.1).is_some());
        }
        assert_eq!(peers.first(), None);
    }

    #[test]
    fn no_more_is_kept_free_than_a_sixteenth_and_twice_that_after_many_have_left() {
        let mut peers = Peers::default();
        for number in 0..10_000 {
            peers.insert(peer(number, 0));
            assert!(peers.peers.capacity() <= peers.peers.len() * (SPARE + 1) / SPARE + 1);
        }
        for number in 100..10_000 {
            peers.remove(peer(number, 0).address);
        }
        assert!(peers.peers.capacity() <= 100 + 2 * (100 / SPARE + 1));
        assert!(peers.agenda.capacity() <= 100 + 2 * (100 / SPARE + 1));
    }
}
