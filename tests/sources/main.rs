//! Table sources against what they talk to: a real etcd, and a stand-in for the Kubernetes API.
//!
//! Needs root for the tests with whole nodes, and the program `etcd` (Debian: `etcd-server`):
//! `cargo build --workspace`, then `cargo test --test sources`.

#![expect(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod etcd;
mod etcd_faults;
mod etcd_growth;
mod flannel;
mod kubernetes;
mod listener;
mod node_faults;
mod nodes;
mod policies;
mod readme;
