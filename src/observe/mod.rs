//! What people and programs see of the daemon: logs, status, metrics, health.
//!
//! Runs on the control runtime and only reads. What it shows, the composition root hands it as a
//! function that takes a [`Status`]; a slow or hostile client costs a bounded number of
//! connections.

mod admin;
mod http;
mod limit;
mod log;
mod status;

pub use admin::{AdminSocket, CaptureQuery, CaptureStream, Services, ask, open_capture, query};
pub use http::serve_http;
pub use log::{Format, start_logging};
pub use status::{PeerStatus, Status, TableStatus, TunnelStatus, UnderlayStatus};

use std::os::unix::net::UnixStream;
use std::sync::Arc;

use crate::explain::{Explanation, Question};

/// Where the present status comes from.
pub type StatusSource = Arc<dyn Fn() -> Status + Send + Sync>;

/// Where questions about packets are answered.
pub type ExplainSource = Arc<dyn Fn(&Question) -> anyhow::Result<Explanation> + Send + Sync>;

/// What starts a capture that is written to the connection, which it keeps.
pub type CaptureSource = Arc<dyn Fn(CaptureQuery, UnixStream) -> anyhow::Result<()> + Send + Sync>;
