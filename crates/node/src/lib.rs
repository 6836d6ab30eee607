//! What the daemon and the CNI plugin of a node share.
//!
//! Owns the node file, by which the daemon tells the plugin how to attach pods; the notes that the
//! plugin leaves on pods' ports, and the rules that follow from them; the store of addresses; what
//! the plugin asks the daemon where policies are enforced. Blocks its caller. Never decides what a
//! verb does and never carries a packet.

#![deny(unsafe_code)]

pub mod attachment;
pub mod bounded_file;
pub mod host_ports;
pub mod ipam;
pub mod living;
pub mod netns;
pub mod node_file;
pub mod pod_admission;
pub mod pod_mac;
pub mod pod_port;
pub mod private_socket;
mod protocol;
pub mod readiness;
pub mod source_check;
pub mod whole_file;
pub mod words;

pub use crate::attachment::{Attachment, InvalidName};

/// A socket for route netlink, in the network namespace that the opening thread was in.
type Socket = culvert_netlink::Socket<culvert_netlink::Rtnetlink>;
