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
    /// Whether the last copy could not be written, which was said then.
    is_failing: bool,
}

impl LastGood {
    pub(super) fn new(state_dir: PathBuf, node: String, source: String) -> Self {
        Self { state_dir, node, source, written: None, outdated: false, is_failing: false }
    }

    /// Takes note that another table is in force.
    pub(super) fn outdate(&mut self) {
        self.outdated = true;
    }

    /// Writes `proposal`, which is in force with `overlay`, if the copy is outdated. What fails is
    /// tried again with the next call.
    pub(super) async fn keep(&mut self, proposal: &Proposal, overlay: &Overlay, when: When) {
        let now = clock::now();
        let is_young = |written| now.saturating_duration_since(written) < SAVE_EVERY;
        let may_wait = when == When::Due && proposal.nodes().nth(SMALL).is_some();
        if !self.outdated || (may_wait && self.written.is_some_and(is_young)) {
            return;
        }
        self.written = Some(now);
        let saved = Saved::of(&self.node, &self.source, Parameters::of(overlay), proposal);
        let state_dir = self.state_dir.clone();
        let written = tokio::task::spawn_blocking(move || {
            let written = saved.write(&state_dir);
            drop(saved);
            allocator::give_back();
            written
        });
        let written = written.await.map_err(anyhow::Error::new).flatten();
        self.outdated = written.is_err();
        let was_failing = std::mem::replace(&mut self.is_failing, written.is_err());
        match written {
            Err(error) if !was_failing => {
                let error = format!("{error:#}");
                tracing::warn!(error, "the last good table is not kept; trying again");
            }
            Ok(()) if was_failing => tracing::info!("the last good table is kept again"),
            Ok(()) | Err(_) => {}
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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::app::fixture;

    #[tokio::test]
    async fn copy_that_could_not_be_written_is_written_later() {
        let directory = tempfile::tempdir().unwrap();
        let state_dir = directory.path().join("state");
        let mut last_good = LastGood::new(state_dir.clone(), "node1".into(), "file t".into());
        let members = fixture::table(&[("node1", 11)]);
        // As on a full disk, but for root too.
        fs::write(&state_dir, "").unwrap();
        last_good.outdate();
        last_good.keep(&Proposal::default(), members.overlay(), When::Due).await;
        fs::remove_file(&state_dir).unwrap();
        last_good.keep(&Proposal::default(), members.overlay(), When::Due).await;
        assert!(last_good.read().is_some());
    }
}
