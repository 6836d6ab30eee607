//! The overlay end to end: nodes and pods as network namespaces, the real daemon and the real
//! plugin.
//!
//! Needs root, iproute2, nftables and a built plugin; without them every test fails and says so.
//! Run with `cargo build --workspace && cargo test --test netns`, and again with
//! `CULVERT_TEST_OFFLOAD=off` to have every daemon move packets without any offload. Each test has
//! a lab of its own, named after the test, which goes with it. `CULVERT_LAB_KEEP=1` keeps the lab
//! of a failing test.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says why and ends")]
#![expect(clippy::unwrap_in_result, reason = "a result is what is tested, not how the test fares")]

mod advertised;
mod capture;
mod chained;
mod cleanup;
mod conntrack;
mod eavesdrop;
mod ecn;
mod flood;
mod fragments;
mod guard;
mod harness;
mod hostile;
mod inspect;
mod interop;
mod ipam;
mod key_log;
mod mtu;
mod observe;
mod packets;
mod path_errors;
mod plugin;
mod pod;
mod preflight;
mod reach;
mod repair;
mod restart;
mod scale;
mod sealed;
mod sealed_changes;
mod sealed_hostile;
mod sealed_traffic;
mod stall;
mod stream;
mod table;
mod translation;
mod unprivileged;
mod unreachable;
