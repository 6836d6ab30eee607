//! Measures Culvert against other pod networks, on one machine, in one interleaved run.
//!
//! Owns the networks to compare, the traffic between their pods, and what is made of the figures.
//! Knows Culvert as a user does, by its programs and files; only [`micro`] looks inside.
//! `docs/performance.md` has the method.

mod churn;
pub mod cli;
#[cfg(feature = "sources")]
mod cluster;
mod compare;
mod growth;
mod handshakes;
mod look;
mod machine;
mod metric;
pub mod micro;
mod mixed;
mod networks;
#[cfg(feature = "sources")]
mod policy;
mod probing;
mod programs;
mod progress;
mod report;
mod sealed;
mod search;
mod session;
mod settings;
#[cfg(feature = "sources")]
mod sources;
mod stand_ins;
mod statistics;
mod target;
mod traffic;
mod usage;
