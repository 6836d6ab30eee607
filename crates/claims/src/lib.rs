//! What a node asks of the table source that its cluster shares, and what it makes of the answers.
//!
//! Owns how a node comes to its subnets in etcd ([`etcd::Claims`]) and by its Node object in
//! Kubernetes ([`kubernetes::Follower`]), and the words in which any source tells the daemon what
//! it sees. The machines are pure: time, answers and which addresses pods hold are arguments, so
//! that a driver and a simulation run the same code. Never opens a socket or a file, reads a clock,
//! or awaits. A machine asks for one thing at a time, so that whoever is slow makes it wait.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod etcd;
pub mod kubernetes;
mod parameters;
mod pods;
mod proposal;
mod published;
mod update;

pub use culvert_membership::NodeKeys;
pub use parameters::Parameters;
pub use pods::{HeldAddress, PodsUnknown};
pub use proposal::{Proposal, TableText};
pub use published::{Published, PublishedError};
pub use update::{Candidate, Update};
