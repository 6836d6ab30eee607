//! Commands that look at a running daemon: `culvert status`, `culvert explain`, `culvert capture`,
//! `culvert flows`, `culvert top`, `culvert ping`, `culvert trace`, `culvert support`.

mod absent;
mod capture;
mod ends;
mod explain;
mod flows;
mod ping;
mod status;
mod support;
mod top;
mod trace;
mod units;

pub(crate) use capture::{CaptureArgs, run as run_capture};
pub(crate) use explain::{ExplainArgs, run as run_explain};
pub(crate) use flows::{FlowsArgs, run as run_flows};
pub(crate) use ping::{PingArgs, run as run_ping};
pub(crate) use status::{StatusArgs, run as run_status};
pub(crate) use support::{SupportArgs, run as run_support};
pub(crate) use top::{TopArgs, run as run_top};
pub(crate) use trace::{TraceArgs, run as run_trace};
