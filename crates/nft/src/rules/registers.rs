//! The registers of nftables, in which each byte may be unknown.

/// Bytes of all registers together (`NFT_REG_SIZE` × 4).
const SIZE: usize = 64;

/// `NFT_REG32_00`: from here on registers have four bytes, before it sixteen.
const FIRST_SHORT: u32 = 8;

/// What has been loaded so far.
#[derive(Clone, Debug)]
pub(super) struct Registers([Option<u8>; SIZE]);

impl Registers {
    pub(super) const fn new() -> Self {
        Self([None; SIZE])
    }

    /// The `len` bytes from `register` on; those that there are none of are unknown.
    pub(super) fn read(&self, register: u32, len: usize) -> Vec<Option<u8>> {
        let start = place(register);
        (start..start + len).map(|at| self.0.get(at).copied().flatten()).collect()
    }

    /// Puts `bytes` where `register` begins, and makes the rest of its last four bytes zero, as the
    /// kernel does.
    pub(super) fn write(&mut self, register: u32, bytes: &[Option<u8>]) {
        let start = place(register);
        let end = start + bytes.len().next_multiple_of(4);
        for (at, slot) in self.0.iter_mut().enumerate().take(end).skip(start) {
            *slot = bytes.get(at - start).copied().unwrap_or(Some(0));
        }
    }

    /// Says of a whole register of sixteen bytes that nothing is known.
    pub(super) fn forget(&mut self, register: u32) {
        self.write(register, &[None; 16]);
    }
}

const fn place(register: u32) -> usize {
    if register >= FIRST_SHORT {
        4 * (register - FIRST_SHORT) as usize
    } else {
        16 * register.saturating_sub(1) as usize
    }
}
