//! The keys that live for one handshake.

use std::fmt;

use aws_lc_rs::agreement::{self, PrivateKey, UnparsedPublicKey, X25519};
use aws_lc_rs::kem::{DecapsulationKey, ML_KEM_768};
use zeroize::Zeroizing;

use super::{ENCAPSULATION_KEY_LEN, PostQuantum, Refused};
use crate::keys::{KEY_LEN, PublicKey};

/// An X25519 key and, where post-quantum security is asked for, one of ML-KEM-768.
///
/// The cryptographic library zeroes both when they are dropped.
pub struct Ephemeral {
    dh: PrivateKey,
    public: [u8; KEY_LEN],
    kem: Option<Kem>,
}

/// The ML-KEM part, and the public half of it.
pub(super) struct Kem {
    pub(super) key: DecapsulationKey,
    pub(super) public: Box<[u8; ENCAPSULATION_KEY_LEN]>,
}

impl Kem {
    fn generate() -> Result<Self, Refused> {
        let key = DecapsulationKey::generate(&ML_KEM_768).map_err(|_| Refused)?;
        let public = key.encapsulation_key().and_then(|public| public.key_bytes());
        let public = public.map_err(|_| Refused)?.as_ref().try_into().map_err(|_| Refused)?;
        Ok(Self { key, public: Box::new(public) })
    }
}

impl Ephemeral {
    /// Of whoever begins. `secret` is random and used for nothing else; ML-KEM draws its own.
    ///
    /// # Errors
    ///
    /// The cryptographic library refuses.
    pub fn of_initiator(
        post_quantum: PostQuantum,
        secret: &Zeroizing<[u8; KEY_LEN]>,
    ) -> Result<Self, Refused> {
        let kem = match post_quantum {
            PostQuantum::Require => Some(Kem::generate()?),
            PostQuantum::Off => None,
        };
        Self::new(secret, kem)
    }

    /// Of whoever answers, who needs no key for ML-KEM.
    ///
    /// # Errors
    ///
    /// The cryptographic library refuses.
    pub fn of_responder(secret: &Zeroizing<[u8; KEY_LEN]>) -> Result<Self, Refused> {
        Self::new(secret, None)
    }

    pub(super) fn new(
        secret: &Zeroizing<[u8; KEY_LEN]>,
        kem: Option<Kem>,
    ) -> Result<Self, Refused> {
        let dh = PrivateKey::from_private_key(&X25519, &secret[..]).map_err(|_| Refused)?;
        let public = dh.compute_public_key().map_err(|_| Refused)?;
        let public = public.as_ref().try_into().map_err(|_| Refused)?;
        Ok(Self { dh, public, kem })
    }

    pub(super) fn public(&self) -> &[u8; KEY_LEN] {
        &self.public
    }

    pub(super) fn kem(&self) -> Option<&Kem> {
        self.kem.as_ref()
    }

    pub(super) fn agree(&self, peer: &PublicKey) -> Result<Zeroizing<[u8; KEY_LEN]>, Refused> {
        let peer = UnparsedPublicKey::new(&X25519, peer.as_bytes());
        agreement::agree(&self.dh, peer, Refused, |shared| {
            shared.try_into().map(Zeroizing::new).map_err(|_| Refused)
        })
    }
}

impl fmt::Debug for Ephemeral {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ephemeral(hidden)")
    }
}
