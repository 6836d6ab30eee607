//! The ways of packets to and from the kernel, and all `unsafe` code of this crate.
//!
//! Owns TUN queues, UDP sockets, wake-ups and the clock. Never contains policy.

pub mod clock;
mod error;
pub mod overflows;
pub mod tun;
pub mod udp;
pub mod wake;

pub use error::{Error, Result};
