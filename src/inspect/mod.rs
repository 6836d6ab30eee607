//! Commands that look at packets of a running daemon: `culvert explain`, `culvert capture`.

mod capture;
mod explain;

pub(crate) use capture::{CaptureArgs, run as run_capture};
pub(crate) use explain::{ExplainArgs, run as run_explain};
