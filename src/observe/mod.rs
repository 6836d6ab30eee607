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

pub use admin::{AdminSocket, CaptureQuery, Services};
pub(crate) use admin::{CaptureStream, ask, open_capture, query};
pub(crate) use http::serve_http;
pub(crate) use log::{Format, finish_logging, say_at_last, start_logging};
pub use status::{
    Handshakes, PeerStatus, SCHEMA, SealedStatus, Status, TableStatus, TunnelStatus, UnderlayStatus,
};
pub(crate) use status::{Selection, Sort};

use std::os::unix::net::UnixStream;
use std::sync::Arc;

use crate::explain::{Explanation, Question};

/// Where the present status comes from.
pub(crate) type StatusSource = Arc<dyn Fn() -> Status + Send + Sync>;

/// Where questions about packets are answered.
pub(crate) type ExplainSource = Arc<dyn Fn(&Question) -> anyhow::Result<Explanation> + Send + Sync>;

/// What starts a capture that is written to the connection, which it keeps.
pub(crate) type CaptureSource =
    Arc<dyn Fn(CaptureQuery, UnixStream) -> anyhow::Result<()> + Send + Sync>;
