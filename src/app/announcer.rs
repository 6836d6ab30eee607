//! Telling everybody else whether this node carries packets: the readiness and the node file.
//!
//! The plugin attaches pods while the node file is there, so it is there exactly while nothing is
//! missing.

use std::path::PathBuf;

use culvert_node::node_file::NodeFile;

use crate::lifecycle::{Need, Readiness};

/// What was announced.
pub(super) struct Announcer {
    run_dir: PathBuf,
    readiness: Readiness,
    /// The node file as it was last written.
    written: Option<NodeFile>,
    was_ready: bool,
}

impl Announcer {
    pub(super) fn new(run_dir: PathBuf, readiness: Readiness) -> Self {
        Self { run_dir, readiness, written: None, was_ready: false }
    }

    pub(super) fn is_ready(&self) -> bool {
        self.readiness.is_ready()
    }

    /// Says why `what` is missing, or with `None` that it is there; answers whether that is news.
    pub(super) fn set(&self, what: Need, why: Option<String>) -> bool {
        let news = self.readiness.set(what, why.clone());
        match why {
            // A device gets its carrier a moment after its start.
            Some(why) if news && !self.was_ready && what == Need::Kernel => {
                tracing::info!(missing = %what, why, "this node is not ready yet");
            }
            Some(why) if news => tracing::error!(missing = %what, why, "this node is not ready"),
            Some(_) | None => {}
        }
        news
    }

    /// Writes `file` if nothing else is missing, and removes it otherwise; answers whether the node
    /// has become ready by it.
    pub(super) async fn announce(&mut self, file: &NodeFile) -> bool {
        if self.readiness.missing().iter().any(|missing| missing.what != Need::NodeFile) {
            self.withdraw();
            return false;
        }
        if self.written.as_ref() != Some(file) {
            let (file, run_dir) = (file.clone(), self.run_dir.clone());
            let written = tokio::task::spawn_blocking(move || file.write(&run_dir).map(|()| file));
            match written.await.unwrap_or_else(|panic| Err(std::io::Error::other(panic))) {
                Ok(file) => self.written = Some(file),
                Err(error) => {
                    let path = NodeFile::path(&self.run_dir);
                    let why = format!("writing {} failed: {error}", path.display());
                    self.set(Need::NodeFile, Some(why));
                    return false;
                }
            }
        }
        self.was_ready = true;
        self.set(Need::NodeFile, None)
    }

    /// Removes the node file: a pod that is attached now would have no network.
    fn withdraw(&mut self) {
        if self.written.take().is_none() {
            return;
        }
        self.readiness
            .set(Need::NodeFile, Some("removed until nothing else is missing".to_owned()));
        if let Err(error) = NodeFile::remove(&self.run_dir) {
            tracing::warn!(%error, "removing the node file failed");
        }
    }

    /// The end: nobody is to rely on this node from here on.
    ///
    /// # Errors
    ///
    /// The node file cannot be removed.
    pub(super) fn stop(&mut self) -> std::io::Result<()> {
        self.readiness.set(Need::Daemon, Some("stopping".to_owned()));
        self.written = None;
        NodeFile::remove(&self.run_dir)
    }
}
