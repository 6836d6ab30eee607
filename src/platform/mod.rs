//! Every system call, ioctl, netlink message and system program, and all `unsafe` code.
//!
//! Owns the ways to the kernel. Never contains policy: callers decide what should be, this says how.

pub mod claim;
pub mod clock;
mod error;
pub mod netlink;
pub mod nft;
pub mod sysctl;
pub mod tun;
pub mod udp;
pub mod wake;

pub use error::{Error, Result};
