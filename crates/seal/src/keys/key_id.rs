//! What stands for a public key in a handshake.

use std::fmt;

use aws_lc_rs::digest;
use culvert_keys::PublicKey;

/// The first eight bytes of a public key's SHA-256: what stands for it in a handshake's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; Self::LEN]);

impl KeyId {
    /// Its length in bytes, which is that of an IKE SPI.
    pub const LEN: usize = 8;

    /// What stands in a header; whether anybody has such a key is another question.
    #[must_use]
    pub const fn new(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// What stands for `key`.
    #[must_use]
    pub fn of(key: &PublicKey) -> Self {
        let hash = digest::digest(&digest::SHA256, key.as_bytes());
        let mut id = [0; Self::LEN];
        id.copy_from_slice(&hash.as_ref()[..Self::LEN]);
        Self(id)
    }

    /// As it is on the wire.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_one_id() {
        // Bob's public key in RFC 7748, 6.1, and what `sha256sum` says of it.
        let key = "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=".parse().unwrap();
        assert_eq!(KeyId::of(&key).to_string(), "f35e5616160a30bf");
        assert_eq!(KeyId::new(*KeyId::of(&key).as_bytes()), KeyId::of(&key));
    }
}
