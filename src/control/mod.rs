//! What this node should be, and making it so: table sources, desired state, reconciliation.
//!
//! Runs on the control runtime. Never touches packet bytes and never makes a raw system call.

#[cfg(feature = "databases")]
mod causes;
pub(crate) mod enforce;
#[cfg(feature = "databases")]
mod etcd;
#[cfg(feature = "databases")]
mod kubernetes;
pub(crate) mod narrow_paths;
pub mod node;
pub mod policy;
pub(crate) mod secrets;
pub mod source;
mod stamp;
pub(crate) mod sweep;
pub mod table_file;
mod worker;
