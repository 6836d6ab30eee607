//! Which flows there are: packets are sampled beside the data path and counted by flow.
//!
//! Each worker has a table of fixed size for whoever looks, which it fills without an allocation or
//! a wait: its lock is only ever held for the moment in which the reader takes the table and leaves
//! an empty one, and a packet that comes in that moment is not counted. Every packet is looked at
//! as long as there are few in a second, and of more one in so many. Without a reader there is no
//! table, and nothing is looked at.

mod heaviest;
mod key;

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use self::heaviest::Heaviest;
use self::key::Seen;
pub use self::key::{FlowKey, FlowVerdict, Tuple};
use super::tap::{Observation, Tap};

/// Packets that a worker looks at in a second, each of them, before it samples: who looks for a
/// ping sees it. At some 100 ns each they are 0.01 % of its time.
pub const EACH_A_SECOND: u32 = 1_000;

/// The same of dropped packets: more, since these are what people look for, and not all, since a
/// flood must not become dearer because somebody looks.
const DROPS_A_SECOND: u32 = 5_000;

/// Whoever looks at the flows of all workers; they go on without when this is dropped.
#[derive(Debug)]
pub struct FlowWatch {
    tables: Vec<Arc<Shared>>,
}

/// What was counted of a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowCount {
    /// Packets, as far as the sample tells.
    pub packets: u64,
    /// Bytes of inner packets, likewise.
    pub bytes: u64,
}

/// What the workers have counted since they were last asked.
#[derive(Debug, Default)]
pub struct Flows {
    /// Counts by flow, of what is of that flow for certain.
    pub counts: HashMap<FlowKey, FlowCount>,
    /// What is of one of the flows, or of others that had no room.
    pub others: FlowCount,
    /// Samples that were lost because the table was being handed over.
    pub missed: u64,
}

/// A worker's table, and its reader's.
#[derive(Debug)]
struct Shared {
    table: Mutex<Heaviest>,
    missed: AtomicU64,
}

/// A worker's end.
pub struct FlowTap {
    shared: Arc<Shared>,
    sampler: Sampler,
    /// Packets, and drops, that may each be looked at before this second is over.
    packets: Cell<u32>,
    drops: Cell<u32>,
    second: Cell<Instant>,
}

/// Opens the tables of so many workers, of which each looks at one packet in `sample` of those that
/// it does not look at all: the reader's end, and each worker's.
pub fn open(sample: u32, workers: usize, now: Instant) -> (FlowWatch, Vec<FlowTap>) {
    let one = |number: usize| {
        let table = Mutex::new(Heaviest::new());
        let shared = Arc::new(Shared { table, missed: AtomicU64::new(0) });
        let tap = FlowTap {
            shared: Arc::clone(&shared),
            sampler: Sampler::new(sample, number as u64),
            packets: Cell::new(EACH_A_SECOND),
            drops: Cell::new(DROPS_A_SECOND),
            second: Cell::new(now),
        };
        (shared, tap)
    };
    let (tables, taps) = (0..workers).map(one).unzip();
    (FlowWatch { tables }, taps)
}

impl FlowWatch {
    /// Takes what was counted since the last time.
    pub fn take(&self) -> Flows {
        let mut flows = Flows::default();
        for shared in &self.tables {
            let empty = Heaviest::new();
            let mut table = shared.table.lock().unwrap_or_else(PoisonError::into_inner);
            let full = std::mem::replace(&mut *table, empty);
            drop(table);
            flows.missed += shared.missed.swap(0, Ordering::Relaxed);
            for entry in full.entries() {
                let count = flows.counts.entry(entry.key).or_default();
                count.packets += entry.packets - entry.doubtful_packets;
                count.bytes += entry.bytes - entry.doubtful_bytes;
                flows.others.packets += entry.doubtful_packets;
                flows.others.bytes += entry.doubtful_bytes;
            }
        }
        flows
    }
}

impl FlowTap {
    /// Whether nobody reads any more.
    pub(super) fn is_abandoned(&self) -> bool {
        Arc::strong_count(&self.shared) == 1
    }

    /// Sets the moment of what is seen next.
    pub(super) fn prepare(&self, now: Instant) {
        if now.saturating_duration_since(self.second.get()) >= Duration::from_secs(1) {
            self.second.set(now);
            self.packets.set(EACH_A_SECOND);
            self.drops.set(DROPS_A_SECOND);
        }
    }

    fn count(&self, seen: &Seen<'_>, packets: u64) {
        let Ok(mut table) = self.shared.table.try_lock() else {
            self.shared.missed.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let bytes = packets.saturating_mul(seen.len as u64) / seen.packets.max(1) as u64;
        table.add(seen.key(), packets, bytes);
    }
}

impl Tap for FlowTap {
    #[inline]
    fn observe(&self, observation: &Observation<'_>) {
        let Some(seen) = Seen::of(observation) else { return };
        let budget = if seen.is_dropped() { &self.drops } else { &self.packets };
        if let Some(left) = budget.get().checked_sub(1) {
            budget.set(left);
            return self.count(&seen, seen.packets as u64);
        }
        let packets = self.sampler.sample(seen.packets);
        if packets > 0 {
            self.count(&seen, packets);
        }
    }

    fn wants_datagrams(&self) -> bool {
        false
    }
}

/// Chooses one packet in so many on average. The gaps between them are of random length, so that no
/// rhythm of the traffic falls in with that of the sample.
struct Sampler {
    every: u32,
    /// Packets up to the next that is chosen, and that one.
    left: Cell<u64>,
    random: Cell<u64>,
}

impl Sampler {
    fn new(every: u32, seed: u64) -> Self {
        // Any start but zero will do.
        let random = Cell::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let sampler = Self { every: every.max(1), left: Cell::new(0), random };
        sampler.left.set(sampler.gap());
        sampler
    }

    /// How many packets the chosen ones among the next `packets` stand for.
    #[inline]
    fn sample(&self, packets: usize) -> u64 {
        let mut packets = packets as u64;
        let mut left = self.left.get();
        let mut chosen = 0;
        while packets >= left {
            packets -= left;
            chosen += 1;
            left = self.gap();
        }
        self.left.set(left - packets);
        chosen * u64::from(self.every)
    }

    /// From 1 to nearly twice `every`, which is `every` on average.
    fn gap(&self) -> u64 {
        // Marsaglia's xorshift64.
        let mut random = self.random.get();
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        self.random.set(random);
        1 + random % (2 * u64::from(self.every) - 1)
    }
}

#[cfg(test)]
mod tests;
