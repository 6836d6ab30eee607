//! Where sessions come in: from a datagram's slot to what opens it, without a lock.

use std::fmt;
use std::sync::{Arc, OnceLock};

use arc_swap::{ArcSwapOption, Guard};
use overlay_proto::esp::Slot;

use super::Incoming;

/// Slots of a chunk; as many chunks cover all slots there are.
const CHUNK: usize = 1024;

type Chunk = [ArcSwapOption<Incoming>; CHUNK];

/// All sessions of a node by their slot. A chunk is made when a slot of it is used first, and
/// stays.
pub struct Slots {
    chunks: Box<[OnceLock<Box<Chunk>>; CHUNK]>,
}

const _: () = assert!(CHUNK * CHUNK == Slot::MAX as usize + 1);

impl Slots {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self { chunks: Box::new([const { OnceLock::new() }; CHUNK]) }
    }

    /// What opens datagrams of this slot.
    #[inline]
    #[must_use]
    pub fn load(&self, slot: Slot) -> Option<Guard<Option<Arc<Incoming>>>> {
        let (chunk, at) = place(slot);
        self.chunks[chunk].get().map(|chunk| chunk[at].load())
    }

    /// Puts a session where its datagrams come in; one that was there is gone.
    pub fn install(&self, incoming: Arc<Incoming>) {
        let (chunk, at) = place(incoming.slot());
        let empty = || Box::new([const { ArcSwapOption::const_empty() }; CHUNK]);
        self.chunks[chunk].get_or_init(empty)[at].store(Some(incoming));
    }

    pub(crate) fn remove(&self, slot: Slot) {
        let (chunk, at) = place(slot);
        if let Some(chunk) = self.chunks[chunk].get() {
            chunk[at].store(None);
        }
    }
}

impl Default for Slots {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slots").finish_non_exhaustive()
    }
}

fn place(slot: Slot) -> (usize, usize) {
    let slot = slot.get() as usize;
    (slot / CHUNK, slot % CHUNK)
}
