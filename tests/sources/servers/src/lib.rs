//! What tests and bench have table sources talk to: a real etcd, and a stand-in for the Kubernetes
//! API. Both end with their values.

#![expect(clippy::unwrap_used, reason = "a test may fail where it stands")]

pub mod api_server;
pub mod etcd;
mod gateway;

pub use api_server::ApiServer;
pub use etcd::Etcd;
pub use gateway::Gateway;
