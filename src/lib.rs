//! Culvert, a userspace pod-network overlay.
//!
//! One daemon per node owns a TUN device attached to the pod network, puts inter-node pod packets
//! in UDP toward the node that the subnet table lists, and unpacks what arrives. `ARCHITECTURE.md`
//! has the modules and the direction of their dependencies, which `tests/layers.rs` enforces.

mod app;
mod cli;
mod cni_install;
mod compose;
mod doctor;
mod inspect;
mod ipam;
mod kubectl;
#[cfg(feature = "databases")]
mod manifest;
#[cfg(feature = "databases")]
mod migrate;
mod reach;
mod ui;

// What the tests and the fuzzing of this workspace use. These modules keep the rest to this crate.
pub mod config;
pub mod control;
pub mod explain;
pub mod lifecycle;
pub mod observe;
pub mod pcap;
pub mod platform;
pub mod replay;

pub use cli::{command, completion, main};
