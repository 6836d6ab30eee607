//! The subnet table in etcd: every node claims its part, and follows the others'.
//!
//! A machine never takes anything away from the daemon because etcd is away.

mod agreement;
mod choose;
mod claims;
mod database;
mod failure;
mod keys;
mod memory;
mod peers;
mod plan;
mod protocol;
mod store;

pub use claims::{Claims, Identity};
pub use failure::Failure;
pub use memory::{Memory, Unwritten};
pub use protocol::{Change, Compare, Ended, Event, Found, KeyValue, Request, Transaction, Watched};
