//! The Noise handshake: KK with X25519, ML-KEM-768 and a pre-shared key.
//!
//! `Noise_KKhfs+psk2_25519+MLKEM768_AESGCM_SHA256` (Noise revision 34 with the hybrid forward
//! secrecy extension), and the same without ML-KEM for clusters that switch it off. Owns the tokens
//! of the two messages and nothing of what is around them: no datagram, no clock, no peer.
//! Ephemeral keys are arguments.

mod ephemeral;
mod initiator;
mod responder;
mod symmetric;

pub use ephemeral::Ephemeral;
pub use initiator::Initiator;
pub use responder::Responder;

use zeroize::Zeroizing;

use crate::keys::KEY_LEN;

/// Length of what a message carries for us.
pub const PAYLOAD_LEN: usize = 16;

/// Length of the tag that AES-256-GCM puts behind what it seals.
const TAG_LEN: usize = 16;

/// Lengths of ML-KEM-768 (FIPS 203, table 3).
const ENCAPSULATION_KEY_LEN: usize = 1184;
const CIPHERTEXT_LEN: usize = 1088;

/// Whether a handshake withstands who can break X25519.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PostQuantum {
    /// ML-KEM-768 beside X25519: both must be broken.
    #[default]
    Require,
    /// X25519 alone.
    Off,
}

impl PostQuantum {
    /// The protocol's name, which is the first thing that is hashed.
    const fn protocol(self) -> &'static str {
        match self {
            Self::Require => "Noise_KKhfs+psk2_25519+MLKEM768_AESGCM_SHA256",
            Self::Off => "Noise_KKpsk2_25519_AESGCM_SHA256",
        }
    }

    /// Length of the first message.
    #[must_use]
    pub const fn first_len(self) -> usize {
        let kem = match self {
            Self::Require => ENCAPSULATION_KEY_LEN + TAG_LEN,
            Self::Off => 0,
        };
        KEY_LEN + kem + PAYLOAD_LEN + TAG_LEN
    }

    /// Length of the second message.
    #[must_use]
    pub const fn second_len(self) -> usize {
        let kem = match self {
            Self::Require => CIPHERTEXT_LEN + TAG_LEN,
            Self::Off => 0,
        };
        KEY_LEN + kem + PAYLOAD_LEN + TAG_LEN
    }
}

/// What a message carries for us.
pub type Payload = [u8; PAYLOAD_LEN];

/// What the two ends share when both messages have been read: a secret for each direction.
#[derive(Clone)]
pub struct Split {
    /// From whoever began.
    pub from_initiator: Zeroizing<[u8; KEY_LEN]>,
    /// From whoever answered.
    pub from_responder: Zeroizing<[u8; KEY_LEN]>,
}

/// Why a message was refused, which is all that is said: details would help only an attacker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the message was not made with the keys that it should have been made with")]
pub struct Refused;

#[cfg(test)]
mod tests;
