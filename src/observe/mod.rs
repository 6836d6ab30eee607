//! What people and programs see of the daemon: logs, status, metrics, health.
//!
//! Runs on the control runtime and only reads. What it shows, the composition root hands it as a
//! function or as [`Observed`]; a slow or hostile client costs a bounded number of
//! connections.

mod admin;
mod document;
mod flows;
mod http;
mod limit;
mod log;
mod ping;
mod pods;
mod policy;
mod scrape;
mod setup;
mod status;
mod tables;
mod trace;

pub use admin::{AdminSocket, CaptureQuery, Services};
pub(crate) use admin::{
    CaptureStream, ask, examine, find, knock, open_capture, open_flows, ping, pods, query, tables,
    trace,
};
pub(crate) use document::Document;
pub(crate) use flows::protocol_name;
pub use flows::{FLOW_SCHEMA, FlowBatch, FlowDirection, FlowRecord, FlowStart, FlowWord};
pub(crate) use http::{PeerSeries, serve_http};
pub(crate) use limit::Limited;
pub(crate) use log::{Format, finish_logging, say_at_last, start_logging};
pub use ping::{PingPath, PingQuestion, PingRound};
pub use pods::PodStatus;
pub use policy::PolicyStatus;
pub use scrape::{Observed, PeerTotals, Scrape, Tally};
pub use setup::Setup;
pub use status::{
    AddressUse, Handshakes, LastDrop, LostPath, PathStatus, PeerStatus, ProbeStatus, ProcessStatus,
    SCHEMA, SealedStatus, SessionStatus, Spoken, Status, TableStatus, Times, Told, TunnelStatus,
    UnderlayStatus,
};
pub(crate) use status::{Selection, Sort};
pub use tables::PeerTable;
pub use trace::{CUT, FailingChecks, TraceHalf, TraceReport};

use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::sync::Arc;

use crate::explain::{Explanation, Question};

/// Where the present status comes from.
pub(crate) type StatusSource = Arc<dyn Observed>;

/// Where it is said how the node is to be set up.
pub(crate) type SetupSource = Arc<dyn Fn() -> anyhow::Result<Setup> + Send + Sync>;

/// Where questions about packets are answered.
pub(crate) type ExplainSource = Arc<dyn Fn(&Question) -> anyhow::Result<Explanation> + Send + Sync>;

/// Where peers are asked.
pub(crate) type PingSource = Arc<dyn Fn(PingQuestion) -> Pinging + Send + Sync>;

/// The answers of a peer, when they are there.
pub(crate) type Pinging = Pin<Box<dyn Future<Output = anyhow::Result<PingRound>> + Send>>;

/// Where peers are asked for their tables.
pub(crate) type TablesSource = Arc<dyn Fn() -> Comparing + Send + Sync>;

/// What all peers say, when it is there.
pub(crate) type Comparing = Pin<Box<dyn Future<Output = anyhow::Result<Vec<PeerTable>>> + Send>>;

/// Where packets are followed through both nodes.
pub(crate) type TraceSource = Arc<dyn Fn(Question) -> Tracing + Send + Sync>;

/// What both nodes say, when it is there.
pub(crate) type Tracing = Pin<Box<dyn Future<Output = anyhow::Result<TraceReport>> + Send>>;
/// Where this node's pods are asked for; waits for the kernel.
pub(crate) type PodSource = Arc<dyn Fn() -> anyhow::Result<Vec<PodStatus>> + Send + Sync>;
/// Where the addresses of a pod are found by its name.
pub(crate) type FindSource = Arc<dyn Fn(&str) -> anyhow::Result<Vec<IpAddr>> + Send + Sync>;

/// What starts a capture that is written to the connection, which it keeps.
pub(crate) type CaptureSource =
    Arc<dyn Fn(CaptureQuery, UnixStream) -> anyhow::Result<()> + Send + Sync>;

/// What streams flows to the connection, which it keeps.
pub(crate) type FlowSource = Arc<dyn Fn(UnixStream) -> anyhow::Result<()> + Send + Sync>;
