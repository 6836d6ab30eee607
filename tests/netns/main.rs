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
mod breaks;
mod capture;
mod chained;
mod churn;
mod cleanup;
mod connectivity;
mod conntrack;
mod doctor;
mod drops;
mod eavesdrop;
mod ecn;
mod exercises;
mod flood;
mod flows;
mod forged;
mod fragments;
mod guard;
mod harness;
mod host_ports;
mod hostile;
mod inspect;
mod interop;
mod ipam;
mod key_log;
mod monitoring;
mod mtu;
mod observe;
mod packets;
mod path_errors;
mod plugin;
mod pod;
mod policy;
mod preflight;
mod probes;
mod reach;
mod repair;
mod restart;
mod scale;
mod scapy;
mod schemas;
mod sealed;
mod sealed_changes;
mod sealed_hostile;
mod sealed_traffic;
mod stall;
mod stream;
mod supervised;
mod table;
mod translation;
mod truth;
mod unprivileged;
mod unreachable;
#[path = "../schemas/validator.rs"]
mod validator;
