//! The public keys by which nodes are known, as tables have them.
//!
//! Owns which bytes and which text are such a key. Does no arithmetic with it and needs no
//! cryptographic library, so that whatever only carries keys builds without one.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod public_key;

pub use public_key::{InvalidPublicKey, KEY_LEN, PublicKey};
