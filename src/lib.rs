//! Culvert, a userspace pod-network overlay.
//!
//! One daemon per node owns a TUN device attached to the pod network, puts inter-node pod packets
//! in UDP toward the node that the subnet table lists, and unpacks what arrives. `ARCHITECTURE.md`
//! has the modules and the direction of their dependencies, which `tests/layers.rs` enforces.

pub mod app;
pub mod cli;
pub mod cni_install;
pub mod config;
pub mod control;
pub mod explain;
pub mod inspect;
pub mod ipam;
pub mod lifecycle;
pub mod observe;
pub mod pcap;
pub mod platform;
pub mod replay;

pub(crate) use culvert_dataplane::engine;
