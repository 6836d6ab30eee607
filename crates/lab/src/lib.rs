//! Nodes and pods as network namespaces on one machine, for the demo, the tests and the bench.
//!
//! Owns the machines, the wires between them, and the parts of the people and programs around a
//! daemon: the administrator who writes its files, the service manager that starts and stops it,
//! the container runtime that calls the plugin. Drives the same programs a user runs and knows
//! nothing of the daemon's inside. Everything here blocks its caller and has a deadline.
//!
//! ```text
//!  NAME-node1 eth0 192.168.1.11 ─┐   NAME-switch
//!  NAME-node2 eth0 192.168.1.12 ─┼── bridge 192.168.1.1, default gateway of the nodes;
//!  NAME-node3 eth0 192.168.1.13 ─┘   lo 203.0.113.1, the world outside the cluster
//! ```
//!
//! Each node also has fd00:192:168:1::11 and so on, and the world outside 2001:db8:ffff::1. Node N
//! owns 10.244.N.0/24, fd00:10:244:N::/64, or both.

mod builder;
mod cli;
pub mod clock;
mod demo;
mod fault;
mod files;
pub mod interrupt;
mod ip;
mod netns;
mod network;
mod node;
mod output;
mod plan;
mod pod;
mod policy;
pub mod probe;
mod process;
mod relay;
mod render;
mod teardown;
mod topology;
mod wait;

pub use builder::LabBuilder;
pub use cli::{LabArgs, run};
pub use fault::Fault;
pub use files::names;
pub use netns::Netns;
pub use network::Lab;
pub use node::{Node, Standing};
pub use plan::{Families, Place, Plan};
pub use pod::{POD_INTERFACE, Pod};
pub use policy::POD_NAMESPACE;
pub use render::{OBSERVE_ADDRESS, TableFile, TableNode, UNDERLAY_PORT};
pub use teardown::{Removed, down};
pub use topology::NODE_INTERFACE;
pub use wait::{wait_for, wait_until};

/// The lab that the command line means unless told otherwise.
pub const DEFAULT_NAME: &str = "lab";
