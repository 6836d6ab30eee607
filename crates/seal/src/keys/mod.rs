//! What a node proves who it is with: its static key, the public keys of others, and secrets that a
//! whole cluster shares.
//!
//! Owns the files that keys are kept in. Blocks its caller while it reads and writes them. Secrets
//! are zeroed when they are dropped, `Debug` does not show them, and comparing them takes the same
//! time whatever they are.

mod error;
mod node_key;
mod psk;
mod public_key;
mod secret_file;
mod shared_secret;

pub use self::error::Error;
pub use self::node_key::{FILE_NAME, NodeKey};
pub use self::psk::Psk;
pub use self::public_key::{InvalidPublicKey, KeyId, PublicKey};
pub use self::shared_secret::SharedSecret;

/// Length of every key here: of X25519's private and public keys, and of a shared secret.
pub const KEY_LEN: usize = 32;
