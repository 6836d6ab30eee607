//! The heaviest flows among any number of them, in a fixed amount of memory.
//!
//! The algorithm "space-saving" (Metwally, Agrawal and El Abbadi, 2005): when there is no room, the
//! lightest flow gives its place, and its count as the new one's possible error, to the new one. A
//! flow with more than one part in [`CAPACITY`] of all packets has a place for certain. Allocates
//! nothing once made.

use std::hash::BuildHasher as _;

use foldhash::fast::RandomState;

use super::key::FlowKey;

/// Flows that are told apart.
pub(super) const CAPACITY: usize = 1024;

/// Slots of the index: twice as many as flows, so that a search ends soon.
const SLOTS: usize = 2 * CAPACITY;

/// No flow.
const EMPTY: u16 = u16::MAX;

const _: () = assert!(CAPACITY < EMPTY as usize && SLOTS.is_power_of_two());

/// Counts of flows.
#[derive(Debug)]
pub(super) struct Heaviest {
    entries: Vec<Entry>,
    /// Places in `entries`, by hash; a flow is in its own slot or in one of those behind it,
    /// without an empty one between.
    slots: Box<[u16; SLOTS]>,
    /// Places in `entries`, as a binary heap with the lightest first.
    heap: Vec<u16>,
    /// Seeded anew for each table, so that nobody can choose flows that meet in one slot.
    hasher: RandomState,
}

/// One flow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) key: FlowKey,
    pub(super) packets: u64,
    pub(super) bytes: u64,
    /// What of these may be of flows that had the place before.
    pub(super) doubtful_packets: u64,
    pub(super) doubtful_bytes: u64,
    hash: u32,
    /// Where it is in the heap.
    place: u16,
}

impl Heaviest {
    pub(super) fn new() -> Self {
        Self {
            entries: Vec::with_capacity(CAPACITY),
            slots: Box::new([EMPTY; SLOTS]),
            heap: Vec::with_capacity(CAPACITY),
            hasher: RandomState::default(),
        }
    }

    /// Counts packets of a flow.
    pub(super) fn add(&mut self, key: FlowKey, packets: u64, bytes: u64) {
        #[expect(clippy::cast_possible_truncation, reason = "a part of the bits is what is wanted")]
        let hash = self.hasher.hash_one(key) as u32;
        if let Some(known) = self.find(&key, hash) {
            let entry = &mut self.entries[usize::from(known)];
            entry.packets = entry.packets.saturating_add(packets);
            entry.bytes = entry.bytes.saturating_add(bytes);
            let place = entry.place;
            return self.sink(place.into());
        }
        let fresh =
            Entry { key, packets, bytes, doubtful_packets: 0, doubtful_bytes: 0, hash, place: 0 };
        if self.entries.len() < CAPACITY {
            let number = narrow(self.entries.len());
            self.entries.push(Entry { place: narrow(self.heap.len()), ..fresh });
            self.heap.push(number);
            self.insert(number);
            return self.rise(self.heap.len() - 1);
        }
        let number = self.heap[0];
        let lightest = self.entries[usize::from(number)];
        self.remove(number);
        self.entries[usize::from(number)] = Entry {
            packets: lightest.packets.saturating_add(packets),
            bytes: lightest.bytes.saturating_add(bytes),
            doubtful_packets: lightest.packets,
            doubtful_bytes: lightest.bytes,
            ..fresh
        };
        self.insert(number);
        self.sink(0);
    }

    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    fn find(&self, key: &FlowKey, hash: u32) -> Option<u16> {
        let mut slot = home(hash);
        loop {
            let number = self.slots[slot];
            if number == EMPTY {
                return None;
            }
            let entry = &self.entries[usize::from(number)];
            if entry.hash == hash && entry.key == *key {
                return Some(number);
            }
            slot = (slot + 1) % SLOTS;
        }
    }

    fn insert(&mut self, number: u16) {
        let mut slot = home(self.entries[usize::from(number)].hash);
        while self.slots[slot] != EMPTY {
            slot = (slot + 1) % SLOTS;
        }
        self.slots[slot] = number;
    }

    /// Takes a flow out of the index, and moves up those behind it that are not in their own slots.
    fn remove(&mut self, number: u16) {
        let mut hole = home(self.entries[usize::from(number)].hash);
        while self.slots[hole] != number {
            hole = (hole + 1) % SLOTS;
        }
        let mut slot = (hole + 1) % SLOTS;
        while self.slots[slot] != EMPTY {
            let home = home(self.entries[usize::from(self.slots[slot])].hash);
            let distance = |from: usize, to: usize| (to + SLOTS - from) % SLOTS;
            if distance(home, slot) >= distance(hole, slot) {
                self.slots[hole] = self.slots[slot];
                hole = slot;
            }
            slot = (slot + 1) % SLOTS;
        }
        self.slots[hole] = EMPTY;
    }

    fn packets_at(&self, place: usize) -> u64 {
        self.entries[usize::from(self.heap[place])].packets
    }

    fn swap(&mut self, one: usize, other: usize) {
        self.heap.swap(one, other);
        self.entries[usize::from(self.heap[one])].place = narrow(one);
        self.entries[usize::from(self.heap[other])].place = narrow(other);
    }

    /// Lets what is at `place` change places with lighter ones below.
    fn sink(&mut self, mut place: usize) {
        loop {
            let below = [2 * place + 1, 2 * place + 2].into_iter();
            let below = below.filter(|below| *below < self.heap.len());
            let Some(lighter) = below.min_by_key(|below| self.packets_at(*below)) else { return };
            if self.packets_at(place) <= self.packets_at(lighter) {
                return;
            }
            self.swap(place, lighter);
            place = lighter;
        }
    }

    /// Lets what is at `place` change places with heavier ones above.
    fn rise(&mut self, mut place: usize) {
        while place > 0 {
            let above = (place - 1) / 2;
            if self.packets_at(above) <= self.packets_at(place) {
                return;
            }
            self.swap(place, above);
            place = above;
        }
    }
}

fn home(hash: u32) -> usize {
    hash as usize % SLOTS
}

/// A place among so few.
fn narrow(place: usize) -> u16 {
    u16::try_from(place).unwrap_or(EMPTY)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::net::{IpAddr, Ipv4Addr};

    use proptest::prelude::*;

    use super::*;
    use crate::flows::key::{FlowVerdict, Tuple};

    fn key(number: u32) -> FlowKey {
        FlowKey {
            egress: true,
            verdict: FlowVerdict::Forward,
            inner: Some(Tuple {
                source: IpAddr::V4(Ipv4Addr::from_bits(number)),
                destination: IpAddr::V4(Ipv4Addr::LOCALHOST),
                protocol: 17,
                source_port: 1,
                destination_port: 2,
            }),
            outer: None,
        }
    }

    fn is_sound(flows: &Heaviest) {
        assert_eq!(flows.heap.len(), flows.entries.len());
        for (place, number) in flows.heap.iter().enumerate() {
            let entry = &flows.entries[usize::from(*number)];
            assert_eq!(usize::from(entry.place), place);
            assert_eq!(flows.find(&entry.key, entry.hash), Some(*number));
            assert!(place == 0 || flows.packets_at((place - 1) / 2) <= entry.packets);
        }
        let indexed = flows.slots.iter().filter(|slot| **slot != EMPTY).count();
        assert_eq!(indexed, flows.entries.len());
    }

    #[test]
    fn few_flows_are_counted_exactly() {
        let mut flows = Heaviest::new();
        for round in 0..3 {
            for number in 0..CAPACITY as u32 {
                flows.add(key(number), u64::from(number) + round, 100);
            }
        }
        is_sound(&flows);
        for (number, entry) in flows.entries().iter().enumerate() {
            assert_eq!((entry.packets, entry.bytes), (3 * number as u64 + 3, 300));
            assert_eq!((entry.doubtful_packets, entry.doubtful_bytes), (0, 0));
        }
    }

    #[test]
    fn nothing_is_allocated_once_it_is_made() {
        let mut flows = Heaviest::new();
        let before = (flows.entries.as_ptr(), flows.heap.as_ptr());
        (0..10 * CAPACITY as u32).for_each(|number| flows.add(key(number), 1, 1));
        assert_eq!((flows.entries.as_ptr(), flows.heap.as_ptr()), before);
        is_sound(&flows);
        // With the copy that takes its place when it is handed over, and the index.
        let bytes = CAPACITY * (size_of::<Entry>() + size_of::<u16>()) + SLOTS * size_of::<u16>();
        assert!(2 * bytes <= 1 << 20, "{bytes}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn heavy_flows_are_found_and_no_count_is_wrong_by_more_than_it_says(
            elephants in prop::collection::vec(1_u32..20, 1..20),
            order in any::<u32>(),
        ) {
            let mut flows = Heaviest::new();
            let mut truth: HashMap<FlowKey, u64> = HashMap::new();
            let mut total = 0;
            // A few heavy flows among thousands that are seen once.
            for step in 0..6_000_u32 {
                let pick = step.wrapping_mul(2_654_435_761).wrapping_add(order);
                let elephant = elephants[pick as usize % elephants.len()];
                let key = if pick % 4 == 0 { key(elephant) } else { key(1_000 + step) };
                flows.add(key, 2, 200);
                *truth.entry(key).or_default() += 2;
                total += 2;
            }
            is_sound(&flows);
            prop_assert_eq!(flows.entries().iter().map(|entry| entry.packets).sum::<u64>(), total);
            for entry in flows.entries() {
                let exact = truth[&entry.key];
                prop_assert!(entry.packets >= exact);
                prop_assert!(entry.packets - entry.doubtful_packets <= exact);
            }
            for (key, exact) in truth {
                let is_there = flows.entries().iter().any(|entry| entry.key == key);
                prop_assert!(is_there || exact <= total / CAPACITY as u64);
            }
        }
    }
}
