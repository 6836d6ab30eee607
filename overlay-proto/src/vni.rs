//! The virtual network identifier: 24 bits that tell one overlay from another.
//!
//! It never chooses one; the configuration does.

use core::error::Error;
use core::fmt;

/// A virtual network identifier, at most 24 bits wide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vni(u32); // INVARIANT: <= Vni::MAX

impl Vni {
    /// The largest identifier: the field has 24 bits.
    pub const MAX: u32 = (1 << 24) - 1;

    /// Takes `value` as an identifier.
    ///
    /// # Errors
    ///
    /// [`VniError`] if `value` does not fit in 24 bits.
    #[inline]
    pub const fn new(value: u32) -> Result<Self, VniError> {
        if value > Self::MAX {
            return Err(VniError);
        }
        Ok(Self(value))
    }

    /// Returns the identifier as a number.
    #[inline]
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// The number is wider than the 24 bits of a [`Vni`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VniError;

impl fmt::Display for VniError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a VNI is at most {}", Vni::MAX)
    }
}

impl Error for VniError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widest_vni_is_24_bits() {
        assert_eq!(Vni::new(0x00ff_ffff).map(Vni::get), Ok(0x00ff_ffff));
        assert_eq!(Vni::new(0x0100_0000), Err(VniError));
    }
}
