//! The key of one direction of a session.

use std::fmt;

use aws_lc_rs::aead::{Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk};
use overlay_proto::Vni;
use overlay_proto::esp::{AAD_LEN, Header};
use zeroize::Zeroizing;

use crate::keys::KEY_LEN;
use crate::noise::{Refused, Split};
use crate::suite::Suite;

const SALT_LEN: usize = 4;
pub(crate) const MATERIAL_LEN: usize = KEY_LEN + SALT_LEN;

/// Which of a session's two directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From whoever began.
    FromInitiator,
    /// From whoever answered.
    FromResponder,
}

/// A key and the salt that belongs to it.
pub struct TrafficKey {
    suite: Suite,
    /// The cryptographic library zeroes it.
    key: LessSafeKey,
    salt: [u8; SALT_LEN],
}

/// The same as bytes, from which a cipher is made.
pub(crate) struct KeyMaterial {
    suite: Suite,
    /// The key, then the salt: what RFC 4106 §8.1 and RFC 7634 §4 call keying material.
    bytes: Zeroizing<[u8; MATERIAL_LEN]>,
}

struct Length;

impl KeyType for Length {
    fn len(&self) -> usize {
        MATERIAL_LEN
    }
}

impl KeyMaterial {
    /// See [`TrafficKey::derive`].
    pub(crate) fn derive(
        split: &Split,
        direction: Direction,
        suite: Suite,
        vni: Vni,
    ) -> Result<Self, Refused> {
        let secret = match direction {
            Direction::FromInitiator => &split.from_initiator,
            Direction::FromResponder => &split.from_responder,
        };
        let secret = Prk::new_less_safe(HKDF_SHA256, &secret[..]);
        let vni = vni.get().to_be_bytes();
        let info: [&[u8]; 3] = [b"culvert esp", &[suite.number()], &vni];
        let mut bytes = Zeroizing::new([0; MATERIAL_LEN]);
        let filled = secret.expand(&info, Length).and_then(|key| key.fill(&mut bytes[..]));
        filled.map_err(|_| Refused)?;
        Ok(Self { suite, bytes })
    }

    /// What somebody has written down.
    pub(crate) fn of(suite: Suite, bytes: Zeroizing<[u8; MATERIAL_LEN]>) -> Self {
        Self { suite, bytes }
    }

    /// What it is for.
    pub(crate) fn suite(&self) -> Suite {
        self.suite
    }

    /// Key and salt.
    pub(crate) fn bytes(&self) -> &[u8; MATERIAL_LEN] {
        &self.bytes
    }

    /// The key that seals and opens.
    pub(crate) fn key(&self) -> Result<TrafficKey, Refused> {
        let (key, salt) = self.bytes.split_at(KEY_LEN);
        let key = UnboundKey::new(self.suite.algorithm(), key).map_err(|_| Refused)?;
        let salt = salt.try_into().map_err(|_| Refused)?;
        Ok(TrafficKey { suite: self.suite, key: LessSafeKey::new(key), salt })
    }
}

impl TrafficKey {
    /// Derives the key of a direction from what a handshake came to.
    ///
    /// # Errors
    ///
    /// The cryptographic library refuses.
    pub fn derive(
        split: &Split,
        direction: Direction,
        suite: Suite,
        vni: Vni,
    ) -> Result<Self, Refused> {
        KeyMaterial::derive(split, direction, suite, vni)?.key()
    }

    /// What it seals with.
    #[must_use]
    pub fn suite(&self) -> Suite {
        self.suite
    }

    pub(super) fn key(&self) -> &LessSafeKey {
        &self.key
    }

    /// RFC 4106 §4, RFC 7634 §2.
    #[inline]
    pub(super) fn nonce(&self, header: Header) -> Nonce {
        let mut nonce = [0; 12];
        nonce[..SALT_LEN].copy_from_slice(&self.salt);
        nonce[SALT_LEN..].copy_from_slice(&header.iv());
        Nonce::assume_unique_for_key(nonce)
    }
}

/// SPI and sequence (RFC 4106 §5, without extended numbers).
#[inline]
pub(super) fn aad(header: Header) -> Aad<[u8; AAD_LEN]> {
    let mut aad = [0; AAD_LEN];
    aad[..4].copy_from_slice(&header.spi.get().to_be_bytes());
    aad[4..].copy_from_slice(&header.sequence.to_be_bytes());
    Aad::from(aad)
}

impl fmt::Debug for TrafficKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrafficKey").field("suite", &self.suite).finish_non_exhaustive()
    }
}

impl fmt::Debug for KeyMaterial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyMaterial").field("suite", &self.suite).finish_non_exhaustive()
    }
}
