//! Measures Culvert against other pod networks, on one machine, in one interleaved run.
//!
//! Owns the networks to compare, the traffic between their pods, and what is made of the figures.
//! Knows Culvert as a user does, by its programs and files; only [`micro`] looks inside.
//! `docs/performance.md` has the method.

mod churn;
pub mod cli;
mod compare;
mod growth;
mod machine;
mod metric;
pub mod micro;
mod mixed;
mod networks;
mod programs;
mod progress;
mod report;
mod search;
mod settings;
#[cfg(feature = "sources")]
mod sources;
mod statistics;
mod traffic;
mod usage;
