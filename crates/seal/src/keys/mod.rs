//! What a node proves who it is with: its static key, the public keys of others, and secrets that a
//! whole cluster shares.
//!
//! Owns the files that keys are kept in. Blocks its caller while it reads and writes them. Secrets
//! are zeroed when they are dropped, `Debug` does not show them, and comparing them takes the same
//! time whatever they are.

mod error;
mod key_id;
mod node_key;
mod psk;
mod secret_file;
mod shared_secret;

pub use culvert_keys::{InvalidPublicKey, KEY_LEN, PublicKey};

pub use self::error::Error;
pub use self::key_id::KeyId;
pub use self::node_key::{FILE_NAME, NodeKey};
pub use self::psk::Psk;
pub use self::shared_secret::SharedSecret;
