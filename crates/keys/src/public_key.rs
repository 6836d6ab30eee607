//! What others know a node's key by.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Length of an X25519 public key.
pub const KEY_LEN: usize = 32;

/// The X25519 public key of a node.
///
/// Always canonical, so that one key has one form, and never one of the few points with which every
/// agreement is known in advance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; KEY_LEN]);

/// Why something is no public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPublicKey {
    /// The text is no base64 of 32 bytes.
    #[error("not 32 bytes in base64, which are 44 characters")]
    Text,
    /// The number is not less than 2^255 − 19, so that another number is the same key.
    #[error("not the canonical form of an X25519 public key")]
    NotCanonical,
    /// Whoever has this as a key can be imitated by anybody.
    #[error("a point of small order, which is nobody's key")]
    SmallOrder,
}

/// 2^255 − 19, the least significant byte first.
const PRIME: [u8; KEY_LEN] = {
    let mut bytes = [0xff; KEY_LEN];
    bytes[0] = 0xed;
    bytes[31] = 0x7f;
    bytes
};

/// The canonical points of small order on Curve25519 and its twist: 0, 1, −1, and two of order 8.
const SMALL_ORDER: [[u8; KEY_LEN]; 5] = {
    let zero = [0; KEY_LEN];
    let mut one = zero;
    one[0] = 1;
    let mut minus_one = PRIME;
    minus_one[0] = 0xec;
    [
        zero,
        one,
        minus_one,
        [
            0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f,
            0xc4, 0x6a, 0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16,
            0x5f, 0x49, 0xb8, 0x00,
        ],
        [
            0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83,
            0xef, 0x5b, 0x04, 0x44, 0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd,
            0xd0, 0x9f, 0x11, 0x57,
        ],
    ]
};

impl PublicKey {
    /// Checks what somebody says is a public key.
    ///
    /// # Errors
    ///
    /// It has a second form, or is of small order.
    pub fn new(bytes: [u8; KEY_LEN]) -> Result<Self, InvalidPublicKey> {
        if bytes.iter().rev().ge(PRIME.iter().rev()) {
            return Err(InvalidPublicKey::NotCanonical);
        }
        if SMALL_ORDER.contains(&bytes) {
            return Err(InvalidPublicKey::SmallOrder);
        }
        Ok(Self(bytes))
    }

    /// As it is on the wire and in the arithmetic.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&STANDARD.encode(self.0))
    }
}

impl FromStr for PublicKey {
    type Err = InvalidPublicKey;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // Room for what 44 characters can hold; a longer text does not fit and is refused.
        let mut bytes = [0; KEY_LEN + 1];
        match STANDARD.decode_slice(text, &mut bytes) {
            Ok(KEY_LEN) => {}
            Ok(_) | Err(_) => return Err(InvalidPublicKey::Text),
        }
        let mut key = [0; KEY_LEN];
        key.copy_from_slice(&bytes[..KEY_LEN]);
        Self::new(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_one_text() {
        // Bob's public key in RFC 7748, 6.1.
        let text = "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=";
        let key: PublicKey = text.parse().unwrap();
        assert_eq!(key.as_bytes()[..4], [0xde, 0x9e, 0xdb, 0x7d]);
        assert_eq!(key.to_string(), text);
    }

    #[test]
    fn what_has_a_second_form_is_refused() {
        let mut high_bit = [7; KEY_LEN];
        high_bit[31] = 0x87;
        let mut above = PRIME;
        above[0] += 1;
        for bytes in [high_bit, PRIME, above, [0xff; KEY_LEN]] {
            assert_eq!(PublicKey::new(bytes), Err(InvalidPublicKey::NotCanonical));
        }
        let mut below = PRIME;
        below[0] -= 2;
        assert!(PublicKey::new(below).is_ok());
    }

    #[test]
    fn what_is_nobodys_key_is_refused() {
        for bytes in SMALL_ORDER {
            assert_eq!(PublicKey::new(bytes), Err(InvalidPublicKey::SmallOrder));
        }
    }

    #[test]
    fn what_is_not_32_bytes_in_base64_is_refused() {
        let good = STANDARD.encode([9; KEY_LEN]);
        assert!(good.parse::<PublicKey>().is_ok());
        let texts =
            ["", "AAAA", &good[..43], &format!("{good}="), &format!("{good}\n"), &"A".repeat(4000)];
        for text in texts {
            assert_eq!(text.parse::<PublicKey>(), Err(InvalidPublicKey::Text), "{text}");
        }
    }
}
