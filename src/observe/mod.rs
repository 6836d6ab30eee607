//! What people and programs see of the daemon: logs, status, metrics, health.
//!
//! Runs on the control runtime and only reads. What it shows, the composition root hands it as a
//! function that takes a [`Status`]; a slow or hostile client costs a bounded number of connections.

mod admin;
mod http;
mod limit;
mod log;
mod status;

pub use admin::{AdminSocket, query};
pub use http::serve_http;
pub use log::{Format, start_logging};
pub use status::{PeerStatus, Status, TableStatus, TunnelStatus, UnderlayStatus};

use std::sync::Arc;

/// Where the present status comes from.
pub type StatusSource = Arc<dyn Fn() -> Status + Send + Sync>;
