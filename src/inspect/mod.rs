//! Commands that look at a running daemon: `culvert status`, `culvert explain`, `culvert capture`.

mod capture;
mod explain;
mod status;

pub(crate) use capture::{CaptureArgs, run as run_capture};
pub(crate) use explain::{ExplainArgs, run as run_explain};
pub(crate) use status::{StatusArgs, run as run_status};
