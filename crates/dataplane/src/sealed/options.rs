//! How sealed mode is set up.

use std::sync::mpsc::SyncSender;

use culvert_seal::LogLine;
use culvert_seal::mesh::{Config, Identity};

use crate::engine::SealedMode;

/// How a node seals. Port, mode and configuration do not change while it runs; the identity is what
/// it starts with.
#[derive(Clone, Debug)]
pub struct SealedOptions {
    /// UDP port of every node that seals.
    pub port: u16,
    /// How strict the node is.
    pub mode: SealedMode,
    /// What handshakes are made of. The lanes follow from the number of workers.
    pub config: Config,
    /// What the node proves who it is with.
    pub identity: Identity,
    /// Where the keys of sessions go, if somebody writes them down. What does not fit is lost:
    /// nothing waits for a disk.
    pub key_log: Option<SyncSender<LogLine>>,
}
