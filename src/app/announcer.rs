//! Telling everybody else whether this node carries packets: the readiness and the node file.
//!
//! The plugin attaches pods while the node file is there, so it is there exactly while nothing is
//! missing.

use std::io;
use std::path::PathBuf;

use culvert_node::node_file::NodeFile;

use crate::lifecycle::{Need, Readiness};

/// What was announced.
pub(super) struct Announcer {
    run_dir: PathBuf,
    readiness: Readiness,
    /// The node file as it was last written, while it is true.
    written: Option<NodeFile>,
    /// Whether there may be one, true or not.
    is_there: bool,
    was_ready: bool,
}

impl Announcer {
    pub(super) fn new(run_dir: PathBuf, readiness: Readiness) -> Self {
        Self { run_dir, readiness, written: None, is_there: false, was_ready: false }
    }

    pub(super) fn is_ready(&self) -> bool {
        self.readiness.is_ready()
    }

    /// Whether the node has been ready once.
    pub(super) fn was_ready(&self) -> bool {
        self.was_ready
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

    /// Writes `file` if nothing else is missing, and removes it otherwise, and when it cannot be
    /// written; answers whether the node has become ready by it. What fails is tried again with the
    /// next call.
    pub(super) async fn announce(&mut self, file: &NodeFile) -> bool {
        if self.readiness.missing().iter().any(|missing| missing.what != Need::NodeFile) {
            self.withdraw();
            return false;
        }
        if self.written.as_ref() != Some(file) {
            let (file, run_dir) = (file.clone(), self.run_dir.clone());
            let written = tokio::task::spawn_blocking(move || file.write(&run_dir).map(|()| file));
            match written.await.unwrap_or_else(|panic| Err(io::Error::other(panic))) {
                Ok(file) => (self.written, self.is_there) = (Some(file), true),
                Err(error) => {
                    let why = self.give_up(&error);
                    self.set(Need::NodeFile, Some(why));
                    return false;
                }
            }
        }
        self.was_ready = true;
        self.set(Need::NodeFile, None)
    }

    /// Removes the node file that is no longer true, since the new one cannot be written: a pod
    /// would be attached by what it says. Says what is wrong.
    fn give_up(&mut self, error: &io::Error) -> String {
        self.written = None;
        let path = NodeFile::path(&self.run_dir);
        let why = format!("writing {} failed ({error}); make room for it or", path.display());
        let remedy = "make its directory writable, it is tried again";
        match self.remove() {
            Ok(()) => format!("{why} {remedy}. Until then there is none, and no pod is attached"),
            Err(stays) => format!(
                "{why} {remedy}. Until then pods are attached by an old one, which cannot be removed \
                 ({stays})"
            ),
        }
    }

    /// Removes the node file: a pod that is attached now would have no network.
    fn withdraw(&mut self) {
        if !self.is_there {
            return;
        }
        let is_news = self.written.take().is_some();
        self.readiness
            .set(Need::NodeFile, Some("removed until nothing else is missing".to_owned()));
        if let Err(error) = self.remove()
            && is_news
        {
            tracing::warn!(%error, "removing the node file failed; trying again");
        }
    }

    fn remove(&mut self) -> io::Result<()> {
        NodeFile::remove(&self.run_dir)?;
        self.is_there = false;
        Ok(())
    }

    /// The end: nobody is to rely on this node from here on.
    ///
    /// # Errors
    ///
    /// The node file cannot be removed.
    pub(super) fn stop(&mut self) -> io::Result<()> {
        self.readiness.set(Need::Daemon, Some("stopping".to_owned()));
        self.written = None;
        NodeFile::remove(&self.run_dir)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use culvert_node::whole_file;

    use super::*;

    fn file(mtu: u16) -> NodeFile {
        NodeFile {
            node: "node1".to_owned(),
            bridge: "v-net-0".to_owned(),
            mtu,
            gso_max_size: None,
            subnets: Vec::new(),
            cluster_networks: Vec::new(),
            masquerade: None,
            policy: false,
            own_ports: Vec::new(),
        }
    }

    #[tokio::test]
    async fn node_file_that_cannot_be_renewed_is_removed_and_tried_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = NodeFile::path(directory.path());
        let readiness = Readiness::new();
        let mut announcer = Announcer::new(directory.path().to_owned(), readiness.clone());
        announcer.set(Need::Table, None);
        announcer.set(Need::Kernel, None);
        assert!(announcer.announce(&file(1464)).await);
        // As on a full disk, but for root too.
        let obstacle = whole_file::partial_of(&path);
        fs::create_dir(&obstacle).unwrap();
        for _again in 0..2 {
            assert!(!announcer.announce(&file(1364)).await);
            assert!(!path.exists(), "pods would be attached with the old MTU");
            let missing = readiness.missing();
            assert_eq!(missing[0].what, Need::NodeFile);
            assert!(missing[0].why.contains("make room for it"), "{}", missing[0].why);
        }
        fs::remove_dir(&obstacle).unwrap();
        assert!(announcer.announce(&file(1364)).await);
        assert_eq!(NodeFile::read(directory.path()).unwrap(), file(1364));
    }

    #[tokio::test]
    async fn node_file_that_could_not_be_removed_is_removed_later() {
        let directory = tempfile::tempdir().unwrap();
        let path = NodeFile::path(directory.path());
        let mut announcer = Announcer::new(directory.path().to_owned(), Readiness::new());
        announcer.set(Need::Table, None);
        announcer.set(Need::Kernel, None);
        assert!(announcer.announce(&file(1464)).await);
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        announcer.set(Need::Kernel, Some("broken".to_owned()));
        assert!(!announcer.announce(&file(1464)).await);
        fs::remove_dir(&path).unwrap();
        fs::write(&path, "old").unwrap();
        assert!(!announcer.announce(&file(1464)).await);
        assert!(!path.exists());
    }
}
