//! The ciphers that a session may have, and which of them two nodes take.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Algorithm, CHACHA20_POLY1305};

/// What a session seals with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Suite {
    /// AES-256-GCM (RFC 4106).
    Aes256Gcm,
    /// ChaCha20-Poly1305 (RFC 7634).
    ChaCha20Poly1305,
}

impl Suite {
    /// Every suite, the one that is taken before the others first.
    pub const ALL: [Self; 2] = [Self::Aes256Gcm, Self::ChaCha20Poly1305];

    /// Its number in a handshake. 3 is kept for AES-256-GMAC.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Aes256Gcm => 1,
            Self::ChaCha20Poly1305 => 2,
        }
    }

    /// The suite with this number.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|suite| suite.number() == number)
    }

    /// The name used in configuration, status and labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Aes256Gcm => "aes-256-gcm",
            Self::ChaCha20Poly1305 => "chacha20-poly1305",
        }
    }

    pub(crate) const fn algorithm(self) -> &'static Algorithm {
        match self {
            Self::Aes256Gcm => &AES_256_GCM,
            Self::ChaCha20Poly1305 => &CHACHA20_POLY1305,
        }
    }

    const fn bit(self) -> u8 {
        1 << (self.number() - 1)
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The suites that a node offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suites(u8);

impl Suites {
    /// Those of a list; numbers that mean nothing here are of later versions.
    pub fn new(suites: impl IntoIterator<Item = Suite>) -> Self {
        Self(suites.into_iter().fold(0, |bits, suite| bits | suite.bit()))
    }

    /// What this machine is good at: AES only where the processor does it, which is also what makes
    /// it take the same time whatever the key.
    #[must_use]
    pub fn of_this_machine() -> Self {
        let suites = Suite::ALL.into_iter();
        Self::new(suites.filter(|suite| *suite != Suite::Aes256Gcm || has_aes()))
    }

    /// As in a handshake.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits)
    }

    /// As in a handshake.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Those that are in both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether `suite` is among them.
    #[must_use]
    pub const fn has(self, suite: Suite) -> bool {
        self.0 & suite.bit() != 0
    }

    /// The one that is taken.
    #[must_use]
    pub fn best(self) -> Option<Suite> {
        Suite::ALL.into_iter().find(|suite| self.has(*suite))
    }
}

#[cfg(target_arch = "x86_64")]
fn has_aes() -> bool {
    std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq")
}

#[cfg(target_arch = "aarch64")]
fn has_aes() -> bool {
    std::arch::is_aarch64_feature_detected!("aes")
        && std::arch::is_aarch64_feature_detected!("pmull")
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn has_aes() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aes_is_taken_where_both_have_it_and_chacha_elsewhere() {
        let both = Suites::new(Suite::ALL);
        let chacha = Suites::new([Suite::ChaCha20Poly1305]);
        assert_eq!(both.and(both).best(), Some(Suite::Aes256Gcm));
        assert_eq!(both.and(chacha).best(), Some(Suite::ChaCha20Poly1305));
        assert_eq!(chacha.and(Suites::new([Suite::Aes256Gcm])).best(), None);
        assert_eq!(Suites::from_bits(0xfc).and(both).best(), None);
        assert!(Suites::of_this_machine().has(Suite::ChaCha20Poly1305));
    }

    #[test]
    fn numbers_lead_back() {
        for suite in Suite::ALL {
            assert_eq!(Suite::from_number(suite.number()), Some(suite));
        }
        assert_eq!(Suite::from_number(0), None);
        assert_eq!(Suite::from_number(3), None);
    }
}
