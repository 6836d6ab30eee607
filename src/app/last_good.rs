//! The last good table on disk, for a start while the source is away.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use culvert_dataplane::engine::Overlay;
use culvert_dataplane::platform::clock;

use crate::control::source::{Parameters, Proposal, Saved};
use crate::platform::allocator;

/// Time between two copies of a large table on disk at least. What is lost with a machine is this
/// much of the cluster's changes, and only until the source answers.
const SAVE_EVERY: Duration = Duration::from_secs(10);

/// Tables of up to so many nodes are kept whenever they change: that is a few kilobytes.
const SMALL: usize = 256;

/// When a copy is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    /// Now, unless the table is large and the last copy is young.
    Due,
    /// Now.
    Now,
}

/// The copy, and whether it is of the table in force.
pub(super) struct LastGood {
    state_dir: PathBuf,
    node: String,
    /// What the source is called: the table of another source does not count.
    source: String,
    written: Option<Instant>,
    outdated: bool,
}

impl LastGood {
    pub(super) fn new(state_dir: PathBuf, node: String, source: String) -> Self {
        Self { state_dir, node, source, written: None, outdated: false }
    }

    /// Takes note that another table is in force.
    pub(super) fn outdate(&mut self) {
        self.outdated = true;
    }

    /// Writes `proposal`, which is in force with `overlay`, if the copy is outdated.
    pub(super) async fn keep(&mut self, proposal: &Proposal, overlay: &Overlay, when: When) {
        let now = clock::now();
        let is_young = |written| now.saturating_duration_since(written) < SAVE_EVERY;
        let may_wait = when == When::Due && proposal.nodes().nth(SMALL).is_some();
        if !self.outdated || (may_wait && self.written.is_some_and(is_young)) {
            return;
        }
        self.outdated = false;
        self.written = Some(now);
        let saved = Saved::of(&self.node, &self.source, Parameters::of(overlay), proposal);
        let state_dir = self.state_dir.clone();
        let written = tokio::task::spawn_blocking(move || {
            let written = saved.write(&state_dir);
            drop(saved);
            allocator::give_back();
            written
        });
        let written = written.await;
        if let Err(error) = written.map_err(anyhow::Error::new).and_then(std::convert::identity) {
            tracing::warn!(error = format!("{error:#}"), "the last good table is not kept");
        }
    }

    /// What was kept, if there is a copy that can be understood.
    pub(super) fn read(&self) -> Option<Proposal> {
        match Saved::read(&self.state_dir, &self.node, &self.source) {
            Ok(saved) => saved.map(Saved::proposal),
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "the last good table is of no use");
                None
            }
        }
    }
}
