//! Every system call, ioctl, netlink message and system program, and all `unsafe` code.
//!
//! Owns the ways to the kernel. Never contains policy: callers decide what should be, this says
//! how.

pub(crate) mod allocator;
pub(crate) mod arp;
pub mod claim;
pub(crate) mod knock;
pub(crate) mod listener;
pub(crate) mod memory;
pub(crate) mod netlink;
pub(crate) mod process;
pub(crate) mod sysctl;
pub(crate) mod timekeeping;
