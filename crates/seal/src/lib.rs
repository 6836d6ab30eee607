//! Sealed mode: who a node is, what two nodes agree on, and what seals and opens between them.
//!
//! Owns keys, handshakes, sessions and replay windows. Holds no socket and reads no clock: time,
//! randomness and packets are arguments. Secrets are zeroed when they are dropped and never shown.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod handshake;
mod key_line;
mod key_log;
pub mod keys;
pub mod mesh;
pub mod noise;
pub mod session;
mod suite;

pub use handshake::{MAC_LEN, MAX_LEN as MAX_HANDSHAKE_LEN, Pair, Pairs};
pub use key_line::{InvalidLine, SessionKey};
pub use key_log::{LogLine, LoggedKey};
pub use suite::{Suite, Suites};
