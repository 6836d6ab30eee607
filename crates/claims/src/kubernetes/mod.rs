//! The subnet table of a Kubernetes cluster: each Node's podCIDRs and addresses.
//!
//! A machine follows the Nodes, and writes what this node says of itself in its own: annotations
//! for its peers, the condition that schedulers go by, and the end of the startup taint. It never
//! takes anything away from the daemon because the API server is away.

mod failure;
mod flannel;
mod follower;
mod node;
mod publish;

pub use follower::{Ended, Follower, Identity, Patch, Request, Watched};
pub use node::{Carrier, Node, Sight};
pub use publish::{Desired, TIMES};
