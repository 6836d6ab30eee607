//! The keys that live for one handshake.

use std::fmt;

use aws_lc_rs::agreement::{self, PrivateKey, UnparsedPublicKey, X25519};
use aws_lc_rs::kem::{DecapsulationKey, ML_KEM_768};
use zeroize::Zeroizing;

use super::{ENCAPSULATION_KEY_LEN, PostQuantum, Refused};
use crate::keys::{KEY_LEN, PublicKey};

/// An X25519 key and, where post-quantum security is asked for, one of ML-KEM-768, before anybody
/// has been told their public halves.
pub struct Ephemeral {
    pub(super) private: Private,
    pub(super) public: [u8; KEY_LEN],
    pub(super) kem_public: Option<Box<[u8; ENCAPSULATION_KEY_LEN]>>,
}

/// The private halves, which whoever begins keeps until the answer has come.
///
/// The cryptographic library zeroes both when they are dropped.
pub(super) struct Private {
    dh: PrivateKey,
    pub(super) kem: Option<DecapsulationKey>,
}

/// The ML-KEM part.
pub(super) struct Kem {
    key: DecapsulationKey,
    public: Box<[u8; ENCAPSULATION_KEY_LEN]>,
}

impl Kem {
    fn generate() -> Result<Self, Refused> {
        let key = DecapsulationKey::generate(&ML_KEM_768).map_err(|_| Refused)?;
        Self::of_bytes(key.key_bytes().map_err(|_| Refused)?.as_ref())
    }

    /// Of what FIPS 203 calls a decapsulation key. A key that is made of it holds a third less than
    /// one that was generated, which has its public half a second time.
    pub(super) fn of_bytes(bytes: &[u8]) -> Result<Self, Refused> {
        /// Algorithm 16: the encapsulation key lies within, behind what only its owner has.
        const PUBLIC_AT: usize = 1152;
        let public = bytes.get(PUBLIC_AT..).and_then(|rest| rest.first_chunk()).ok_or(Refused)?;
        let key = DecapsulationKey::new(&ML_KEM_768, bytes).map_err(|_| Refused)?;
        Ok(Self { key, public: Box::new(*public) })
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
        let (kem, kem_public) = kem.map(|kem| (kem.key, kem.public)).unzip();
        Ok(Self { private: Private { dh, kem }, public, kem_public })
    }
}

impl Private {
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
